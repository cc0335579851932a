//! The head of a request, read strictly.
//!
//! What two servers could understand differently is refused: bare line feeds, folded lines, a space
//! before a colon, two lengths, a length beside chunks, any coding but `chunked`.

use super::media::{self, Media};
use super::reply::Reply;
use super::url::Method;
use crate::app::Options;
use crate::frontend::{LOW_PRIORITY, PRIORITY};

/// How long a request may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the request line.
    pub line: usize,
    /// Bytes of all header fields together.
    pub fields_bytes: usize,
    pub fields: usize,
    /// Bytes of the body.
    pub body: usize,
    /// Chunks in which a body may come.
    pub chunks: usize,
}

impl Limits {
    pub fn of(options: &Options) -> Self {
        Self {
            line: options.max_request_line_bytes,
            fields_bytes: options.max_header_bytes,
            fields: options.max_header_fields,
            body: options.max_body_bytes,
            chunks: options.max_body_chunks,
        }
    }
}

/// Header fields for which there is a place without asking for memory.
const USUAL_FIELDS: usize = 100;

/// Fields of ours, for bodies that are one tensor and nothing else.
const SIGNATURE_NAME: &str = "servable-signature-name";
const OUTPUT_FILTER: &str = "servable-output-filter";

/// How many milliseconds the client waits: by the name that people give it, and the one by which
/// Envoy tells what it was configured with.
const TIMEOUTS: [&str; 2] = ["x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"];

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
}

/// What the head says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Head {
    /// `None` for a method that is not served.
    pub method: Option<Method>,
    pub target: String,
    /// Of the HTTP version: 0 or 1.
    pub minor: u8,
    pub framing: Framing,
    pub keep_alive: bool,
    /// The client waits to be told that it may send the body.
    pub expects_continue: bool,
    pub is_gzip: bool,
    /// The `Origin` is one of the web.
    pub has_origin: bool,
    /// There is an `Origin`, whatever it is: a browser asks, at the wish of some page.
    pub is_from_page: bool,
    /// The answer may be compressed.
    pub accepts_gzip: bool,
    /// What the body is said to be.
    pub content: Media,
    /// What the answer is to be, if it matters.
    pub accept: Option<Media>,
    has_encoding: bool,
    /// For bodies that have no place for them; both may be absent.
    pub signature_name: String,
    pub output_filter: Vec<String>,
    /// Others go first where requests wait for one another.
    pub is_low_priority: bool,
    /// How long the client waits for its answer, if it says so.
    pub timeout_ms: Option<u32>,
    /// The values of all fields of that name.
    pub authorization: Vec<Secret>,
}

/// What is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Where the head ends, `None` while more of it is to come.
///
/// # Errors
/// The answer, when it will never be one: it is too long, or has a bare line feed.
pub fn find_end(received: &[u8], limits: &Limits) -> Result<Option<usize>, Reply> {
    let mut line_end = None;
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', received) {
        if at == 0 || received[at - 1] != b'\r' {
            return Err(Reply::page(400));
        }
        let is_empty = at == start + 1;
        start = at + 1;
        match line_end {
            // Empty lines in front of the request line are stepped over.
            None if is_empty => {}
            None => line_end = Some(at),
            Some(_) if is_empty => break,
            Some(_) => {}
        }
    }
    let Some(line_end) = line_end else {
        return if received.len() > limits.line { Err(Reply::page(414)) } else { Ok(None) };
    };
    if line_end > limits.line + 1 {
        return Err(Reply::page(414));
    }
    let is_complete = received[..start].ends_with(b"\r\n\r\n");
    let end = if is_complete { start } else { received.len() };
    if end - line_end - 1 > limits.fields_bytes {
        return Err(Reply::page(431));
    }
    Ok(is_complete.then_some(start))
}

