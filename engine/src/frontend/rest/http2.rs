//! HTTP/2 on the same port: the frames are hyper's, the limits and the answers are those of HTTP/1.
//!
//! A connection that asks nothing is closed after a while, and so is one that does not take its
//! answers; a request is refused for the same sizes and the same slowness as over HTTP/1.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    HeaderValue, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE,
};
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{sleep, timeout_at, Instant};

use super::connection::{Body, Service, IDLE, WRITE_STALL};
use super::head::Head;
use super::reply::{Reply, CHALLENGE};
use super::service::Session;
use super::url::Method;
use crate::admission::Permit;
use crate::memory;

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests of one connection that are answered at one time.
const MAX_STREAMS: u32 = 256;
/// Room for what has arrived of one request, and of all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How often it is looked whether anything happens.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of an answer that are handed over at a time.
const CHUNK: usize = 256 << 10;

/// Serve a connection, of which `read` was read already, until either side ends it, or until it is
/// idle after `stopping` says so.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    read: BytesMut,
    session: Session,
    mut stopping: watch::Receiver<bool>,
) {
    let limits = session.limits();
    let activity = Arc::new(Activity::new());
    let stream = TokioIo::new(Rewound { read, stream });
    let watched = activity.clone();
    let answer = service_fn(move |request| {
        let (session, guard) = (session.clone(), Guard::new(&watched));
        async move { Ok::<_, Infallible>(answer(request, &session, guard).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.line + limits.fields_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(IDLE)
        .serve_connection(stream, answer);
    let mut connection = std::pin::pin!(connection);
    let mut is_ending = false;
    loop {
        let is_stopping = async {
            if stopping.wait_for(|stopping| *stopping).await.is_err() || is_ending {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // Why a peer went away is of no interest to anybody.
            _ = &mut connection => return,
            () = is_stopping => {
                connection.as_mut().graceful_shutdown();
                is_ending = true;
            }
            () = sleep(LOOK) => match activity.judge(Instant::now()) {
                Verdict::Alive => {}
                Verdict::Idle if !is_ending => {
                    connection.as_mut().graceful_shutdown();
                    is_ending = true;
                    activity.touch();
                }
                Verdict::Idle | Verdict::Stalled => return,
            }
        }
    }
}

/// What happens on a connection, so that nothing happening is noticed.
struct Activity {
    /// Requests that are being answered or sent.
    open: AtomicUsize,
    /// Answers that are being sent.
    sending: AtomicUsize,
    last: Mutex<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Alive,
    /// Nothing is asked.
    Idle,
    /// Answers are not taken.
    Stalled,
}

impl Activity {
    fn new() -> Self {
        let last = Mutex::new(Instant::now());
        Self { open: AtomicUsize::new(0), sending: AtomicUsize::new(0), last }
    }

    fn touch(&self) {
        *self.last.lock() = Instant::now();
    }

    /// How long nothing may happen.
    fn patience(&self) -> Duration {
        if self.sending.load(Ordering::Relaxed) > 0 {
            WRITE_STALL
        } else {
            IDLE
        }
    }

    fn judge(&self, now: Instant) -> Verdict {
        if now < *self.last.lock() + self.patience() {
            return Verdict::Alive;
        }
        match (self.open.load(Ordering::Relaxed), self.sending.load(Ordering::Relaxed)) {
            (0, _) => Verdict::Idle,
            (_, 0) => Verdict::Alive,
            _ => Verdict::Stalled,
        }
    }
}

/// Counts a request while it is there.
struct Guard {
    activity: Arc<Activity>,
    is_sending: bool,
}

impl Guard {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::Relaxed);
        activity.touch();
        Self { activity: activity.clone(), is_sending: false }
    }

    fn sends(&mut self) {
        if !std::mem::replace(&mut self.is_sending, true) {
            self.activity.sending.fetch_add(1, Ordering::Relaxed);
        }
        self.activity.touch();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_sending {
            self.activity.sending.fetch_sub(1, Ordering::Relaxed);
        }
        self.activity.open.fetch_sub(1, Ordering::Relaxed);
        self.activity.touch();
    }
}

async fn answer(request: Request<Incoming>, session: &Session, mut guard: Guard) -> Response<Sent> {
    let (parts, mut incoming) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut head = Head::new(parts.method.as_str(), target);
    for (name, value) in &parts.headers {
        head.field(name.as_str(), value.as_bytes());
    }
    let limits = session.limits();
    let mut reply = if target.len() > limits.line {
        Reply::page(414)
    } else if parts.headers.len() > limits.fields {
        Reply::page(431)
    } else if let Some(refusal) = session.refusal(&head) {
        refusal
    } else {
        let permit = session.permit();
        match collect(&mut incoming, limits.body, &permit).await {
            Ok(body) => session.answer(&head, body, permit).await,
            Err(reply) => reply,
        }
    };
    drain(&mut incoming).await;
    let length = reply.body.len();
    if head.method == Some(Method::Head) {
        reply.body.clear();
    }
    guard.sends();
    let mut response = Response::new(Sent { rest: reply.body.into(), guard });
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if reply.status == 401 {
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    if reply.is_gzip {
        fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        fields.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if reply.is_busy {
        fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if reply.cors {
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        fields.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET"));
        fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type"));
    }
    response
}

/// The body of a request, or what refuses it.
async fn collect(incoming: &mut Incoming, limit: usize, permit: &Permit) -> Result<Vec<u8>, Reply> {
    let promised = incoming.size_hint().exact();
    if promised.is_some_and(|length| length > limit as u64) {
        return Err(Reply::page(413));
    }
    let mut body = Body::new();
    loop {
        let frame = match timeout_at(body.pace.deadline(), incoming.frame()).await {
            Err(_) => return Err(Reply::page(408)),
            Ok(None) => return Ok(body.bytes),
            // The stream is gone; nobody reads the answer.
            Ok(Some(Err(_))) => return Err(Reply::page(400)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - body.bytes.len() {
            return Err(Reply::page(413));
        }
        let has_room =
            permit.charge(data.len()).and_then(|()| memory::room(&mut body.bytes, data.len()));
        has_room.map_err(|status| Reply::busy(&status))?;
        body.pace.came(data.len(), Instant::now());
        body.bytes.extend_from_slice(&data);
    }
}

/// Read what is left of a request that was answered without it, if that is little and comes soon:
/// a stream whose answer comes first is reset, and some clients then never see the answer.
async fn drain(incoming: &mut Incoming) {
    let until = Instant::now() + DRAIN_TIME;
    let mut left = DRAIN_BYTES;
    while !incoming.is_end_stream() {
        let Ok(Some(Ok(frame))) = timeout_at(until, incoming.frame()).await else { return };
        let read = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(read) else { return };
        left = rest;
    }
}

const DRAIN_TIME: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 64 << 10;

/// The body of an answer, which tells when some of it is taken.
struct Sent {
    rest: Bytes,
    guard: Guard,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.guard.sends();
        let chunk = self.rest.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(chunk)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// A stream of which something was read already.
struct Rewound<S> {
    read: BytesMut,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.read.is_empty() {
            let count = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read.split_to(count));
            if self.read.is_empty() {
                // The connection may last, and has no use for the room.
                self.read = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::super::service::Service;
    use super::*;
    use crate::app::{App, Options};

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// A frame on stream 1, or that of settings.
    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let stream = u8::from(kind != SETTINGS);
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// What has come of frames on stream 1 once nothing more does: kinds and flags.
    async fn came(client: &mut DuplexStream) -> Vec<(u8, u8)> {
        let mut frames = Vec::new();
        loop {
            let mut head = [0; 9];
            let read = timeout_at(Instant::now() + LOOK / 10, client.read_exact(&mut head));
            if read.await.is_err() {
                return frames;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            client.read_exact(&mut vec![0; length as usize]).await.unwrap();
            if head[8] == 1 {
                frames.push((head[3], head[4]));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_before_all_was_sent_is_answered_and_not_reset() {
        let options = Options { max_body_bytes: 10, ..Options::default() };
        let service = Service { app: Arc::new(App::new(options)), pages: HashMap::new() };
        let session = Session::new(&Arc::new(service), Ipv4Addr::LOCALHOST.into());
        let (mut client, far) = duplex(1 << 16);
        let (_stop, stopping) = watch::channel(false);
        tokio::spawn(serve(far, BytesMut::new(), session, stopping));
        // POST / over http, from the static table, and a length that is refused.
        let head = [&[0x83, 0x84, 0x86, 0x0f, 0x0d, 2][..], b"20"].concat();
        let begin = [PREFACE, &frame(SETTINGS, 0, &[])].concat();
        client.write_all(&begin).await.unwrap();
        client.write_all(&frame(HEADERS, END_HEADERS, &head)).await.unwrap();
        client.write_all(&frame(DATA, 0, &[b'x'; 10])).await.unwrap();

        // By the clock of this test the server has done by then whatever it does at once.
        assert_eq!(came(&mut client).await, []);

        client.write_all(&frame(DATA, END_STREAM, &[b'x'; 10])).await.unwrap();
        assert_eq!(came(&mut client).await, [(HEADERS, END_HEADERS), (DATA, END_STREAM)]);
    }

    #[test]
    fn a_connection_is_given_up_when_nothing_happens_that_has_to() {
        let second = Duration::from_secs(1);
        let activity = Arc::new(Activity::new());
        let now = *activity.last.lock();
        assert_eq!(activity.judge(now + IDLE - second), Verdict::Alive);
        assert_eq!(activity.judge(now + IDLE), Verdict::Idle);

        let mut guard = Guard::new(&activity);
        let now = *activity.last.lock();
        assert_eq!(activity.judge(now + 10 * IDLE), Verdict::Alive, "a request runs");

        guard.sends();
        let now = *activity.last.lock();
        assert_eq!(activity.judge(now + WRITE_STALL - second), Verdict::Alive);
        assert_eq!(activity.judge(now + WRITE_STALL), Verdict::Stalled);

        drop(guard);
        let now = *activity.last.lock();
        assert_eq!(activity.judge(now + WRITE_STALL), Verdict::Alive);
        assert_eq!(activity.judge(now + IDLE), Verdict::Idle);
    }
}
