//! The API over real sockets, and connections of slow peers with a clock that is not real.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout, Instant};

use super::head::{Head, Limits as RequestLimits};
use super::*;
use crate::admission::{Admission, Limits, Permit};
use crate::app::Options;
use crate::inference::model_status::VersionStatus;
use crate::servable::RunOptions;
use crate::servable::{Servable, Signature, Signatures, TensorInfo};
use crate::serving_map::{Model, Released, ServableHandle, Snapshot};
use crate::status::Result;
use crate::tensor::{Buffer, DType, Tensor};

/// Doubles what it is fed; signature `wait` waits first.
struct Doubler {
    signatures: Signatures,
    map: Bytes,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Doubler {
    fn new(gate: mpsc::Receiver<()>) -> Self {
        let info = |name: &str, dtype: DType| TensorInfo {
            name: name.to_owned(),
            dtype: dtype.number(),
            shape: None,
        };
        let signature = |input: (&str, TensorInfo), output: (&str, TensorInfo)| Signature {
            inputs: [(input.0.to_owned(), input.1)].into(),
            outputs: [(output.0.to_owned(), output.1)].into(),
            ..Signature::default()
        };
        let signatures = [
            (
                "serving_default",
                signature(("x", info("x:0", DType::Float)), ("y", info("y:0", DType::Float))),
            ),
            (
                "wait",
                signature(("x", info("wait:0", DType::Float)), ("y", info("y:0", DType::Float))),
            ),
            (
                "count",
                signature(
                    ("inputs", info("examples:0", DType::String)),
                    ("outputs", info("y:0", DType::Float)),
                ),
            ),
        ];
        let signatures: BTreeMap<_, _> =
            signatures.into_iter().map(|(name, signature)| (name.to_owned(), signature)).collect();
        Self { signatures, map: Bytes::new(), gate: Mutex::new(gate) }
    }
}

impl Servable for Doubler {
    fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    fn signature_def_map(&self) -> &Bytes {
        &self.map
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        _: &[String],
        _: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let (name, tensor) = &feeds[0];
        if name == "wait:0" {
            // It ends when the test lets it go on, or is over.
            let _ = self.gate.lock().unwrap().recv();
        }
        let values: Vec<f32> = match tensor.as_strings() {
            #[allow(clippy::cast_precision_loss)]
            Some(strings) => strings.iter().map(|example| example.len() as f32).collect(),
            None => {
                let values: &[f32] = tensor.buffer().unwrap().elements();
                values.iter().map(|value| value * 2.0).collect()
            }
        };
        let mut buffer = Buffer::zeroed(size_of_val(&*values));
        buffer.elements_mut().copy_from_slice(&values);
        Ok(vec![Tensor::dense(DType::Float, tensor.shape().to_vec(), buffer)])
    }
}

/// A server on a port of its own.
struct Running {
    port: u16,
    app: Arc<App>,
    /// Lets one `wait` go on.
    gate: mpsc::Sender<()>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(options: Options) -> Self {
        let app = Arc::new(App::new(options));
        let (gate, waits) = mpsc::channel();
        let released = Released::default();
        let handle =
            ServableHandle::new("m".to_owned(), 1, Arc::new(Doubler::new(waits)), &released);
        let mut model = Model::default();
        model.versions.insert(1, Arc::new(handle));
        app.map.publish(Snapshot { models: [("m".to_owned(), model)].into() });
        let state = VersionStatus {
            version: 1,
            state: 30,
            code: crate::status::Code::Ok,
            message: String::new(),
        };
        app.states.set("m", state);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let pages: HashMap<String, Page> = [(
            "/page".to_owned(),
            Arc::new(|target: &str| Reply::new(200, "text/plain", target.as_bytes().to_vec()))
                as Page,
        )]
        .into();
        let serving = app.clone();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve_pages(serving, pages, listener, None, stopped).await;
        });
        Self { port, app, gate, stop: Some(stop), task }
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap())
    }

    /// The one answer to a request on a connection of its own.
    async fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(&request(method, target, body)).await;
        client.receive().await
    }
}

