//! REST: the HTTP API of TensorFlow Serving.
//!
//! `connection` speaks HTTP/1 and `head` reads it, `http2` speaks HTTP/2; `url` says what is asked, `service` sees to it
//! that it is answered: `predict` and `heads` run models, `models` tells of them, `pages` is the
//! rest. This file accepts connections.

mod connection;
mod document;
mod examples;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gzip;
mod head;
mod heads;
mod http2;
mod media;
mod models;
mod pages;
mod predict;
mod proto_json;
mod reply;
mod service;
mod url;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at, Instant};

pub use self::reply::Reply;
use self::service::{Service, Session};
use crate::app::App;
use crate::frontend::tls::Tls;

/// Answers a target that is a page's path, perhaps with a query.
pub type Page = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// Serve REST, metrics and probes on a listener until `shutdown`; then answer what is in flight and return.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shutdown: impl Future<Output = ()>,
) {
    let pages = pages::pages(&app);
    serve_pages(app, pages, listener, tls, shutdown).await;
}

/// The protocols that are offered over TLS, the better one first.
pub const PROTOCOLS: &[&[u8]] = &[HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// As [`serve`], with pages by their exact path beside the API.
pub async fn serve_pages(
    app: Arc<App>,
    pages: HashMap<String, Page>,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shutdown: impl Future<Output = ()>,
) {
    let service = Arc::new(Service { app, pages });
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let take = |connections: &mut JoinSet<()>, (stream, address): (TcpStream, SocketAddr)| {
        let ip = address.ip().to_canonical();
        // A connection too many is closed at once: that costs least.
        let Some(seat) = service.app.admission.seat(Some(ip)) else { return };
        let conversation =
            converse(stream, tls.clone(), Session::new(&service, ip), stopping.clone());
        connections.spawn(async move {
            conversation.await;
            drop(seat);
        });
    };
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener) => take(&mut connections, accepted),
        }
    }
    // Whoever has connected by now expects to be served.
    while let Ok(accepted) = timeout(Duration::ZERO, accept(&listener)).await {
        take(&mut connections, accepted);
    }
    drop(listener);
    stop.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// Serve one connection, in the protocol that the client chooses.
async fn converse(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    mut session: Session,
    mut stopping: watch::Receiver<bool>,
) {
    let Some(tls) = tls else { return converse_plainly(stream, session, stopping).await };
    let shaken = tokio::select! {
        biased;
        shaken = timeout(connection::HEAD, tls.accept(stream)) => shaken,
        () = connection::given_up(&mut stopping, true) => return,
    };
    // A handshake that failed is its client's affair.
    let Ok(Ok(stream)) = shaken else { return };
    let (_, handshake) = stream.get_ref();
    session.peer.is_certified = handshake.peer_certificates().is_some();
    let is_http2 = handshake.alpn_protocol() == Some(HTTP2);
    speak(is_http2, stream, BytesMut::new(), session, stopping).await;
}

/// Without TLS a client that knows beforehand begins with the preface of HTTP/2.
async fn converse_plainly<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    session: Session,
    mut stopping: watch::Receiver<bool>,
) {
    let mut buffer = BytesMut::with_capacity(connection::READ);
    let mut deadline = Instant::now() + connection::IDLE;
    while http2::PREFACE.starts_with(&buffer) && buffer.len() < http2::PREFACE.len() {
        let read = tokio::select! {
            biased;
            read = timeout_at(deadline, stream.read_buf(&mut buffer)) => read,
            () = connection::given_up(&mut stopping, true) => return,
        };
        if !matches!(read, Ok(Ok(1..))) {
            return;
        }
        deadline = deadline.min(Instant::now() + connection::HEAD);
    }
    speak(buffer.starts_with(http2::PREFACE), stream, buffer, session, stopping).await;
}

/// Speak the protocol that was chosen, once something was read.
///
/// What that takes stands apart, once for each connection: HTTP/1 takes several times as much as
/// HTTP/2, and a task has room for the larger one.
async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    is_http2: bool,
    stream: S,
    read: BytesMut,
    session: Session,
    stopping: watch::Receiver<bool>,
) {
    if is_http2 {
        Box::pin(http2::serve(stream, read, session, stopping)).await;
    } else {
        Box::pin(connection::serve(stream, read, &session, stopping)).await;
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Answers go out in one piece; there is nothing to gather.
                let _ = stream.set_nodelay(true);
                return (stream, address);
            }
            // The peer went away, or there are no descriptors left: then others have to end first.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests;
