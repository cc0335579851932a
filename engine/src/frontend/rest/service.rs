//! What is answered to each request, whatever connection it came over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::gzip::{self, Inflation};
use super::head::{Head as RequestHead, Limits};
use super::media::Media;
use super::reply::Reply;
use super::url::{self, Action, Method, Refusal, Route};
use super::{connection, Page};
use crate::access::{Scopes, Token};
use crate::admission::Permit;
use crate::app::{deadline_after_ms, App};
use crate::frontend::peer::Peer;
use crate::inference::head;
use crate::memory;
use crate::metrics::{Exchange, Method as Counted, Protocol, Stage};
use crate::servable::RunOptions;
use crate::serving_map::ModelSpec;
use crate::status::{Code, Result, Status};
use crate::turns::Client;

/// Documents and answers above this are not converted on an I/O thread.
const LARGE: usize = 64 << 10;
/// Elements of an answer that make it large.
pub(super) const LARGE_ANSWER: usize = 8 << 10;
/// How many bytes of tensors a byte of JSON becomes at worst: `1,` is a number of eight bytes, in a
/// vector that has grown to twice that, and `"",` a string.
const JSON_GROWS: usize = 8;

/// The method of the gRPC API that does the same.
fn counted_as(action: Action) -> Counted {
    match action {
        Action::Predict => Counted::Predict,
        Action::Classify => Counted::Classify,
        Action::Regress => Counted::Regress,
        Action::Status => Counted::GetModelStatus,
        Action::Metadata => Counted::GetModelMetadata,
        Action::MultiInference => Counted::MultiInference,
        Action::List => Counted::Other,
        Action::Reload => Counted::HandleReloadConfigRequest,
    }
}

pub struct Service {
    pub app: Arc<App>,
    pub pages: HashMap<String, Page>,
}

/// The service, as one peer sees it.
#[derive(Clone)]
pub struct Session {
    pub service: Arc<Service>,
    pub peer: Peer,
}

impl Session {
    pub fn new(service: &Arc<Service>, peer: IpAddr) -> Self {
        let client = Client::connected();
        let peer = Peer { is_local: peer.is_loopback(), client, ..Peer::default() };
        Self { service: service.clone(), peer }
    }
}

impl connection::Service for Session {
    async fn answer(&self, head: &RequestHead, body: Vec<u8>, permit: Arc<Permit>) -> Reply {
        let token = match self.service.authorized(head) {
            Ok(token) => token,
            Err(status) => return self.service.refused(&status),
        };
        let has_admin_token = token.is_some_and(|token| token.may_administrate());
        let peer = Peer { has_admin_token, ..self.peer };
        let reply = self.service.answer(head, body, peer, permit).await;
        let least = self.service.app.options.rest_compression_min_bytes;
        let is_worth_it = least > 0 && reply.body.len() >= least && reply.status == 200;
        if head.accepts_gzip && is_worth_it {
            return self.service.compressed(self.peer.client, reply).await;
        }
        reply
    }

    fn permit(&self) -> Arc<Permit> {
        Arc::new(self.service.app.admission.permit())
    }

    fn refusal(&self, head: &RequestHead) -> Option<Reply> {
        self.service.authorized(head).err().map(|status| self.service.refused(&status))
    }

    fn limits(&self) -> Limits {
        Limits::of(&self.service.app.options)
    }

    fn is_leaving(&self) -> bool {
        self.service.app.is_leaving()
    }
}

/// Pages that need no token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What an action needs where tokens are asked for.
fn needed(action: Action) -> Scopes {
    match action {
        Action::Predict | Action::Classify | Action::Regress | Action::MultiInference => {
            Scopes::PREDICT
        }
        Action::Metadata => Scopes::PREDICT.or(Scopes::STATUS),
        Action::Status | Action::List => Scopes::STATUS,
        Action::Reload => Scopes::ADMIN,
    }
}

