//! One connection: requests are read, answered and written, one after another.
//!
//! Nothing here knows what is asked. A peer that is slow on purpose is given up on: with the head
//! after ten seconds, with the body when it comes slower than a kilobyte a second, with reading the
//! answer when it takes nothing for half a minute. One that leaves is not answered, and what waits
//! to be run for it is not run. After anything ambiguous the connection ends, so
//! that a request never gets two answers.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout, timeout_at, Instant};

use super::head::{find_end, Framing, Head, Limits};
use super::reply::Reply;
use crate::admission::Permit;
use crate::frontend::pace::Pace;
use crate::memory;
use crate::status::Status;

pub(super) const IDLE: Duration = Duration::from_secs(75);
pub(super) const HEAD: Duration = Duration::from_secs(10);
pub(super) const WRITE_STALL: Duration = Duration::from_secs(30);

/// How long, and how much, a peer is listened to after the last answer, so that it can read it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 10;

/// Bytes of the line before a chunk, with its extensions.
const MAX_CHUNK_LINE: usize = 256;
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// What is read at once when nothing is known of the length.
pub(super) const READ: usize = 8 << 10;

/// Whoever knows the answers.
pub trait Service {
    fn answer(
        &self,
        head: &Head,
        body: Vec<u8>,
        permit: Arc<Permit>,
    ) -> impl Future<Output = Reply> + Send;

    /// What a request will hold whose body is about to be read.
    fn permit(&self) -> Arc<Permit>;

    /// The answer that does not depend on the body: it is not waited for then.
    fn refusal(&self, head: &Head) -> Option<Reply>;

    /// How long a request may be.
    fn limits(&self) -> Limits;

    /// Whether clients are to look elsewhere with their next request.
    fn is_leaving(&self) -> bool;
}

/// How long a new connection may take with its first request when the server stops.
const FIRST_WORDS: Duration = Duration::from_millis(100);

/// Wait until a connection that asks nothing is to be closed because the server stops.
pub(super) async fn given_up(stopping: &mut watch::Receiver<bool>, is_new: bool) {
    // An error means that the server is gone, which is a reason to stop, too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    if is_new {
        sleep(FIRST_WORDS).await;
    }
}

/// Serve a connection until either side ends it, or until it is idle after `stopping` says so.
/// What was read of it already is in `buffer`.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    buffer: BytesMut,
    service: &impl Service,
    stopping: watch::Receiver<bool>,
) {
    let out = Vec::with_capacity(512);
    let mut connection = Connection { stream, buffer, stopping, out, is_new: true };
    // Why a peer went away is of no interest to anybody.
    let _ = connection.run(service).await;
}

struct Connection<S> {
    stream: S,
    /// What was received and not yet used.
    buffer: BytesMut,
    stopping: watch::Receiver<bool>,
    out: Vec<u8>,
    /// Nothing was asked yet.
    is_new: bool,
}

/// Why there is no request.
enum Failure {
    /// It is to be answered so, and the connection to end.
    Refused(Reply),
    /// There is nobody to answer.
    Gone,
}

impl From<Reply> for Failure {
    fn from(reply: Reply) -> Self {
        Failure::Refused(reply)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Refused(Reply::busy(&status))
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Failure::Gone
    }
}

