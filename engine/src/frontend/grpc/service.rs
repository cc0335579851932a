//! A gRPC service as a table from method to function, over serialized messages.
//!
//! Every method here is unary, so a call is: collect one message, answer one message and the
//! trailers. That much is done here, without the streams that would be set up for it otherwise
//! (about a third of the time of a small call); connections, HTTP/2, TLS and the other services
//! are tonic's.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::{authorization, unary};
use crate::app::App;
use crate::frontend::peer::Peer;
use crate::frontend::{LOW_PRIORITY, PRIORITY};
use crate::status::Status;
use crate::wire::Message;

/// What a call carries beside its message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// When the client stops waiting.
    pub deadline: Option<Instant>,
    /// Others go first where requests wait for one another.
    pub is_low_priority: bool,
    pub peer: Peer,
}

pub type Answer = Pin<Box<dyn Future<Output = Result<Message, Status>> + Send>>;

pub type Method = fn(Arc<App>, Bytes, Call) -> Answer;

/// The methods of one service.
pub trait Table: Send + Sync + 'static {
    const NAME: &'static str;

    /// The method of that name.
    fn method(name: &str) -> Option<Method>;
}

/// Most bytes of one message.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub receive: usize,
    pub send: usize,
}

/// A service of tonic's that answers from a [`Table`].
pub struct Methods<T> {
    app: Arc<App>,
    limits: Limits,
    table: PhantomData<fn() -> T>,
}

impl<T> Methods<T> {
    pub fn new(app: Arc<App>, limits: Limits) -> Self {
        Self { app, limits, table: PhantomData }
    }
}

impl<T> Clone for Methods<T> {
    fn clone(&self) -> Self {
        Self::new(self.app.clone(), self.limits)
    }
}

impl<T: Table> NamedService for Methods<T> {
    const NAME: &'static str = T::NAME;
}

impl<T: Table> Service<Request<Body>> for Methods<T> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The router matched "/<NAME>/" already.
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let Some(method) = T::method(name) else {
            return Box::pin(async { Ok(tonic::Status::unimplemented("").into_http()) });
        };
        let token = self.app.access.admit(
            authorization::credentials(request.headers()),
            authorization::needed(T::NAME, name),
            name,
        );
        let token = match token {
            Ok(token) => token.map(|token| (token, name.to_owned())),
            // Nothing that a stranger sends is waited for.
            Err(status) => {
                return Box::pin(async { Ok(tonic::Status::from(status).into_http()) });
            }
        };
        let app = self.app.clone();
        let limits = self.limits;
        Box::pin(async move {
            let mut call = Call {
                deadline: deadline(request.headers()),
                is_low_priority: is_low_priority(request.headers()),
                peer: peer(&request),
            };
            call.peer.has_admin_token =
                token.as_ref().is_some_and(|(token, _)| token.may_administrate());
            let may = |message: &Bytes| match &token {
                None => Ok(()),
                Some((token, name)) => {
                    authorization::check_models(&app.access, token, name, message)
                }
            };
            let answer = match unary::message(request, limits.receive).await {
                Ok(message) => match may(&message) {
                    Ok(()) => method(app, message, call).await.map_err(tonic::Status::from),
                    Err(status) => Err(status.into()),
                },
                Err(status) => Err(status),
            };
            Ok(unary::response(answer.and_then(|message| unary::sized(message, limits.send))))
        })
    }
}

/// When the client stops waiting, by its `grpc-timeout` header.
fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let timeout = parse_timeout(headers.get("grpc-timeout")?.as_bytes())?;
    Instant::now().checked_add(timeout)
}

fn is_low_priority(headers: &HeaderMap) -> bool {
    headers.get(PRIORITY).is_some_and(|value| value == LOW_PRIORITY)
}

/// At most eight digits and a unit.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn peer(request: &Request<Body>) -> Peer {
    request.extensions().get().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789n", None),
            ("m", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
        }
    }
}