impl Service {
    /// The token that allows a request, `None` where none is needed. Everything that counts stands
    /// in the head.
    fn authorized(&self, head: &RequestHead) -> Result<Option<Arc<Token>>> {
        let access = &self.app.access;
        if !access.is_asked_for() {
            return Ok(None);
        }
        let Some(target) = url::matched(&head.target) else { return Ok(None) };
        let admit = |needed, what: &str| {
            access.admit(head.authorization.iter().map(|secret| &*secret.0), needed, what)
        };
        let page = url::bare_path(target);
        if self.pages.contains_key(page) {
            let options = &self.app.options;
            let is_metrics = [&*options.metrics_path, &options.prometheus_path].contains(&page);
            if OPEN.contains(&page) && !is_metrics {
                return Ok(None);
            }
            return admit(Scopes::METRICS, page);
        }
        // Browsers ask with OPTIONS before they show who asks; and of what is not there nothing
        // can be learned.
        let Some(method) = head.method.filter(|&method| method != Method::Options) else {
            return Ok(None);
        };
        if !url::is_api(target) {
            return Ok(None);
        }
        let extended = self.app.options.rest_api_extensions;
        let Ok(route) = url::route(method, target, extended) else {
            return admit(Scopes::ANY, "This request");
        };
        let what = match route.action {
            Action::List => "The list of models",
            action => counted_as(action).name(),
        };
        let token = admit(needed(route.action), what)?;
        if let Some(token) = &token {
            access.check_models(token, [route.name.as_str()])?;
        }
        Ok(token)
    }

    fn refused(&self, status: &Status) -> Reply {
        Reply { cors: self.app.options.rest_enable_cors, ..Reply::error(status) }
    }

    async fn answer(
        &self,
        head: &RequestHead,
        body: Vec<u8>,
        peer: Peer,
        permit: Arc<Permit>,
    ) -> Reply {
        let Some(method) = head.method else { return Reply::page(501) };
        let Some(target) = url::matched(&head.target) else { return Reply::page(400) };
        if let Some(page) = self.pages.get(url::bare_path(target)) {
            return page(target);
        }
        if !url::is_api(target) {
            return Reply::page(404);
        }
        let mut exchange = self.app.metrics.exchange(Counted::Other, Protocol::Rest);
        let request = Request { method, target, head, peer, permit };
        let answered = self.api(request, body, &mut exchange).await;
        exchange.finish(answered.as_ref().map_or_else(Failure::code, |_| Code::Ok));
        let mut reply = answered.unwrap_or_else(|failure| failure.reply());
        reply.cors = self.app.options.rest_enable_cors;
        reply
    }

    async fn compressed(&self, client: Client, mut reply: Reply) -> Reply {
        let plain = Bytes::from(std::mem::take(&mut reply.body));
        let work = plain.clone();
        match self.app.compute.run(client, None, move || Ok(gzip::deflate(&work))).await {
            Ok(body) => Reply { body, is_gzip: true, ..reply },
            // Nobody has to have it compressed.
            Err(_) => Reply { body: plain.into(), ..reply },
        }
    }
}

/// A request without its body.
struct Request<'r> {
    method: Method,
    target: &'r str,
    head: &'r RequestHead,
    peer: Peer,
    permit: Arc<Permit>,
}

/// A request's body as it arrived, and what its head says of it.
pub(super) struct Body {
    bytes: Vec<u8>,
    is_gzip: bool,
    pub content: Media,
    /// What the answer is to be.
    pub accept: Option<Media>,
    /// For a body that has no place for them.
    pub signature_name: String,
    pub output_filter: Vec<String>,
    /// Others go first where requests wait for one another.
    pub is_low_priority: bool,
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
    /// Whom the answer is for.
    pub client: Client,
    /// What the request holds.
    pub permit: Arc<Permit>,
}

impl Body {
    /// Whether making sense of it takes long.
    pub fn is_large(&self) -> bool {
        self.bytes.len() > LARGE || self.is_gzip
    }

    pub fn run_options(&self) -> RunOptions {
        RunOptions {
            deadline: self.deadline,
            is_low_priority: self.is_low_priority,
            client: self.client,
        }
    }

    pub fn read(self, inflation: &Inflation) -> std::result::Result<Vec<u8>, Failure> {
        let bytes = if self.is_gzip {
            let inflated = gzip::inflate(&self.bytes, inflation)
                .map_err(|gzip::TooLarge| Failure::TooLarge)?;
            self.permit.charge(inflated.len()).map_err(Failure::Busy)?;
            inflated
        } else {
            self.bytes
        };
        if self.content.of_body(&bytes) == Media::Json {
            // Before it is parsed: what becomes of it is known only then.
            let tensors = bytes.len().saturating_mul(JSON_GROWS);
            let has_room = self.permit.charge(tensors).and_then(|()| memory::expect_room(tensors));
            has_room.map_err(Failure::Busy)?;
        }
        Ok(bytes)
    }
}

