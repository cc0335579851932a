//! REST: the HTTP API of TensorFlow Serving.
//!
//! `connection` speaks HTTP/1 and `head` reads it, `url` says what is asked, `service` sees to it
//! that it is answered: `predict` and `heads` run models, `models` tells of them, `pages` is the
//! rest. This file accepts connections.

mod connection;
mod document;
mod examples;
mod gzip;
mod head;
mod heads;
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
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::reply::Reply;
use self::service::{Service, Session};
use crate::app::App;
use crate::frontend::peer::Peer;

/// Connections beyond this wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// Answers a target that is a page's path, perhaps with a query.
pub type Page = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// Serve REST, metrics and probes on a listener until `shutdown`; then answer what is in flight and return.
pub async fn serve(app: Arc<App>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let pages = pages::pages(&app);
    serve_pages(app, pages, listener, shutdown).await;
}

/// As [`serve`], with pages by their exact path beside the API.
pub async fn serve_pages(
    app: Arc<App>,
    pages: HashMap<String, Page>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let service = Arc::new(Service { app, pages });
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if connections.len() < MAX_CONNECTIONS => {
                let (service, stopping) = (service.clone(), stopping.clone());
                let is_local =
                    accepted.peer_addr().is_ok_and(|a| a.ip().to_canonical().is_loopback());
                let peer = Peer { is_local, is_certified: false };
                connections.spawn(async move {
                    connection::serve(accepted, &Session { service, peer }, stopping).await;
                });
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &TcpListener) -> tokio::net::TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers go out in one piece; there is nothing to gather.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            // The peer went away, or there are no descriptors left: then others have to end first.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests;
