//! What bytes are tried with; see the module `fuzzing` of the crate.

use std::sync::{Arc, OnceLock};

use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::head::{find_end, Head, Limits};
use super::service::{Service, Session};
use super::url::{matched, route, Method};
use super::{converse_plainly, gzip as compression, media as types, pages, proto_json};
use crate::app::{App, Options};
use crate::frontend::peer::Peer;

/// Send bytes over a connection, and return what is answered.
///
/// # Panics
/// When one of the answers is that of a fault of ours.
pub fn exchange(app: &Arc<App>, input: &[u8]) -> Vec<u8> {
    let service = Arc::new(Service { app: app.clone(), pages: pages::pages(app) });
    let session = Session { service, peer: Peer { is_local: true, ..Peer::default() } };
    let answered = runtime().block_on(async {
        let (mut near, far) = duplex(4 << 20);
        let (_stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(converse_plainly(far, session, stopping));
        // It may have closed the connection before it has read everything.
        let _ = near.write_all(input).await;
        let _ = near.shutdown().await;
        let mut answered = Vec::new();
        let _ = near.read_to_end(&mut answered).await;
        serving.await.expect("connections end without a panic");
        answered
    });
    let line = answered.split(|&byte| byte == b'\r').next().unwrap_or_default();
    assert!(!line.starts_with(b"HTTP/1.1 500"), "{}", String::from_utf8_lossy(&answered));
    answered
}

/// Send bytes as the body of a request.
pub fn post(app: &Arc<App>, target: &str, content_type: &str, body: &[u8]) {
    let head = format!(
        "POST {target} HTTP/1.1\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    exchange(app, &[head.as_bytes(), body].concat());
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime can be made")
    })
}

pub fn head(input: &[u8]) {
    let limits = Limits::of(&Options::default());
    if let Ok(Some(end)) = find_end(input, &limits) {
        let _ = Head::parse(&input[..end], &limits);
    }
    let _ = Head::parse(input, &limits);
}

pub fn url(input: &[u8]) {
    if let Some(matched) = std::str::from_utf8(input).ok().and_then(matched) {
        for method in [Method::Get, Method::Post, Method::Delete] {
            let _ = (route(method, matched, false), route(method, matched, true));
        }
    }
}

pub fn media(input: &[u8]) {
    let _ = types::Media::of_content(input).of_body(input);
    let _ = (types::Media::of_accept(input), types::accepts_gzip(input));
}

pub fn gzip(input: &[u8]) {
    let inflation = compression::Inflation { max_bytes: 1 << 20, max_ratio: 200 };
    if let Ok(body) = compression::inflate(input, &inflation) {
        assert!(body.len() <= 1 << 20);
    }
}

/// What a SavedModel says of its signatures, as metadata tells it.
pub fn signatures(input: &[u8]) {
    for name in [".tensorflow.serving.SignatureDefMap", ".tensorflow.serving.ReloadConfigResponse"]
    {
        let _ = proto_json::write_message(&mut Vec::new(), name, input, 0);
    }
}