impl Head {
    /// A head without fields.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: Method::from_name(method),
            target: target.to_owned(),
            minor: 1,
            framing: Framing::Length(0),
            keep_alive: true,
            expects_continue: false,
            is_gzip: false,
            has_origin: false,
            is_from_page: false,
            accepts_gzip: false,
            content: Media::Json,
            accept: None,
            has_encoding: false,
            signature_name: String::new(),
            output_filter: Vec::new(),
            is_low_priority: false,
            timeout_ms: None,
            authorization: Vec::new(),
        }
    }

    /// Take in a field that is about the request, and not about the connection.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        let contains = |text: &str| memchr::memmem::find(value, text.as_bytes()).is_some();
        // Of several of the same name the first counts.
        if is("content-encoding") && !std::mem::replace(&mut self.has_encoding, true) {
            self.is_gzip = contains("gzip");
        } else if is("origin") && !std::mem::replace(&mut self.is_from_page, true) {
            self.has_origin = contains("http://") || contains("https://");
        } else if is("content-type") {
            self.content = Media::of_content(value);
        } else if is("accept") {
            self.accept = Media::of_accept(value);
        } else if is("accept-encoding") {
            self.accepts_gzip |= media::accepts_gzip(value);
        } else if is(SIGNATURE_NAME) {
            self.signature_name = text(value);
        } else if is(OUTPUT_FILTER) {
            let aliases = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            self.output_filter.extend(aliases.map(text));
        } else if is("authorization") {
            self.authorization.push(Secret(value.to_vec()));
        } else if is(PRIORITY) {
            self.is_low_priority = value == LOW_PRIORITY.as_bytes();
        } else if TIMEOUTS.iter().any(|name| is(name)) {
            let said = timeout_ms(value);
            self.timeout_ms = [self.timeout_ms, said].into_iter().flatten().min();
        }
    }

    /// Read a whole head.
    ///
    /// # Errors
    /// The answer, when it is malformed, ambiguous, or has too many fields.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, Reply> {
        let bad = || Reply::page(400);
        let mut usual = [httparse::EMPTY_HEADER; USUAL_FIELDS];
        let mut many;
        let fields = if let Some(fields) = usual.get_mut(..limits.fields) {
            fields
        } else {
            // No more than there are lines.
            let most = limits.fields.min(bytes.len() / 2);
            many = vec![httparse::EMPTY_HEADER; most];
            &mut many[..]
        };
        let mut request = httparse::Request::new(fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Reply::page(431)),
            Err(httparse::Error::Version) => return Err(Reply::page(505)),
            Ok(httparse::Status::Partial) | Err(_) => return Err(bad()),
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(bad());
        };
        let mut head = Self::new(method, target);
        head.minor = minor;
        head.keep_alive = minor == 1;
        let (mut length, mut coding) = (None, None);
        for field in request.headers.iter() {
            let value = field.value;
            // Whether this is the field; most names are told apart by their length.
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                if length.replace(value).is_some() {
                    return Err(bad());
                }
            } else if is("transfer-encoding") {
                if coding.replace(value).is_some() {
                    return Err(bad());
                }
            } else if is("connection") {
                for option in value.split(|&byte| byte == b',') {
                    let option = option.trim_ascii();
                    if option.eq_ignore_ascii_case(b"close") {
                        head.keep_alive = false;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") && minor == 0 {
                        head.keep_alive = true;
                    }
                }
            } else if is("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reply::page(417));
                }
                head.expects_continue = minor == 1;
            } else {
                head.field(field.name, value);
            }
        }
        head.framing = match (length, coding) {
            (None, None) => Framing::Length(0),
            (Some(digits), None) => Framing::Length(parse_length(digits).ok_or_else(bad)?),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && minor == 1 => {
                Framing::Chunked
            }
            _ => return Err(bad()),
        };
        Ok(head)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Milliseconds in digits; 0, as Envoy has it, and what is no number say nothing.
fn timeout_ms(value: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(value.trim_ascii()).ok()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&ms| is_number && ms > 0)
}

