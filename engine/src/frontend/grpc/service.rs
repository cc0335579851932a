//! A gRPC service as a table from method to function, over serialized messages.
//!
//! Every method here is unary, so a call is: collect one message, answer one message and the
//! trailers. That much is done here, without the streams that would be set up for it otherwise
//! (about a third of the time of a small call).

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use tokio::time::timeout_at;

use super::outbox::Outbox;
use super::{authorization, unary};
use crate::access::Token;
use crate::admission::Permit;
use crate::app::{deadline_after_ms, App};
use crate::frontend::peer::Peer;
use crate::frontend::{LOW_PRIORITY, PRIORITY};
use crate::status::Status;
use crate::wire::Message;

/// What a call carries beside its message.
#[derive(Default)]
pub struct Call {
    /// When the client stops waiting.
    pub deadline: Option<Instant>,
    /// Others go first where requests wait for one another.
    pub is_low_priority: bool,
    pub peer: Peer,
    /// What the call holds, until it is answered.
    pub permit: Option<Permit>,
}

pub type Answer = Pin<Box<dyn Future<Output = Result<Message, Status>> + Send>>;

pub type Method = fn(Arc<App>, Bytes, Call) -> Answer;

/// The methods of one service.
pub trait Table: Send + Sync + 'static {
    const NAME: &'static str;

    /// The method of that name.
    fn method(name: &str) -> Option<Method>;

    /// Whether the method of that name runs a model: the others are answered however many do.
    fn runs(_name: &str) -> bool {
        false
    }
}

/// Most bytes of one message.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub receive: usize,
    pub send: usize,
}

/// A method, and what is to be known before it is called.
#[derive(Clone, Copy)]
pub struct Found {
    pub service: &'static str,
    pub method: Method,
    /// Whether it runs a model.
    pub runs: bool,
}

/// The method of a service.
pub fn find<T: Table>(method: &str) -> Option<Found> {
    Some(Found { service: T::NAME, method: T::method(method)?, runs: T::runs(method) })
}

/// Collect the message of a request, have the method answer it, and make a response of that.
///
/// The response comes when the client stops waiting at the latest.
///
/// What the future holds is moved from hand to hand before it is polled, so it is kept small: the
/// head of the request is read and dropped here, and what waits seldom is boxed where it waits.
pub fn answer<B>(
    app: Arc<App>,
    found: Found,
    limits: Limits,
    request: Request<B>,
    peer: Peer,
    outbox: Arc<Outbox>,
) -> impl Future<Output = Response<unary::Answer>> + use<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<unary::BoxError>,
{
    let (head, body) = request.into_parts();
    let begun = Begun::new(&app, found, &head, peer);
    let encoding = head.headers.get("grpc-encoding").cloned();
    async move {
        let Begun { token, deadline, is_low_priority, peer } = match begun {
            Ok(begun) => begun,
            // Nothing that a stranger sends is waited for.
            Err(status) => return unary::response(Err(status.into()), &outbox, &app.admission),
        };
        let admission = app.admission.clone();
        let permit = admission.permit();
        let answered = pin!(async move {
            let message = unary::message(body, encoding, limits.receive, &permit).await?;
            if let Some((token, name)) = &token {
                authorization::check_models(&app.access, token, name, &message)?;
            }
            if found.runs {
                permit.enter()?;
            }
            let call = Call { deadline, is_low_priority, peer, permit: Some(permit) };
            let answer = (found.method)(app, message, call).await?;
            unary::sized(answer, limits.send)
        });
        let answer = match deadline {
            None => answered.await,
            Some(deadline) => timeout_at(deadline.into(), answered)
                .await
                .unwrap_or_else(|_| Err(Status::timed_out().into())),
        };
        unary::response(answer, &outbox, &admission)
    }
}

/// What is known of a call from the head of its request.
struct Begun {
    /// Where tokens are asked for: the one that was shown, and the name of the method.
    token: Option<(Arc<Token>, String)>,
    deadline: Option<Instant>,
    is_low_priority: bool,
    peer: Peer,
}

impl Begun {
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED.
    fn new(app: &App, found: Found, head: &Parts, peer: Peer) -> Result<Self, Status> {
        let headers = &head.headers;
        let name = head.uri.path().rsplit('/').next().unwrap_or_default();
        let credentials = authorization::credentials(headers);
        let needed = authorization::needed(found.service, name);
        let token = app.access.admit(credentials, needed, name)?;
        let has_admin_token = token.as_ref().is_some_and(|token| token.may_administrate());
        let deadline = match deadline(headers) {
            None if found.runs => deadline_after_ms(app.options.grpc_default_timeout_ms),
            deadline => deadline,
        };
        Ok(Self {
            token: token.map(|token| (token, name.to_owned())),
            deadline,
            is_low_priority: is_low_priority(headers),
            peer: Peer { has_admin_token, ..peer },
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
