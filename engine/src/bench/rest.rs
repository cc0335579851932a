//! HTTP/1.1 requests prepared beforehand, one at a time on a connection that is kept.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::drive::Caller;
use super::recorder::Failure;
use super::socket::Socket;
use super::spec::{Plan, Target};
use super::BenchError;

pub(super) struct RestCaller {
    target: Target,
    /// Absent while a request is out, so that one given up midway takes its connection with it.
    socket: Option<Socket>,
    request: Bytes,
    expected: Option<Bytes>,
    buffer: BytesMut,
}

impl Caller for RestCaller {
    async fn connect(plan: &Plan, callers: usize, _: usize) -> Result<Vec<Self>, BenchError> {
        let request = request(plan)?;
        let mut connected = Vec::with_capacity(callers);
        for _ in 0..callers {
            let socket = Socket::connect(&plan.target).await.map_err(|e| BenchError::Connect {
                address: plan.address.clone(),
                reason: e.to_string(),
            })?;
            connected.push(Self {
                target: plan.target.clone(),
                socket: Some(socket),
                request: request.clone(),
                expected: plan.expected.clone(),
                buffer: BytesMut::with_capacity(16 << 10),
            });
        }
        Ok(connected)
    }

    async fn call(&mut self) -> Result<usize, Failure> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::connect(&self.target).await.map_err(Failure::Connect)?,
        };
        self.buffer.clear();
        let lost = |e: std::io::Error| Failure::ConnectionLost(e.to_string());
        socket.write_all(&self.request).await.map_err(lost)?;
        let mut reader = ResponseReader::default();
        let response = loop {
            let read = socket.read_buf(&mut self.buffer).await.map_err(lost)?;
            let response =
                if read == 0 { reader.end()? } else { reader.advance(&mut self.buffer)? };
            if let Some(response) = response {
                break response;
            }
        };
        if response.keep_alive {
            self.socket = Some(socket);
        }
        self.check(&response)
    }
}

impl RestCaller {
    fn check(&self, response: &Response) -> Result<usize, Failure> {
        if !(200..300).contains(&response.status) {
            return Err(Failure::Http {
                status: response.status,
                body: String::from_utf8_lossy(&response.body).into_owned(),
            });
        }
        match &self.expected {
            Some(expected) if response.body != *expected => Err(Failure::UnexpectedBody(format!(
                "{} bytes that differ from the {} expected",
                response.body.len(),
                expected.len()
            ))),
            _ => Ok(response.body.len()),
        }
    }
}

fn request(plan: &Plan) -> Result<Bytes, BenchError> {
    let headers = plan.headers.iter().flat_map(|(name, value)| [name, value]);
    if headers.chain([&plan.verb, &plan.path]).any(|text| text.contains(['\r', '\n'])) {
        return Err(BenchError::Spec("no line may break in a header or the path".into()));
    }
    let has = |name: &str| plan.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut lines =
        vec![format!("{} {} HTTP/1.1", plan.verb, plan.path), format!("Host: {}", plan.authority)];
    if plan.verb != "GET" || !plan.body.is_empty() {
        lines.push(format!("Content-Length: {}", plan.body.len()));
    }
    if !plan.body.is_empty() && !has("content-type") {
        lines.push("Content-Type: application/json".into());
    }
    lines.extend(plan.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    let mut request = BytesMut::from(lines.join("\r\n").as_bytes());
    request.extend_from_slice(b"\r\n\r\n");
    request.extend_from_slice(&plan.body);
    Ok(request.freeze())
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    body: Bytes,
    keep_alive: bool,
}

/// One response as it arrives in pieces.
#[derive(Debug, Default)]
struct ResponseReader {
    state: ReadState,
    status: u16,
    keep_alive: bool,
    body: BytesMut,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum ReadState {
    #[default]
    Head,
    Length(usize),
    ChunkSize,
    ChunkData(usize),
    Trailer,
    UntilClose,
}

impl ResponseReader {
    /// Take what `buffer` holds, and return the response when it is complete.
    fn advance(&mut self, buffer: &mut BytesMut) -> Result<Option<Response>, Failure> {
        loop {
            match self.state {
                ReadState::Head => {
                    if !self.read_head(buffer)? {
                        return Ok(None);
                    }
                }
                ReadState::Length(length) => {
                    if buffer.len() < length {
                        buffer.reserve(length - buffer.len());
                        return Ok(None);
                    }
                    self.body = buffer.split_to(length);
                    return Ok(Some(self.finish()));
                }
                ReadState::ChunkSize => match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((used, size))) => {
                        buffer.advance(used);
                        self.state = match usize::try_from(size) {
                            Ok(0) => ReadState::Trailer,
                            Ok(size) => ReadState::ChunkData(size),
                            Err(_) => return Err(bad("a chunk too large")),
                        };
                    }
                    Ok(httparse::Status::Partial) => return Ok(None),
                    Err(_) => return Err(bad("a chunk without a size")),
                },
                ReadState::ChunkData(size) => {
                    if buffer.len() < size + 2 {
                        return Ok(None);
                    }
                    self.body.extend_from_slice(&buffer.split_to(size));
                    buffer.advance(2);
                    self.state = ReadState::ChunkSize;
                }
                ReadState::Trailer => match memchr::memchr(b'\n', buffer) {
                    Some(end) => {
                        let line = buffer.split_to(end + 1);
                        if line.trim_ascii().is_empty() {
                            return Ok(Some(self.finish()));
                        }
                    }
                    None => return Ok(None),
                },
                ReadState::UntilClose => {
                    self.body.extend_from_slice(&buffer.split());
                    return Ok(None);
                }
            }
        }
    }

    /// The peer has closed: only one kind of response ends so.
    fn end(&mut self) -> Result<Option<Response>, Failure> {
        match self.state {
            ReadState::UntilClose => Ok(Some(self.finish())),
            _ => Err(Failure::ConnectionLost("closed before the response was complete".into())),
        }
    }

    fn read_head(&mut self, buffer: &mut BytesMut) -> Result<bool, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let used = match head.parse(buffer) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(e) => return Err(bad(&format!("not HTTP: {e}"))),
        };
        self.status = head.code.unwrap_or(0);
        self.keep_alive = head.version == Some(1);
        self.state = ReadState::UntilClose;
        for header in head.headers.iter() {
            let value = std::str::from_utf8(header.value).unwrap_or("").trim();
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| bad("a length that is no number"))?;
                self.state = ReadState::Length(length);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                self.state = ReadState::ChunkSize;
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.keep_alive = !value.eq_ignore_ascii_case("close")
                    && (self.keep_alive || value.eq_ignore_ascii_case("keep-alive"));
            }
        }
        match self.status {
            // An interim answer; the real one follows.
            100..200 => self.state = ReadState::Head,
            204 | 304 => self.state = ReadState::Length(0),
            _ => {}
        }
        if self.state == ReadState::UntilClose {
            self.keep_alive = false;
        }
        buffer.advance(used);
        Ok(true)
    }

    fn finish(&mut self) -> Response {
        Response {
            status: self.status,
            body: self.body.split().freeze(),
            keep_alive: self.keep_alive,
        }
    }
}

