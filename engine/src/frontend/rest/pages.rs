//! What is answered beside the API: metrics for Prometheus, and probes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

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
    let alive = app.clone();
    add(
        "/healthz",
        Arc::new(move |_| {
            if alive.abandoned.hold_everything(Instant::now()) {
                let text = b"stuck: runs that nobody waits for hold all threads\n";
                Reply::new(503, TEXT, text.to_vec())
            } else {
                Reply::new(200, TEXT, b"ok\n".to_vec())
            }
        }),
    );
    add(
        "/readyz",
        Arc::new(move |_| {
            if probed.is_ready() {
                Reply::new(200, TEXT, b"ok\n".to_vec())
            } else {
                Reply::new(503, TEXT, b"not ready\n".to_vec())
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Options;
    use std::sync::atomic::Ordering;

    fn ask(app: &Arc<App>, path: &str, target: &str) -> (u16, &'static str, String) {
        let reply = pages(app)[path](target);
        (reply.status, reply.content_type, String::from_utf8(reply.body).unwrap())
    }

    #[test]
    fn probes_tell_whether_the_server_lives_and_whether_it_is_ready() {
        let app = Arc::new(App::new(Options::default()));
        assert_eq!(ask(&app, "/healthz", "/healthz").0, 200);
        assert_eq!(ask(&app, "/readyz", "/readyz").0, 503);

        app.ready.store(true, Ordering::Release);
        assert_eq!(ask(&app, "/readyz", "/readyz?verbose").0, 200);
    }

    #[test]
    fn metrics_are_at_the_paths_of_the_options_and_nowhere_else() {
        let paths = |prometheus: &str, metrics: &str| {
            let options = Options {
                prometheus_path: prometheus.to_owned(),
                metrics_path: metrics.to_owned(),
                ..Options::default()
            };
            Arc::new(App::new(options))
        };
        assert_eq!(pages(&paths("", "")).len(), 2);
        let app = paths("bare", "/own");
        assert_eq!(pages(&app).len(), 4);
        let (status, content_type, body) = ask(&app, "bare", "bare");
        assert_eq!((status, content_type), (200, "text/plain"));
        assert!(body.starts_with("# TYPE :tensorflow:serving:"));
        assert!(ask(&app, "/own", "/own?x=1").2.starts_with("# HELP servable_info "));
        // TensorFlow Serving's page is the one that its configuration asks for.
        assert!(ask(&paths("/m", "/m"), "/m", "/m").2.contains(":tensorflow:serving:"));
    }

    #[test]
    fn tensorflow_servings_page_takes_no_query() {
        let options = Options { prometheus_path: "/p".to_owned(), ..Options::default() };
        let app = Arc::new(App::new(options));

        let expected = "Unexpected path: /p?x=1. Should be /p".to_owned();
        assert_eq!(ask(&app, "/p", "/p?x=1"), (400, "text/plain", expected));
    }
}
