//! A connection that is given up when its peer does not do what it has to: begin to speak HTTP/2
//! soon after it has connected, and take what is sent to it.
//!
//! What happens in between is HTTP/2's affair, which asks idle peers for signs of life.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, Sleep};
use tonic::transport::server::Connected;

use crate::admission::Seat;

/// How long a client may take for the preface, and how many bytes that has.
const BEGIN: Duration = Duration::from_secs(10);
const PREFACE: usize = 24;
/// How long a client may take nothing of what is sent to it.
pub const WRITE_STALL: Duration = Duration::from_secs(30);

/// A stream, and how long its peer is waited for.
pub struct Patient<S> {
    stream: S,
    /// Bytes of the preface that have not come yet.
    missing: usize,
    /// Set while a preface, or a peer that takes something, is waited for.
    begins: Option<Pin<Box<Sleep>>>,
    takes: Option<Pin<Box<Sleep>>>,
    _seat: Seat,
}

impl<S> Patient<S> {
    /// Inside a runtime only.
    pub fn new(stream: S, seat: Seat) -> Self {
        let begins = Some(Box::pin(sleep(BEGIN)));
        Self { stream, missing: PREFACE, begins, takes: None, _seat: seat }
    }

    /// What came of writing, unless nothing does for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.takes = None;
            return written;
        }
        let takes = self.takes.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL)));
        given_up(takes, cx)
    }
}

fn given_up<T>(timer: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
}

impl<S: Connected> Connected for Patient<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(begins) = &mut self.begins else { return read };
        if read.is_pending() {
            return given_up(begins, cx);
        }
        self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
        if self.missing == 0 {
            self.begins = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Admission, Limits};
    use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection with room for ten bytes on their way, and its peer.
    fn connected() -> (Patient<DuplexStream>, DuplexStream) {
        let (stream, peer) = duplex(10);
        let seat = Admission::new(Limits::NONE).seat(None).unwrap();
        (Patient::new(stream, seat), peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_begin_is_given_up() {
        let (mut patient, mut peer) = connected();
        peer.write_all(b"PRI").await.unwrap();
        let began = Instant::now();

        let mut bytes = Vec::new();
        let ended = patient.read_to_end(&mut bytes).await.unwrap_err();

        assert_eq!((ended.kind(), bytes.as_slice()), (io::ErrorKind::TimedOut, &b"PRI"[..]));
        assert_eq!(began.elapsed().as_secs(), BEGIN.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_begun_may_be_silent() {
        let (mut patient, mut peer) = connected();
        let speaks = async {
            peer.write_all(&[0; PREFACE]).await.unwrap();
            tokio::time::sleep(100 * BEGIN).await;
            peer.write_all(b"!").await.unwrap();
        };
        let mut bytes = [0; PREFACE + 1];

        let (read, ()) = tokio::join!(patient.read_exact(&mut bytes), speaks);
        assert_eq!(read.unwrap(), PREFACE + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (mut patient, mut peer) = connected();
        let reads = async {
            let mut bytes = [0; 10];
            for _ in 0..3 {
                tokio::time::sleep(WRITE_STALL - SECOND).await;
                peer.read_exact(&mut bytes).await.unwrap();
            }
        };
        let writes = patient.write_all(&[0; 100]);
        let (written, ()) = tokio::join!(writes, reads);

        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