fn bad(message: &str) -> Failure {
    Failure::Protocol(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Result<Response, String> {
        let mut reader = ResponseReader::default();
        let mut buffer = BytesMut::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            match reader.advance(&mut buffer) {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(e) => return Err(e.kind()),
            }
        }
        reader.end().map_err(|e| e.kind())?.ok_or_else(|| "incomplete".into())
    }

    #[test]
    fn bodies_end_by_length_by_chunk_or_by_close() {
        for (bytes, body, keep_alive) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"[..], &b"abc"[..], true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"", false),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nT: 1\r\n\r\n",
                b"abc",
                true,
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc", false),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", false),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", b"a", true),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", true),
        ] {
            let response = read(&[bytes]).expect("a response");

            assert_eq!(response, Response { status: 200, body: body.into(), keep_alive });
        }
    }

    #[test]
    fn a_request_says_how_long_it_is_and_what_it_holds() {
        let plan = |changes: serde_json::Value| {
            let mut json = serde_json::json!({
                "protocol": "rest",
                "address": "127.0.0.1:8501",
                "path": "/v1",
                "load": {"mode": "closed", "in_flight": 1},
                "requests": 1,
            });
            for (key, value) in changes.as_object().expect("an object") {
                json[key] = value.clone();
            }
            let spec: super::super::Spec = serde_json::from_value(json).expect("a spec");
            spec.plan().expect("a plan")
        };
        let written = |changes| request(&plan(changes)).map(|bytes| bytes.to_vec()).ok();

        assert_eq!(
            written(serde_json::json!({"body_base64": "e30=", "headers": {"A": "b"}})).as_deref(),
            Some(
                &b"POST /v1 HTTP/1.1\r\nHost: 127.0.0.1:8501\r\nContent-Length: 2\r\n\
                Content-Type: application/json\r\nA: b\r\n\r\n{}"[..]
            )
        );
        assert_eq!(
            written(serde_json::json!({"verb": "GET"})).as_deref(),
            Some(&b"GET /v1 HTTP/1.1\r\nHost: 127.0.0.1:8501\r\n\r\n"[..])
        );
        assert_eq!(written(serde_json::json!({"headers": {"A": "b\r\nC: d"}})), None);
    }

    #[test]
    fn what_is_not_a_response_is_an_error() {
        assert_eq!(read(&[b"nonsense\r\n\r\n"]), Err("protocol".into()));
        assert_eq!(
            read(&[b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]),
            Err("protocol".into())
        );
        assert_eq!(
            read(&[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"]),
            Err("connection lost".into())
        );
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in proptest::collection::vec(1_usize..20, 0..20)) {
            let whole =
                &b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n3\r\nabc\r\n0\r\n\r\n"[..];
            let mut pieces = Vec::new();
            let mut rest = whole;
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            let response = read(&pieces).expect("a response");

            prop_assert_eq!(response.status, 503);
            prop_assert_eq!(&response.body[..], b"0123456789abc");
        }
    }
}