/// Why a request is not answered with success.
pub(super) enum Failure {
    Status(Status),
    /// Others hold what the request needs.
    Busy(Status),
    /// The body is too large once it is inflated.
    TooLarge,
    /// Told by the HTTP status alone.
    Silent(Code),
}

impl Failure {
    fn code(&self) -> Code {
        match self {
            Failure::Status(status) | Failure::Busy(status) => status.code,
            Failure::TooLarge => Code::ResourceExhausted,
            Failure::Silent(code) => *code,
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Failure::Status(status) => Reply::error(status),
            Failure::Busy(status) => Reply::busy(status),
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
        Request { method, target, head, peer, permit }: Request<'_>,
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
        let Route { action, name, version } =
            match url::route(method, target, self.app.options.rest_api_extensions) {
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
        let runs = matches!(
            action,
            Action::Predict | Action::Classify | Action::Regress | Action::MultiInference
        );
        if runs {
            permit.enter()?;
        }
        let deadline = deadline_after_ms(self.app.options.rest_timeout_ms);
        let asked = head.timeout_ms.and_then(|ms| deadline_after_ms(ms.into()));
        let body = Body {
            bytes: body,
            is_gzip: head.is_gzip,
            content: head.content,
            accept: head.accept,
            signature_name: head.signature_name.clone(),
            output_filter: head.output_filter.clone(),
            is_low_priority: head.is_low_priority,
            deadline: [deadline, asked].into_iter().flatten().min(),
            client: peer.client,
            permit: permit.clone(),
        };
        match action {
            Action::List => return Ok(Reply::json(200, self.list())),
            Action::Reload => return self.reload(head, peer, body).await,
            _ => {}
        }
        if name.is_empty() {
            return Err(Status::invalid_argument("Missing model name in request.").into());
        }
        let spec = ModelSpec { name, version, signature_name: String::new() };
        let (media, answered) = match action {
            Action::Status => (Media::Json, self.status(&spec)?),
            Action::Metadata => (Media::Json, self.metadata(&spec, exchange)?),
            _ => {
                // What is wrong with a request counts for the version that it is for.
                if let Ok(handle) = self.app.map.describe(&spec) {
                    exchange.resolved(&handle.series, "");
                }
                match action {
                    Action::Classify => {
                        self.infer(head::Method::Classify, spec, body, exchange).await?
                    }
                    Action::Regress => {
                        self.infer(head::Method::Regress, spec, body, exchange).await?
                    }
                    Action::MultiInference => {
                        (Media::Json, self.multi_inference(spec, body, exchange).await?)
                    }
                    _ => self.predict(spec, body, exchange).await?,
                }
            }
        };
        exchange.ended(Stage::Encode);
        Ok(Reply::new(200, media.content_type(), answered))
    }

    /// Do work that grows with a request here or, until its deadline, on a compute thread.
    pub(super) async fn convert<T: Send + 'static, E: Send + 'static + From<Status>>(
        &self,
        is_large: bool,
        options: RunOptions,
        work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
    ) -> std::result::Result<T, E> {
        if is_large {
            self.app.compute.run(options.client, options.deadline, move || Ok(work())).await?
        } else {
            work()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::app::Options;

    #[test]
    fn each_connection_is_a_client_whose_requests_are_run_for_it() {
        let app = Arc::new(App::new(Options::default()));
        let service = Arc::new(Service { app, pages: HashMap::new() });
        let [one, other] =
            [(), ()].map(|()| Session::new(&service, Ipv4Addr::LOCALHOST.into()).peer.client);
        let body = Body {
            bytes: Vec::new(),
            is_gzip: false,
            content: Media::Json,
            accept: None,
            signature_name: String::new(),
            output_filter: Vec::new(),
            is_low_priority: false,
            deadline: None,
            client: one,
            permit: Arc::new(service.app.admission.permit()),
        };

        assert_ne!(one, other);
        assert_ne!(one, Client::NOBODY);
        assert_eq!(body.run_options().client, one);
    }
}
