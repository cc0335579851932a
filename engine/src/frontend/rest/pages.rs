//! What is answered beside the API: metrics for Prometheus, and probes.

use std::collections::HashMap;
use std::sync::Arc;

use super::reply::Reply;
use super::Page;
use crate::app::App;
use crate::frontend::metrics::{own_page, serving_page};

const TEXT: &str = "text/plain";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The pages of a server by their exact paths; TensorFlow Serving's comes before ours.
pub fn pages(app: &Arc<App>) -> HashMap<String, Page> {
    let mut pages = HashMap::new();
    let mut add = |path: &str, page: Page| pages.insert(path.to_owned(), page);
    let probed = app.clone();
    add("/healthz", Arc::new(|_| Reply::new(200, TEXT, b"ok\n".to_vec())));
    add(
        "/readyz",
        Arc::new(move |_| match probed.is_ready() {
            true => Reply::new(200, TEXT, b"ok\n".to_vec()),
            false => Reply::new(503, TEXT, b"not ready\n".to_vec()),
        }),
    );
    let path = &app.options.metrics_path;
    if !path.is_empty() {
        let app = app.clone();
        add(path, Arc::new(move |_| Reply::new(200, PROMETHEUS_TEXT, own_page(&app).into_bytes())));
    }
    let path = &app.options.prometheus_path;
    if !path.is_empty() {
        let (app, expected) = (app.clone(), path.clone());
        let page = move |target: &str| {
            if target != expected {
                let message = format!("Unexpected path: {target}. Should be {expected}");
                return Reply::new(400, TEXT, message.into_bytes());
            }
            Reply::new(200, TEXT, serving_page(&app.metrics).into_bytes())
        };
        add(path, Arc::new(page));
    }
    pages
}
