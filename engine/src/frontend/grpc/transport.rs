//! Connections: each speaks HTTP/2, and its requests go to the method that their path names.
//!
//! Methods of ours are found in their tables at once. Whatever else is asked, health and
//! reflection among it, goes to tonic, which also says that there is no such method. tonic's own
//! transport would lead every request through a router and layers that do nothing here and take an
//! eighth of the time of a small call.

use std::convert::Infallible;
use std::future::{pending, Future};
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming as Received;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::transport::server::Connected;

use super::listener::{Connection, Incoming};
use super::outbox::{Outbox, Waiting};
use super::patient::Patient;
use super::service::{self, Limits};
use super::{find, unary};
use crate::app::App;
use crate::frontend::peer::Peer;
use crate::turns::Client;

/// How connections are kept; none of these has a limit where it is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub max_concurrent_streams: Option<u32>,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Option<Duration>,
    /// After so long a connection is asked to end, and after the grace it is ended.
    pub max_connection_age: Option<Duration>,
    pub max_connection_age_grace: Option<Duration>,
    pub max_header_list_size: Option<u32>,
    pub max_frame_size: Option<u32>,
}

/// What answers requests.
#[derive(Clone)]
pub struct Dispatch {
    pub app: Arc<App>,
    pub limits: Limits,
    /// What answers where there is no method of ours.
    pub others: Routes,
}

/// Serve connections as long as there come any, and then ask those that there are to end.
pub async fn serve(incoming: Incoming, settings: Settings, dispatch: Dispatch) {
    let (ending, ends) = watch::channel(false);
    {
        let mut incoming = pin!(incoming);
        while let Some(connection) = incoming.next().await {
            // A connection that failed is its client's affair.
            let Ok(connection) = connection else { continue };
            drop(tokio::spawn(connect(connection, settings, dispatch.clone(), ends.clone())));
        }
        // The listeners are closed here: nobody is to wait for who does not accept any more.
    }
    drop(ends);
    ending.send_replace(true);
    ending.closed().await;
}

/// Serve one connection until it ends.
async fn connect(
    stream: Patient<Connection>,
    settings: Settings,
    dispatch: Dispatch,
    ends: watch::Receiver<bool>,
) {
    let peer = Peer { client: Client::connected(), ..stream.connect_info() };
    serve_peer(stream, peer, settings, dispatch, ends).await;
}

