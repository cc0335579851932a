//! placeholder until the REST branch is merged
use std::future::Future;
use std::sync::Arc;

use crate::app::App;

pub async fn serve(
    _app: Arc<App>,
    _listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    shutdown.await;
}