fn request(method: &str, target: &str, body: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
}

fn predict(body: &str) -> Vec<u8> {
    request("POST", "/v1/models/m:predict", body)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line == field)
    }
}

struct Client<S>(S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Answer {
        self.receive_to("GET").await
    }

    async fn receive_to(&mut self, method: &str) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length =
            length.filter(|_| method != "HEAD").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Answer { status, head, body }
    }

    /// What else comes before the other side closes.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        rest
    }
}

const DOUBLED: &str = "{\n    \"predictions\": [2.0, 4.0\n    ]\n}";

#[tokio::test]
async fn a_connection_answers_one_request_after_another() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    let one = predict(r#"{"instances": [1, 2]}"#);
    client.send(&[one.clone(), one.clone()].concat()).await;

    for _ in 0..2 {
        let answer = client.receive().await;
        assert_eq!((answer.status, answer.text()), (200, DOUBLED));
        assert!(answer.has("Content-Type: application/json"));
        assert!(!answer.head.contains("Connection"));
    }
    let (start, end) = one.split_at(30);
    client.send(start).await;
    tokio::task::yield_now().await;
    client.send(end).await;
    assert_eq!(client.receive().await.text(), DOUBLED);
}

#[tokio::test]
async fn http_1_0_ends_with_the_answer_unless_asked_not_to() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    client.send(b"GET /v1/models/m HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = client.receive().await;
    assert!(answer.head.starts_with("HTTP/1.0 200") && answer.has("Connection: keep-alive"));

    client.send(b"GET /v1/models/m HTTP/1.0\r\n\r\n").await;
    assert!(client.receive().await.has("Connection: close"));
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_body_may_come_in_chunks() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    let chunked = b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(chunked).await;
    client.send(b"9;ext=1\r\n{\"instanc\r\nc\r\nes\": [1, 2]}\r\n0\r\nTrailer: x\r\n\r\n").await;
    assert_eq!(client.receive().await.text(), DOUBLED);

    client.send(&predict(r#"{"instances": [1, 2]}"#)).await;
    assert_eq!(client.receive().await.text(), DOUBLED);
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_continue() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    client
        .send(b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 21\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.receive().await.head, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(br#"{"instances": [1, 2]}"#).await;
    assert_eq!(client.receive().await.text(), DOUBLED);
}

#[tokio::test]
async fn everything_is_answered_as_recorded() {
    let server = Running::start(Options::default()).await;
    let error = |text: &str| format!("{{\n    \"error\": \"{text}\"\n}}");
    let status = "{\n \"model_version_status\": [\n  {\n   \"version\": \"1\",\n   \"state\": \
        \"AVAILABLE\",\n   \"status\": {\n    \"error_code\": \"OK\",\n    \"error_message\": \
        \"\"\n   }\n  }\n ]\n}\n";
    for (method, target, body, code, expected) in [
        ("POST", "/v1/models/m:predict", r#"{"instances": [1, 2]}"#, 200, DOUBLED.to_owned()),
        ("POST", "/v1/models/m:predict", r#"{"inputs": 1}"#, 200, "{\n    \"outputs\": 2.0\n}".to_owned()),
        ("POST", "/v1/models/m:regress", r#"{"signature_name": "count", "examples": [{}]}"#, 200, "{\n    \"results\": [2.0]\n}".to_owned()),
        ("POST", "/v1/models/m:classify", r#"{"signature_name": "count", "examples": [{}]}"#, 400, error("Expected classification signature outputs to contain at least one of \\\"classes\\\" or \\\"scores\\\". Signature was: ")),
        ("POST", "/v1/models/n:classify", "{}", 400, error("JSON Value: {} When method is classify, key 'examples' is expected and was not found")),
        ("POST", "/v1/models/n:predict", "", 400, error("JSON Parse error: The document is empty")),
        ("POST", "/v1/models/n:predict", "{}", 404, error("Servable not found for request: Latest(n)")),
        ("POST", "/v1/models/m:predict", r#"{"signature_name": "z"}"#, 400, error("Serving signature name: \\\"z\\\" not found in signature def")),
        ("POST", "/v1/models/n:predict", r#"{"signature_name": 5}"#, 400, error("JSON Value: {\\n    \\\"signature_name\\\": 5\\n} not formatted correctly. 'signature_name' key must be a string value.")),
        ("POST", "/v1/models/m/labels/x:predict", "{}", 400, error("Unrecognized servable version label: x")),
        ("POST", "/v1/models/m/versions/99999999999999999999:predict", "{}", 400, String::new()),
        ("POST", "/v1/models/m:train", "{}", 400, error("Malformed request: POST /v1/models/m:train")),
        ("GET", "/v1/models/m", "", 200, status.to_owned()),
        ("GET", "/v1/models/m/labels/any", "body", 200, status.to_owned()),
        ("GET", "/v1/models/m/versions/2", "", 404, error("Could not find version 2 of model m")),
        ("GET", "/v1/models/m/metadata", "", 200, "{\n\"model_spec\":{\n \"name\": \"m\",\n \"version\": \"1\",\n \"signature_name\": \"\"\n}\n,\n\"metadata\": {\"signature_def\": {\n \"signature_def\": {}\n}\n}\n}\n".to_owned()),
        ("GET", "/v1/models", "", 400, error("Missing model name in request.")),
        ("GET", "/page?x", "", 200, "/page?x".to_owned()),
    ] {
        let answer = server.ask(method, target, body).await;
        assert_eq!((answer.status, answer.text()), (code, &*expected), "{method} {target} {body}");
    }
    for (method, target, code) in [
        ("GET", "/", 404),
        ("DELETE", "/x", 404),
        ("OPTIONS", "*", 404),
        ("GET", "/v1/models/%zz", 400),
        ("get", "/v1/models/m", 501),
        ("TRACE", "/v1/models/m", 501),
        ("CONNECT", "host:80", 501),
    ] {
        let answer = server.ask(method, target, "").await;
        assert_eq!(answer.status, code, "{method} {target}");
        assert!(answer.has("Content-Type: text/html") && answer.has("Connection: close"));
    }
}

#[tokio::test]
async fn a_head_request_gets_no_body() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    client.send(&request("HEAD", "/v1/models/m", "")).await;
    let answer = client.receive_to("HEAD").await;
    assert_eq!(answer.status, 400);
    assert!(!answer.has("Content-Length: 0"));

    client.send(&predict(r#"{"instances": [1, 2]}"#)).await;
    assert_eq!(client.receive().await.text(), DOUBLED);
}

#[tokio::test]
async fn other_origins_may_read_when_the_option_says_so() {
    let allowed = "Access-Control-Allow-Origin: *";
    for enabled in [false, true] {
        let options = Options { rest_enable_cors: enabled, ..Options::default() };
        let server = Running::start(options).await;
        for (origin, status) in [("http://a", 200), ("x-https://y", 200), ("null", 400)] {
            let mut client = server.connect().await;
            let head = format!("OPTIONS /v1/any HTTP/1.1\r\nOrigin: {origin}\r\n\r\n");
            client.send(head.as_bytes()).await;
            let answer = client.receive().await;
            assert_eq!((answer.status, answer.text()), (status, ""));
            assert!(answer.has("Content-Type: text/html; charset=ISO-8859-1"));
            assert_eq!(answer.has(allowed), enabled);
        }
        assert_eq!(server.ask("GET", "/v1/models/n", "").await.has(allowed), enabled);
        assert!(!server.ask("GET", "/elsewhere", "").await.has(allowed));
    }
}

#[tokio::test]
async fn an_ambiguous_request_gets_one_answer_and_ends_the_connection() {
    let server = Running::start(Options::default()).await;
    let post = "POST /v1/models/m:predict HTTP/1.1\r\n";
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
    for (first, status) in [
        (format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Content-Length: 0\r\nContent-Length: 44\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}A: b\r\n c\r\n\r\n"), 400),
        (format!("{post}A: b\nContent-Length: 44\r\n\r\n"), 400),
        (format!("{chunked}0x1\r\nA\r\n0\r\n\r\n"), 400),
        (format!("{chunked}+1\r\nA\r\n0\r\n\r\n"), 400),
        (format!("{chunked}-1\r\nA\r\n0\r\n\r\n"), 400),
        (format!("{chunked}1\r\nAB\r\n0\r\n\r\n"), 400),
        (format!("{chunked}1\nA\r\n0\r\n\r\n"), 400),
        (format!("{chunked}\r\n\r\n"), 400),
        (format!("{chunked}FFFFFFFFFFFFFFFF\r\nA\r\n"), 400),
        (format!("{chunked}FFFFFFFFFFFFFFF\r\nA\r\n"), 413),
        (format!("{chunked}1;{}\r\nA\r\n", "e".repeat(300)), 400),
        (format!("{chunked}0\r\n{}: x\r\n\r\n", "t".repeat(20_000)), 400),
    ] {
        let mut client = server.connect().await;
        client.send(first.as_bytes()).await;
        client.send(b"GET /v1/models/m HTTP/1.1\r\n\r\n").await;
        let answer = client.receive().await;
        assert_eq!(answer.status, status, "{first:?}");
        assert!(answer.has("Connection: close"));
        assert_eq!(client.rest().await, b"", "{first:?}");
    }
}

#[tokio::test]
async fn a_body_has_a_limit_to_the_byte() {
    let document = r#"{"instances": [1, 2]}"#;
    let options = Options { max_body_bytes: document.len(), ..Options::default() };
    let server = Running::start(options).await;
    let longer = format!("{document} ");
    assert_eq!(server.ask("POST", "/v1/models/m:predict", document).await.status, 200);
    assert_eq!(server.ask("POST", "/v1/models/m:predict", &longer).await.status, 413);
    for (body, status) in [(document, 200), (&*longer, 413)] {
        let mut client = server.connect().await;
        let head = "POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(head.as_bytes()).await;
        client.send(format!("5\r\n{}\r\n", &body[..5]).as_bytes()).await;
        client
            .send(format!("{:x}\r\n{}\r\n0\r\n\r\n", body.len() - 5, &body[5..]).as_bytes())
            .await;
        assert_eq!(client.receive().await.status, status);
    }
}

#[tokio::test]
async fn a_body_has_so_many_chunks_and_no_more() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    client.send(b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunks = b"1\r\n \r\n".repeat(65_537);
    // The server may close before it has read them all.
    let _ = client.0.write_all(&chunks).await;
    assert_eq!(client.receive().await.status, 413);
}

#[tokio::test]
async fn a_compressed_body_is_inflated_and_a_bomb_is_refused() {
    use std::io::Write;
    let compress = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let server = Running::start(Options::default()).await;
    for (body, status) in [
        (compress(br#"{"instances": [1, 2]}"#), 200),
        (br#"{"instances": [1, 2]}"#.to_vec(), 400),
        (compress(&vec![b' '; 4 << 20]), 413),
    ] {
        let mut client = server.connect().await;
        let head = format!(
            "POST /v1/models/m:predict HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: \
             {}\r\n\r\n",
            body.len()
        );
        client.send(head.as_bytes()).await;
        client.send(&body).await;
        assert_eq!(client.receive().await.status, status);
    }
}

#[tokio::test]
async fn large_and_deep_documents_are_answered() {
    let server = Running::start(Options::default()).await;
    let predict = "/v1/models/m:predict";
    let numbers = vec!["[1.5, 2.25]"; 50_000].join(",");
    let answer = server.ask("POST", predict, &format!("{{\"instances\": [{numbers}]}}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text().matches("[3.0, 4.5]").count(), 50_000);

    let depth = 500_000;
    let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let ignored = format!("{{\"instances\": [1, 2], \"ignored\": {deep}}}");
    assert_eq!(server.ask("POST", predict, &ignored).await.text(), DOUBLED);
    let meant = format!("{{\"instances\": {deep}}}");
    assert_eq!(server.ask("POST", predict, &meant).await.status, 400);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_given_up() {
    let options = Options { rest_timeout_ms: 20, ..Options::default() };
    let server = Running::start(options).await;
    let body = r#"{"signature_name": "wait", "instances": [1]}"#;
    let answer = server.ask("POST", "/v1/models/m:predict", body).await;

    assert_eq!(answer.status, 504);
    assert_eq!(answer.text(), "{\n    \"error\": \"Timed out waiting for notification\"\n}");
    server.gate.send(()).unwrap();
}

#[tokio::test]
async fn a_server_that_leaves_answers_on_and_lets_go_of_each_connection() {
    let server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    client.send(&predict(r#"{"instances": [1, 2]}"#)).await;
    assert!(!client.receive().await.has("Connection: close"));

    server.app.leave();
    client.send(&predict(r#"{"instances": [1, 2]}"#)).await;
    let answer = client.receive().await;
    assert_eq!(answer.status, 200);
    assert!(answer.has("Connection: close"));
    assert_eq!(client.rest().await, b"");
    assert_eq!(
        server.ask("POST", "/v1/models/m:predict", r#"{"instances": [1]}"#).await.status,
        200
    );
}

#[tokio::test]
async fn who_has_connected_when_the_server_stops_may_still_ask_once() {
    let mut server = Running::start(Options::default()).await;
    let mut client = server.connect().await;
    server.stop.take().unwrap().send(()).unwrap();
    client.send(&predict(r#"{"instances": [1, 2]}"#)).await;

    assert_eq!(client.receive().await.text(), DOUBLED);
    server.task.await.unwrap();
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_closes_what_is_idle() {
    let mut server = Running::start(Options::default()).await;
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    idle.send(&predict(r#"{"instances": [1, 2]}"#)).await;
    idle.receive().await;
    busy.send(&predict(r#"{"signature_name": "wait", "instances": [1, 2]}"#)).await;
    // The run holds the version; when somebody besides the map does, it has begun.
    let snapshot = server.app.map.snapshot();
    let version = &snapshot.models["m"].versions[&1];
    while Arc::strong_count(version) == 1 {
        tokio::task::yield_now().await;
    }

    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(idle.rest().await, b"");
    assert!(TcpStream::connect(("127.0.0.1", server.port)).await.is_err());
    server.gate.send(()).unwrap();
    let answer = busy.receive().await;
    assert_eq!(answer.text(), DOUBLED);
    assert!(answer.has("Connection: close"));
    assert_eq!(busy.rest().await, b"");
    server.task.await.unwrap();
}

/// Answers with as many bytes as it is asked for by the length of the body.
struct Echo;

impl connection::Service for Echo {
    fn permit(&self) -> Arc<Permit> {
        let admission = Admission::new(Limits { bytes: 1 << 20, ..Limits::NONE });
        let other = admission.permit();
        other.charge(1).unwrap();
        std::mem::forget(other);
        Arc::new(admission.permit())
    }

    async fn answer(&self, _: &Head, body: Vec<u8>, _: Arc<Permit>) -> Reply {
        Reply::new(200, "text/plain", body)
    }

    fn refusal(&self, head: &Head) -> Option<Reply> {
        (head.target == "/refused").then(|| Reply::page(401))
    }

    fn limits(&self) -> RequestLimits {
        RequestLimits::of(&Options { max_body_bytes: 8 << 20, ..Options::default() })
    }

    fn is_leaving(&self) -> bool {
        false
    }
}

/// A connection of a peer that is slow on purpose, the pipe no wider than `width`.
fn slow(width: usize) -> (Client<DuplexStream>, tokio::task::JoinHandle<()>) {
    let (near, far) = duplex(width);
    let task = tokio::spawn(async move {
        let (_stop, stopping) = watch::channel(false);
        connection::serve(far, BytesMut::new(), &Echo, stopping).await;
    });
    (Client(near), task)
}

#[tokio::test(start_paused = true)]
async fn the_body_of_who_is_refused_is_not_waited_for() {
    let (mut client, _task) = slow(1 << 16);
    client.send(b"POST /refused HTTP/1.1\r\nContent-Length: 1000\r\n\r\n").await;

    let answer = String::from_utf8(client.rest().await).unwrap();

    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
    assert!(answer.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_without_a_word() {
    let (mut client, _task) = slow(1 << 16);
    client.send(&request("POST", "/", "x")).await;
    client.receive().await;
    let before = Instant::now();

    assert_eq!(client.rest().await, b"");
    assert_eq!(before.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds_however_it_trickles() {
    let (mut client, _task) = slow(1 << 16);
    let before = Instant::now();
    for byte in b"GET / HT" {
        client.send(&[*byte]).await;
        sleep(Duration::from_secs(1)).await;
    }

    assert_eq!(client.receive().await.status, 408);
    assert_eq!(before.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_body_needs_a_kilobyte_a_second() {
    let head = b"POST / HTTP/1.1\r\nContent-Length: 48000\r\n\r\n";
    let (mut client, _task) = slow(1 << 16);
    client.send(head).await;
    for _ in 0..40 {
        sleep(Duration::from_millis(1100)).await;
        client.send(&[b'x'; 1200]).await;
    }
    assert_eq!(client.receive().await.status, 200);

    // What came at once earns no rest.
    for already in [0, 40_000] {
        let (mut client, _task) = slow(1 << 16);
        client.send(head).await;
        client.send(&vec![b'x'; already]).await;
        let before = Instant::now();
        assert_eq!(client.receive().await.status, 408);
        assert_eq!(before.elapsed().as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrives_is_charged_as_it_arrives() {
    // The permit of these tests has a mebibyte, and somebody else holds some of it.
    let (mut client, _task) = slow(1 << 16);
    client.send(b"POST / HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n").await;
    // It is refused before all of that is read.
    let _ = client.0.write_all(&vec![b'x'; 1 << 20]).await;
    let answer = client.receive().await;

    assert_eq!(answer.status, 429);
    assert!(answer.has("Retry-After: 1"), "{}", answer.head);
    assert!(answer.text().contains("--max_in_flight_bytes allows 1048576"), "{}", answer.text());
}

#[tokio::test]
async fn what_waits_for_a_client_that_has_left_is_not_run() {
    let server = Running::start(Options { compute_threads: 1, ..Options::default() }).await;
    let waits = predict(r#"{"signature_name": "wait", "instances": [1.0]}"#);
    let moment = Duration::from_millis(1);
    let mut first = server.connect().await;
    first.send(&waits).await;
    while server.app.admission.requests() < 1 || server.app.compute.queue_depth() > 0 {
        sleep(moment).await;
    }
    let mut second = server.connect().await;
    second.send(&waits).await;
    while server.app.compute.queue_depth() == 0 {
        sleep(moment).await;
    }

    drop((first, second));
    while server.app.admission.requests() > 0 {
        sleep(moment).await;
    }
    // One ends the run that goes on; had the other begun, it would take what is for the third.
    server.gate.send(()).unwrap();
    server.gate.send(()).unwrap();
    let mut third = server.connect().await;
    third.send(&waits).await;
    let answer = timeout(Duration::from_secs(20), third.receive()).await.expect("an answer");

    assert_eq!(answer.status, 200);
    assert_eq!((server.app.admission.requests(), server.app.admission.bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_given_up() {
    let (mut client, task) = slow(1 << 10);
    let body = "x".repeat(100_000);
    let before = Instant::now();
    // Nothing is read, so writing the answer comes to a stop.
    client.send(&request("POST", "/", &body)).await;

    timeout(Duration::from_secs(100), task).await.unwrap().unwrap();
    assert_eq!(before.elapsed().as_secs(), 30);
}