async fn serve_peer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    settings: Settings,
    dispatch: Dispatch,
    ends: watch::Receiver<bool>,
) {
    let outbox = Arc::new(Outbox::default());
    tokio::select! {
        biased;
        () = converse(stream, peer, settings, dispatch, outbox.clone(), ends) => {}
        // The peer takes nothing of much that waits for it.
        () = outbox.stalls() => {}
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    settings: Settings,
    dispatch: Dispatch,
    outbox: Arc<Outbox>,
    mut ends: watch::Receiver<bool>,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let asks = has_asked.clone();
    let answer = service_fn(move |request| {
        asks.store(true, Ordering::Relaxed);
        dispatch.answer(request, peer, outbox.clone()).map(Ok::<_, Infallible>)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(settings.max_frame_size.unwrap_or(MAX_FRAME))
        .max_concurrent_streams(settings.max_concurrent_streams)
        .keep_alive_interval(settings.keepalive_interval)
        // gRPC has no use for it.
        .auto_date_header(false);
    if let Some(timeout) = settings.keepalive_timeout {
        builder.keep_alive_timeout(timeout);
    }
    if let Some(most) = settings.max_header_list_size {
        builder.max_header_list_size(most);
    }
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let mut age = pin!(after(settings.max_connection_age));
    {
        let mut is_ending = pin!(ends.wait_for(|ends| *ends));
        tokio::select! {
            biased;
            // Why a peer went away is of no interest to anybody.
            _ = &mut connection => return,
            _ = &mut is_ending => {}
            () = &mut age => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    if !has_asked.load(Ordering::Relaxed) {
        // Perhaps it does not even speak HTTP/2, and then never hears of this.
        let mut silence = pin!(sleep(SILENCE));
        tokio::select! {
            biased;
            _ = &mut connection => return,
            () = &mut silence => if !has_asked.load(Ordering::Relaxed) {
                return;
            },
        }
    }
    let mut grace = pin!(after(settings.max_connection_age_grace));
    tokio::select! {
        biased;
        _ = &mut connection => {}
        () = &mut grace => {}
    }
}

/// How long a connection that has asked nothing is waited for once it is asked to end.
const SILENCE: Duration = Duration::from_millis(500);

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}

impl Dispatch {
    /// No `async` block around the futures: each would hold them twice, and they are moved.
    fn answer(
        &self,
        request: Request<Received>,
        peer: Peer,
        outbox: Arc<Outbox>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        match find(&self.app.options, request.uri().path()) {
            Some(found) => {
                service::answer(self.app.clone(), found, self.limits, request, peer, outbox)
                    .map(|response| response.map(Body::Ours))
                    .left_future()
            }
            None => {
                let mut others = self.others.clone();
                let response = async move {
                    let Ok(response) = others.call(request.map(tonic::body::Body::new)).await;
                    response.map(Body::Others)
                };
                response.boxed().right_future()
            }
        }
    }
}

/// Windows large enough that a tensor of some megabytes arrives without waiting for updates.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Frames large enough that such a tensor is a handful of them.
const MAX_FRAME: u32 = 1 << 20;

/// The body of an answer.
enum Body {
    Ours(unary::Answer),
    Others(tonic::body::Body),
}

impl http_body::Body for Body {
    type Data = Waiting;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Waiting>, tonic::Status>>> {
        match self.get_mut() {
            Body::Ours(answer) => Pin::new(answer).poll_frame(cx),
            Body::Others(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map_ok(|frame| frame.map_data(Waiting::uncounted))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Ours(answer) => answer.is_end_stream(),
            Body::Others(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Ours(answer) => answer.size_hint(),
            Body::Others(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use h2::{client, Ping};
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;
    use crate::fuzzing;

    /// A Predict request for the model `m`, whose answer is a tensor of a mebibyte.
    const REQUEST: &[u8] = b"\0\0\0\0\x1c\x0a\x03\x0a\x01m\x12\x15\x0a\x01x\x12\x10\
        \x08\x01\x12\x06\x12\x04\x08\x80\x80\x10\x2a\x04\0\0\x80\x3f";

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_leaves_no_room_for_its_answers_is_given_up_though_it_pings() {
        let (near, far) = duplex(1 << 16);
        let app = fuzzing::app().clone();
        let limits = Limits { receive: 1 << 20, send: usize::MAX };
        let dispatch = Dispatch { app: app.clone(), limits, others: Routes::default() };
        let (_stop, ends) = watch::channel(false);
        let settings = Settings::default();
        tokio::spawn(serve_peer(far, Peer::default(), settings, dispatch, ends));
        let mut builder = client::Builder::new();
        let shaken = builder.initial_window_size(1).handshake::<_, Bytes>(near).await;
        let (mut calls, mut connection) = shaken.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        tokio::spawn(connection);
        let path = "http://m/tensorflow.serving.PredictionService/Predict";
        let call = Request::post(path).header("content-type", "application/grpc").body(()).unwrap();
        let (answer, mut body) = calls.send_request(call, false).unwrap();
        body.send_data(Bytes::from_static(REQUEST), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers().get("grpc-status"), None);
        assert!(app.admission.bytes() >= 1 << 20);
        let began = Instant::now();

        while pings.ping(Ping::opaque()).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }

        let after = began.elapsed().as_secs();
        assert!((30..=36).contains(&after), "{after}");
        assert_eq!(app.admission.bytes(), 0);
    }
}
