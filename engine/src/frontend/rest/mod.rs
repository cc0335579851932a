//! REST: the HTTP API of TensorFlow Serving.
//!
//! `connection` speaks HTTP/1 and `head` reads it, `url` says what is asked, `document`, `predict`
//! and `examples` turn JSON into tensors and back; this file puts them together.

mod connection;
mod document;
mod examples;
mod gzip;
mod head;
mod pages;
mod predict;
mod proto_json;
mod reply;
mod url;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::document::Document;
use self::head::Head;
use self::predict::Format;
pub use self::reply::Reply;
use self::url::{Action, Method, Refusal, Route};
use crate::app::{deadline_after_ms, App};
use crate::inference::model_status::{VersionStatus, STATES};
use crate::inference::{classify, predict as inference, regress};
use crate::metrics::{Exchange, Method as Counted, Protocol, Stage};
use crate::servable::RunOptions;
use crate::serving_map::{ModelSpec, ServableHandle, VersionChoice};
use crate::status::{Code, Result, Status};
use crate::tensor::json::text::write_string;
use crate::tensor::Tensor;

/// Connections beyond this wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// Documents and answers above this are not converted on an I/O thread.
const LARGE: usize = 64 << 10;
/// Elements of an answer that make it large.
const LARGE_ANSWER: usize = 8 << 10;
/// What a compressed body may grow to, whatever the limit on bodies is.
const MAX_INFLATED: usize = 100 << 20;

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
                connections.spawn(async move {
                    connection::serve(accepted, &*service, stopping).await;
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

/// The method of the gRPC API that does the same.
fn counted_as(action: Action) -> Counted {
    match action {
        Action::Predict => Counted::Predict,
        Action::Classify => Counted::Classify,
        Action::Regress => Counted::Regress,
        Action::Status => Counted::GetModelStatus,
        Action::Metadata => Counted::GetModelMetadata,
    }
}

struct Service {
    app: Arc<App>,
    pages: HashMap<String, Page>,
}

impl connection::Service for Service {
    async fn answer(&self, head: &Head, body: Vec<u8>) -> Reply {
        let Some(method) = head.method else { return Reply::page(501) };
        let Some(target) = url::matched(&head.target) else { return Reply::page(400) };
        if let Some(page) = self.pages.get(url::bare_path(target)) {
            return page(target);
        }
        if !url::is_api(target) {
            return Reply::page(404);
        }
        let mut exchange = self.app.metrics.exchange(Counted::Other, Protocol::Rest);
        let answered = self.api(method, target, head, body, &mut exchange).await;
        exchange.finish(answered.as_ref().map_or_else(Failure::code, |_| Code::Ok));
        let mut reply = answered.unwrap_or_else(|failure| failure.reply());
        reply.cors = self.app.options.rest_enable_cors;
        reply
    }

    fn max_body_bytes(&self) -> usize {
        self.app.options.max_body_bytes
    }
}

/// A request's body as it arrived.
struct Body {
    bytes: Vec<u8>,
    is_gzip: bool,
}

impl Body {
    /// Whether making sense of it takes long.
    fn is_large(&self) -> bool {
        self.bytes.len() > LARGE || self.is_gzip
    }

    fn read(self, limit: usize) -> std::result::Result<Vec<u8>, Failure> {
        if !self.is_gzip {
            return Ok(self.bytes);
        }
        gzip::inflate(&self.bytes, limit.min(MAX_INFLATED))
            .map_err(|gzip::TooLarge| Failure::TooLarge)
    }
}

/// Why a request is not answered with success.
enum Failure {
    Status(Status),
    /// The body is too large once it is inflated.
    TooLarge,
    /// Told by the HTTP status alone.
    Silent(Code),
}

impl Failure {
    fn code(&self) -> Code {
        match self {
            Failure::Status(status) => status.code,
            Failure::TooLarge => Code::ResourceExhausted,
            Failure::Silent(code) => *code,
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Failure::Status(status) => Reply::error(status),
            Failure::TooLarge => Reply::page(413),
            Failure::Silent(code) => Reply::empty(code.http()),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(status)
    }
}

impl Service {
    async fn api(
        &self,
        method: Method,
        target: &str,
        head: &Head,
        body: Vec<u8>,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<Reply, Failure> {
        if method == Method::Options {
            exchange.names("");
            if head.has_origin {
                return Ok(Reply::empty(200));
            }
            return Err(Failure::Silent(Code::FailedPrecondition));
        }
        let Route { action, name, version } = match url::route(method, target) {
            Ok(route) => route,
            Err(Refusal::Version { name }) => {
                exchange.names(&name);
                return Err(Failure::Silent(Code::InvalidArgument));
            }
            Err(Refusal::Malformed) => {
                exchange.names("");
                let message = format!("Malformed request: {} {target}", method.name());
                return Err(Status::invalid_argument(message).into());
            }
        };
        exchange.is_for(counted_as(action));
        exchange.names(&name);
        if name.is_empty() {
            return Err(Status::invalid_argument("Missing model name in request.").into());
        }
        let spec = ModelSpec { name, version, signature_name: String::new() };
        let body = Body { bytes: body, is_gzip: head.is_gzip };
        let answered = match action {
            Action::Status => self.status(&spec)?,
            Action::Metadata => self.metadata(&spec, exchange)?,
            Action::Predict | Action::Classify | Action::Regress => {
                // What is wrong with a request counts for the version that it is for.
                if let Ok(handle) = self.app.map.resolve(&spec) {
                    exchange.resolved(&handle.series, "");
                }
                match action {
                    Action::Classify => self.classify(spec, body, exchange).await?,
                    Action::Regress => self.regress(spec, body, exchange).await?,
                    _ => self.predict(spec, body, exchange).await?,
                }
            }
        };
        exchange.ended(Stage::Encode);
        Ok(Reply::json(200, answered))
    }

    /// Do work that grows with a request here or on a compute thread.
    async fn convert<T: Send + 'static, E: Send + 'static + From<Status>>(
        &self,
        is_large: bool,
        work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
    ) -> std::result::Result<T, E> {
        if is_large {
            self.app.compute.run(move || Ok(work())).await?
        } else {
            work()
        }
    }

    fn run_options(&self) -> RunOptions {
        RunOptions { deadline: deadline_after_ms(self.app.options.rest_timeout_ms) }
    }

    async fn predict(
        &self,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let options = self.run_options();
        let app = self.app.clone();
        let prepared = self
            .convert(body.is_large(), move || {
                let limit = app.options.max_body_bytes;
                Ok::<_, Failure>(prepare_predict(&app, &spec, &body.read(limit)?)?)
            })
            .await?;
        let Prepared { handle, signature_name, format, feeds, aliases, fetches } = prepared;
        exchange.resolved(&handle.series, &signature_name);
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle, feeds, fetches, options, exchange).await?;
        if outputs.len() != aliases.len() {
            return Err(Status::unknown("Predict internal error").into());
        }
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        let written = self
            .convert(elements > LARGE_ANSWER, move || {
                let named = aliases.iter().map(String::as_str).zip(&outputs);
                predict::body(format, &named.collect::<Vec<_>>())
            })
            .await;
        written.map_err(Failure::from)
    }

    /// The version, the signature's name and the examples of a request.
    async fn examples(
        &self,
        spec: ModelSpec,
        body: Body,
    ) -> std::result::Result<(Arc<ServableHandle>, String, Tensor), Failure> {
        let app = self.app.clone();
        self.convert(body.is_large(), move || {
            let body = body.read(app.options.max_body_bytes)?;
            let document = Document::parse(&body, |_| None)?;
            let signature_name = document.signature_name()?.unwrap_or_default();
            let examples = examples::examples(&document)?;
            let handle = app.map.resolve(&spec)?;
            Ok((handle, signature_name, examples.to_tensor()?))
        })
        .await
    }

    async fn classify(
        &self,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let options = self.run_options();
        let (handle, name, examples) = self.examples(spec, body).await?;
        exchange.resolved(&handle.series, handle.known_signature(inference::signature_name(&name)));
        let check = self.app.options.enable_signature_method_name_check;
        let signature = classify::signature(handle.servable.signatures(), &name, check)?;
        let plan = classify::Plan::new(signature)?;
        let count = examples.num_elements();
        let feeds = vec![(plan.input.clone(), examples)];
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle, feeds, plan.fetches(), options, exchange).await?;
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        let written = self
            .convert(elements > LARGE_ANSWER, move || {
                let outputs: Vec<&Tensor> = outputs.iter().collect();
                examples::classify_body(&plan.classifications(count, &outputs)?)
            })
            .await;
        written.map_err(Failure::from)
    }

    async fn regress(
        &self,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let options = self.run_options();
        let (handle, name, examples) = self.examples(spec, body).await?;
        exchange.resolved(&handle.series, handle.known_signature(inference::signature_name(&name)));
        let check = self.app.options.enable_signature_method_name_check;
        let signature = regress::signature(handle.servable.signatures(), &name, check)?;
        let plan = regress::Plan::new(signature)?;
        let count = examples.num_elements();
        let feeds = vec![(plan.input.clone(), examples)];
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle, feeds, plan.fetches(), options, exchange).await?;
        let written = self
            .convert(count > LARGE_ANSWER, move || {
                let outputs: Vec<&Tensor> = outputs.iter().collect();
                examples::regress_body(plan.regressions(count, &outputs)?)
            })
            .await;
        written.map_err(Failure::from)
    }

    /// A label is not looked at: all versions are told of.
    fn status(&self, spec: &ModelSpec) -> Result<Vec<u8>> {
        let version = match spec.version {
            VersionChoice::Version(version) => Some(version),
            VersionChoice::Latest | VersionChoice::Label(_) => None,
        };
        Ok(status_body(&self.app.states.get(&spec.name, version)?))
    }

    fn metadata(&self, spec: &ModelSpec, exchange: &mut Exchange<'_>) -> Result<Vec<u8>> {
        let handle = self.app.map.resolve(spec)?;
        exchange.resolved(&handle.series, "");
        let mut out = b"{\n\"model_spec\":{\n \"name\": ".to_vec();
        write_string(&mut out, spec.name.as_bytes());
        out.extend_from_slice(b",\n \"version\": \"");
        out.extend_from_slice(handle.version.to_string().as_bytes());
        out.extend_from_slice(
            b"\",\n \"signature_name\": \"\"\n}\n,\n\"metadata\": {\"signature_def\": ",
        );
        let map = handle.servable.signature_def_map();
        proto_json::write_message(&mut out, ".tensorflow.serving.SignatureDefMap", map, 0)
            .map_err(|_| Status::internal("The signatures of the model cannot be read."))?;
        out.extend_from_slice(b"\n}\n}\n");
        Ok(out)
    }
}

/// A Predict request, ready to run.
struct Prepared {
    handle: Arc<ServableHandle>,
    signature_name: String,
    format: Format,
    feeds: Vec<(String, Tensor)>,
    aliases: Vec<String>,
    fetches: Vec<String>,
}

fn prepare_predict(app: &App, spec: &ModelSpec, body: &[u8]) -> Result<Prepared> {
    // The version is looked up first, so that its signatures say what to read the numbers as; that
    // there is none is said only after what is wrong with the document.
    let resolved = app.map.resolve(spec);
    let mut document = Document::parse(body, |signature_name| {
        let handle = resolved.as_ref().ok()?;
        predict::guess(handle.servable.signatures(), signature_name)
    })?;
    let requested = document.signature_name()?.unwrap_or_default();
    let handle = resolved?;
    let name = inference::signature_name(&requested);
    let signature = predict::signature(handle.servable.signatures(), name)?;
    let (format, tensors) = predict::inputs(&mut document, signature, &requested)?;
    if app.options.enable_signature_method_name_check {
        inference::check_method_name(signature)?;
    }
    let feeds = tensors
        .into_iter()
        .filter_map(|(alias, tensor)| Some((signature.inputs.get(&alias)?.name.clone(), tensor)))
        .collect();
    let outputs = signature.outputs.iter().map(|(alias, info)| (alias.clone(), info.name.clone()));
    let (aliases, fetches) = outputs.unzip();
    let signature_name = name.to_owned();
    Ok(Prepared { handle, signature_name, format, feeds, aliases, fetches })
}

/// The body that tells what became of versions.
fn status_body(versions: &[VersionStatus]) -> Vec<u8> {
    let mut out = b"{\n \"model_version_status\": [".to_vec();
    for (at, version) in versions.iter().enumerate() {
        let VersionStatus { version, state, code, message } = version;
        let known = STATES.iter().find(|(number, _)| number == state);
        let state = known.map_or("UNKNOWN", |(_, name)| name);
        out.extend_from_slice(if at > 0 { b",\n  {\n" } else { b"\n  {\n" });
        out.extend_from_slice(
            format!(
                "   \"version\": \"{version}\",\n   \"state\": \"{state}\",\n   \"status\": {{\n    \
                 \"error_code\": \"{}\",\n    \"error_message\": ",
                code.name()
            )
            .as_bytes(),
        );
        write_string(&mut out, message.as_bytes());
        out.extend_from_slice(b"\n   }\n  }");
    }
    if !versions.is_empty() {
        out.extend_from_slice(b"\n ");
    }
    out.extend_from_slice(b"]\n}\n");
    out
}

#[cfg(test)]
mod tests;