fn parse_length(digits: &[u8]) -> Option<usize> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits::of(&Options::default())
    }

    fn parse(head: &str) -> Result<Head, u16> {
        let status = |reply: Reply| reply.status;
        let limits = limits();
        let end = find_end(head.as_bytes(), &limits).map_err(status)?;
        assert_eq!(end, Some(head.len()), "{head:?}");
        Head::parse(head.as_bytes(), &limits).map_err(status)
    }

    fn with(fields: &str) -> Result<Head, u16> {
        parse(&format!("POST /x HTTP/1.1\r\n{fields}\r\n"))
    }

    #[test]
    fn what_is_plain_is_understood() {
        let head = with("Content-Length: 12\r\nConnection: x, Close\r\n").unwrap();
        assert_eq!(head.method, Some(Method::Post));
        assert_eq!(head.framing, Framing::Length(12));
        assert!(!head.keep_alive);

        let head = with("transfer-encoding: Chunked\r\nExpect: 100-Continue\r\n").unwrap();
        assert_eq!(head.framing, Framing::Chunked);
        assert!(head.keep_alive && head.expects_continue);

        let head = with("Content-Encoding: x-gzip\r\nOrigin: https://a\r\n").unwrap();
        assert!(head.is_gzip && head.has_origin);
        let head = with("Content-Encoding: GZIP\r\nOrigin: HTTP://A\r\n").unwrap();
        assert!(!head.is_gzip && !head.has_origin && !head.is_low_priority);
        let head = with("Servable-Priority: low\r\n").unwrap();
        assert!(head.is_low_priority);
        for (fields, expected) in [
            ("", None),
            ("X-Request-Timeout-Ms: 250\r\n", Some(250)),
            ("x-envoy-expected-rq-timeout-ms: 15000\r\n", Some(15_000)),
            ("X-Request-Timeout-Ms: 300\r\nX-Envoy-Expected-Rq-Timeout-Ms: 200\r\n", Some(200)),
            ("X-Request-Timeout-Ms: 0\r\n", None),
            ("X-Request-Timeout-Ms: +5\r\n", None),
            ("X-Request-Timeout-Ms: 99999999999\r\n", None),
            ("X-Request-Timeout-Ms: soon\r\n", None),
        ] {
            assert_eq!(with(fields).unwrap().timeout_ms, expected, "{fields}");
        }

        let head = parse("\r\nget /a#b?c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        assert_eq!((head.method, head.target.as_str()), (None, "/a#b?c"));
        assert!(head.keep_alive && head.minor == 0);
    }

    #[test]
    fn what_two_servers_could_understand_differently_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Content-Length : 5\r\n",
            "A: b\r\n folded\r\n",
            "A: b\0c\r\n",
            "A: b\rc\r\n",
            "no colon\r\n",
        ] {
            assert_eq!(with(fields), Err(400), "{fields:?}");
        }
        assert_eq!(parse("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(400));
        assert_eq!(parse("GET / HTTP/2.0\r\n\r\n"), Err(505));
        assert_eq!(with("Expect: something\r\n"), Err(417));
        for bare in [&b"GET / HTTP/1.1\n\n"[..], b"GET / HTTP/1.1\r\nA: b\n\r\n", b"\n"] {
            assert_eq!(find_end(bare, &limits()).unwrap_err().status, 400);
        }
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let line = |len: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(len - 14));
        assert!(parse(&line(limits().line)).is_ok());
        assert_eq!(parse(&line(limits().line + 1)), Err(414));
        assert_eq!(find_end(&vec![b'a'; limits().line + 1], &limits()).unwrap_err().status, 414);

        let field = |len: usize| format!("A: {}\r\n", "b".repeat(len - 5));
        assert!(with(&field(limits().fields_bytes - 2)).is_ok());
        assert_eq!(with(&field(limits().fields_bytes - 1)), Err(431));
        let endless = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(limits().fields_bytes));
        assert_eq!(find_end(endless.as_bytes(), &limits()).unwrap_err().status, 431);

        assert!(with(&"A: b\r\n".repeat(limits().fields)).is_ok());
        assert_eq!(with(&"A: b\r\n".repeat(limits().fields + 1)), Err(431));
    }

    #[test]
    fn a_head_is_awaited_to_its_end() {
        let head = b"GET / HTTP/1.1\r\nA: b\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(find_end(&head[..cut], &limits()), Ok(None), "{cut}");
        }
        assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r\nGET", &limits()), Ok(Some(18)));
    }

    #[test]
    fn what_is_kept_is_read_or_refused() {
        crate::corpus::each("http", |input| {
            if let Ok(Some(end)) = find_end(input, &limits()) {
                let _ = Head::parse(&input[..end], &limits());
            }
            let _ = Head::parse(input, &limits());
        });
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = find_end(&bytes, &limits());
            let _ = Head::parse(&bytes, &limits());
        }
    }
}
