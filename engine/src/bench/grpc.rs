//! Unary gRPC calls with a message framed beforehand.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::drive::Caller;
use super::recorder::Failure;
use super::socket::Socket;
use super::spec::{Plan, Target};
use super::BenchError;

/// Large enough that no answer of a benchmark waits for a window.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// One connection that several callers share, made anew when it breaks.
struct Channel {
    target: Target,
    connection: RefCell<Option<Connection>>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Bytes>,
    generation: u64,
}

impl Channel {
    /// The connection there is, or one newer than `broken`.
    async fn connection(&self, broken: Option<u64>) -> Result<Connection, Failure> {
        let usable =
            || self.connection.borrow().clone().filter(|c| broken.is_none_or(|b| c.generation > b));
        if let Some(connection) = usable() {
            return Ok(connection);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(connection) = usable() {
            return Ok(connection);
        }
        let socket = Socket::connect(&self.target).await.map_err(Failure::Connect)?;
        let (sender, driver) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(1 << 20)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(|e| Failure::ConnectionLost(e.to_string()))?;
        // Its error reaches every call that is waiting for an answer.
        tokio::task::spawn_local(async move { drop(driver.await) });
        let connection = Connection { sender, generation: broken.map_or(0, |b| b + 1) };
        *self.connection.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }
}

/// One request at a time on a connection that others use as well.
pub(super) struct GrpcCaller {
    channel: Rc<Channel>,
    connection: Connection,
    broken: bool,
    request: Request<()>,
    framed: Bytes,
    expected: Option<Bytes>,
}

impl Caller for GrpcCaller {
    async fn connect(
        plan: &Plan,
        callers: usize,
        connections: usize,
    ) -> Result<Vec<Self>, BenchError> {
        let request = request(plan)?;
        let framed = frame(&plan.body);
        let mut channels = Vec::new();
        for _ in 0..connections.min(callers) {
            let channel = Rc::new(Channel {
                target: plan.target.clone(),
                connection: RefCell::new(None),
                connecting: tokio::sync::Mutex::new(()),
            });
            let connection = channel.connection(None).await.map_err(|e| BenchError::Connect {
                address: plan.address.clone(),
                reason: e.to_string(),
            })?;
            channels.push((channel, connection));
        }
        let caller = |(channel, connection): &(Rc<Channel>, Connection)| Self {
            channel: Rc::clone(channel),
            connection: connection.clone(),
            broken: false,
            request: request.clone(),
            framed: framed.clone(),
            expected: plan.expected.clone(),
        };
        Ok(channels.iter().cycle().take(callers).map(caller).collect())
    }

    async fn call(&mut self) -> Result<usize, Failure> {
        if self.broken {
            self.connection = self.channel.connection(Some(self.connection.generation)).await?;
            self.broken = false;
        }
        let outcome = self.exchange().await;
        self.broken = matches!(outcome, Err(Failure::ConnectionLost(_)));
        outcome
    }
}

impl GrpcCaller {
    async fn exchange(&mut self) -> Result<usize, Failure> {
        let sender = &mut self.connection.sender;
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|e| broken(&e))?;
        let (response, mut stream) =
            sender.send_request(self.request.clone(), false).map_err(|e| broken(&e))?;
        stream.send_data(self.framed.clone(), true).map_err(|e| broken(&e))?;
        let response = response.await.map_err(|e| broken(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(Failure::Http {
                status: response.status().as_u16(),
                body: "the answer is not gRPC".into(),
            });
        }
        let (head, mut body) = response.into_parts();
        let mut answer = Answer::new(self.expected.is_some());
        while let Some(data) = body.data().await {
            let data = data.map_err(|e| broken(&e))?;
            // Windows are larger than answers, but not than all of them together.
            drop(body.flow_control().release_capacity(data.len()));
            answer.push(&data);
        }
        let trailers = body.trailers().await.map_err(|e| broken(&e))?;
        check_status(trailers.as_ref().unwrap_or(&head.headers))?;
        answer.check(self.expected.as_ref())
    }
}

/// The length-prefixed message of an answer; its bytes are kept only if they are compared.
struct Answer {
    keep: bool,
    length: usize,
    bytes: BytesMut,
}

impl Answer {
    fn new(keep: bool) -> Self {
        Self { keep, length: 0, bytes: BytesMut::new() }
    }

    fn push(&mut self, data: &[u8]) {
        self.length += data.len();
        if self.keep {
            self.bytes.extend_from_slice(data);
        }
    }

    fn check(self, expected: Option<&Bytes>) -> Result<usize, Failure> {
        if self.length < 5 {
            return Err(Failure::Protocol(format!("an answer of {} bytes", self.length)));
        }
        match expected {
            Some(expected) if self.bytes[5..] != expected[..] => {
                Err(Failure::UnexpectedBody(format!(
                    "{} bytes that differ from the {} expected",
                    self.length - 5,
                    expected.len()
                )))
            }
            _ => Ok(self.length - 5),
        }
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), Failure> {
    let code = headers
        .get("grpc-status")
        .and_then(|v| v.to_str().ok()?.parse().ok())
        .ok_or_else(|| Failure::Protocol("an answer without grpc-status".into()))?;
    if code == 0 {
        return Ok(());
    }
    let message = headers.get("grpc-message").map_or_else(String::new, percent_decode);
    Err(Failure::Grpc { code, message })
}

fn percent_decode(value: &HeaderValue) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A stream that the server reset leaves the connection usable; anything else does not.
fn broken(error: &h2::Error) -> Failure {
    if error.is_reset() && error.is_remote() {
        Failure::Protocol(error.to_string())
    } else {
        Failure::ConnectionLost(error.to_string())
    }
}

fn request(plan: &Plan) -> Result<Request<()>, BenchError> {
    let invalid = |e: http::Error| BenchError::Spec(e.to_string());
    let uri = Uri::builder()
        .scheme("http")
        .authority(plan.authority.as_str())
        .path_and_query(plan.path.as_str())
        .build()
        .map_err(invalid)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    for (name, value) in &plan.headers {
        let name =
            HeaderName::try_from(name.to_ascii_lowercase()).map_err(|e| invalid(e.into()))?;
        headers.append(name, HeaderValue::try_from(value).map_err(|e| invalid(e.into()))?);
    }
    Ok(request)
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_framed_with_its_length() {
        assert_eq!(&frame(b"abc")[..], b"\0\0\0\0\x03abc");
    }

    #[test]
    fn the_status_of_an_answer_is_its_code_and_decoded_text() {
        let mut headers = HeaderMap::new();
        assert!(matches!(check_status(&headers), Err(Failure::Protocol(_))));

        headers.insert("grpc-status", HeaderValue::from_static("5"));
        headers.insert("grpc-message", HeaderValue::from_static("no 100%25 %C3%A9 %"));
        let failure = check_status(&headers).expect_err("not OK");
        assert_eq!(failure.kind(), "grpc 5 NOT_FOUND");
        assert_eq!(failure.to_string(), "no 100% é %");

        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(check_status(&headers).is_ok());
    }
}