fn refuse<T>(status: u16) -> Result<T, Failure> {
    Err(Failure::Refused(Reply::page(status)))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self, service: &impl Service) -> io::Result<()> {
        let limits = service.limits();
        loop {
            let head = match self.head(&limits).await {
                Ok(head) => head,
                Err(Failure::Gone) => return Ok(()),
                Err(Failure::Refused(reply)) => return self.end(reply, 1).await,
            };
            if head.framing != Framing::Length(0) {
                if let Some(reply) = service.refusal(&head) {
                    return self.end(reply, head.minor).await;
                }
            }
            let permit = service.permit();
            let body = match self.body(&head, &limits, &permit).await {
                Ok(body) => body,
                Err(Failure::Gone) => return Ok(()),
                Err(Failure::Refused(reply)) => return self.end(reply, head.minor).await,
            };
            let mut reply = tokio::select! {
                biased;
                reply = service.answer(&head, body, permit) => reply,
                () = left(&mut self.stream, &mut self.buffer) => return Ok(()),
            };
            let is_leaving = service.is_leaving() || *self.stopping.borrow();
            let keep_alive = head.keep_alive && !reply.close && !is_leaving;
            self.out.clear();
            reply.write_head(&mut self.out, head.minor, keep_alive);
            if head.method == Some(super::url::Method::Head) {
                reply.body.clear();
            }
            self.write(&reply.body).await?;
            self.is_new = false;
            if !keep_alive {
                return self.linger().await;
            }
        }
    }

    /// Receive more, until `deadline` at the latest.
    async fn receive(&mut self, deadline: Instant) -> Result<(), Failure> {
        self.buffer.reserve(READ);
        match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => refuse(408),
            Ok(Ok(0)) => Err(Failure::Gone),
            Ok(read) => Ok(read.map(drop)?),
        }
    }

    async fn head(&mut self, limits: &Limits) -> Result<Head, Failure> {
        if self.buffer.is_empty() {
            let mut stopping = self.stopping.clone();
            let is_new = self.is_new;
            tokio::select! {
                biased;
                received = self.receive(Instant::now() + IDLE) => if received.is_err() {
                    // An idle connection is closed without a word.
                    return Err(Failure::Gone);
                },
                () = given_up(&mut stopping, is_new) => return Err(Failure::Gone),
            }
        }
        let deadline = Instant::now() + HEAD;
        let end = loop {
            match find_end(&self.buffer, limits)? {
                Some(end) => break end,
                None => self.receive(deadline).await?,
            }
        };
        let head = Head::parse(&self.buffer[..end], limits)?;
        self.buffer.advance(end);
        Ok(head)
    }

    async fn body(
        &mut self,
        head: &Head,
        limits: &Limits,
        permit: &Permit,
    ) -> Result<Vec<u8>, Failure> {
        if let Framing::Length(length) = head.framing {
            if length > limits.body {
                return refuse(413);
            }
            if length <= self.buffer.len() {
                permit.charge(length)?;
                let body = self.buffer[..length].to_vec();
                self.buffer.advance(length);
                return Ok(body);
            }
        }
        if head.expects_continue && self.buffer.is_empty() {
            self.out.clear();
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.write(b"").await?;
        }
        let mut body = Body::new();
        match head.framing {
            Framing::Length(length) => self.read_exactly(&mut body, length, permit).await?,
            Framing::Chunked => self.chunks(&mut body, limits, permit).await?,
        }
        Ok(body.bytes)
    }

    /// Move the next `length` bytes to the body.
    async fn read_exactly(
        &mut self,
        body: &mut Body,
        length: usize,
        permit: &Permit,
    ) -> Result<(), Failure> {
        let there = self.buffer.len().min(length);
        permit.charge(there)?;
        memory::room_for_promised(&mut body.bytes, there, length)?;
        body.bytes.extend_from_slice(&self.buffer[..there]);
        self.buffer.advance(there);
        let mut missing = length - there;
        while missing > 0 {
            memory::room_for_promised(&mut body.bytes, 1, missing)?;
            let mut rest = (&mut self.stream).take(missing as u64);
            match timeout_at(body.pace.deadline(), rest.read_buf(&mut body.bytes)).await {
                Err(_) => return refuse(408),
                Ok(Ok(0)) => return Err(Failure::Gone),
                Ok(read) => {
                    let read = read?;
                    // What has arrived counts, and not what was promised: that costs nothing.
                    permit.charge(read)?;
                    body.pace.came(read, Instant::now());
                    missing -= read;
                }
            }
        }
        Ok(())
    }

    async fn chunks(
        &mut self,
        body: &mut Body,
        limits: &Limits,
        permit: &Permit,
    ) -> Result<(), Failure> {
        for _ in 0..=limits.chunks {
            let line = self.line(body, MAX_CHUNK_LINE).await?;
            let Some(size) = chunk_size(&line) else { return refuse(400) };
            if size == 0 {
                return self.trailers(body).await;
            }
            if size > limits.body - body.bytes.len() {
                return refuse(413);
            }
            self.read_exactly(body, size, permit).await?;
            if !self.line(body, 0).await?.is_empty() {
                return refuse(400);
            }
        }
        refuse(413)
    }

    async fn trailers(&mut self, body: &mut Body) -> Result<(), Failure> {
        let mut room = MAX_TRAILER_BYTES;
        loop {
            let line = self.line(body, room).await?;
            if line.is_empty() {
                return Ok(());
            }
            room = room.saturating_sub(line.len() + 2);
        }
    }

    /// The next line, without its end.
    async fn line(&mut self, body: &mut Body, max: usize) -> Result<BytesMut, Failure> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer) {
                let is_line = at > 0 && self.buffer[at - 1] == b'\r' && at < max + 2;
                if !is_line {
                    return refuse(400);
                }
                let mut line = self.buffer.split_to(at + 1);
                line.truncate(at - 1);
                return Ok(line);
            }
            if self.buffer.len() > max + 1 {
                return refuse(400);
            }
            let before = self.buffer.len();
            self.receive(body.pace.deadline()).await?;
            body.pace.came(self.buffer.len() - before, Instant::now());
        }
    }

    /// Write the head that stands in `out`, and a body.
    async fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let (mut head, mut body) = (self.out.as_slice(), body);
        while !(head.is_empty() && body.is_empty()) {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            let parts = if head.is_empty() { &parts[1..] } else { &parts[..] };
            let written = timeout(WRITE_STALL, self.stream.write_vectored(parts)).await??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_head = written.min(head.len());
            head = &head[of_head..];
            body = &body[written - of_head..];
        }
        Ok(())
    }

    /// Answer for the last time.
    async fn end(&mut self, reply: Reply, minor: u8) -> io::Result<()> {
        self.out.clear();
        reply.write_head(&mut self.out, minor, false);
        self.write(&reply.body).await?;
        self.linger().await
    }

    /// Close, but listen for a moment: closing on bytes that were not read would throw away the
    /// answer on its way.
    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut ignored = 0;
        let until = Instant::now() + LINGER;
        while ignored < LINGER_BYTES {
            self.buffer.clear();
            if self.receive(until).await.is_err() {
                break;
            }
            ignored += self.buffer.len();
        }
        Ok(())
    }
}

/// Wait until the peer leaves: closes the connection, or its half of it. What it sends until then
/// is the beginning of its next request.
async fn left<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) {
    while buffer.len() < READ {
        buffer.reserve(READ);
        if !matches!(stream.read_buf(buffer).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// A body on its way.
pub(super) struct Body {
    pub bytes: Vec<u8>,
    /// Of what comes over the wire, framing and all.
    pub pace: Pace,
}

impl Body {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), pace: Pace::new(Instant::now()) }
    }
}

/// The size that the line before a chunk gives, in hexadecimal digits and nothing else; extensions
/// are ignored.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii_end();
    let is_number = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    usize::from_str_radix(digits, 16).ok()
}
