//! A gRPC service as a table from method to function, over serialized messages.
//!
//! Every method here is unary, so a call is: collect one message, answer one message and the
//! trailers. That much is done here, without the streams that would be set up for it otherwise
//! (about a third of the time of a small call).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::time::timeout_at;

use super::unary;
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

/// Collect the message of a request, have `method` answer it, and make a response of that.
///
/// The response comes when the client stops waiting at the latest.
pub async fn answer<B>(
    app: Arc<App>,
    method: Method,
    limits: Limits,
    request: Request<B>,
    peer: Peer,
) -> Response<unary::Answer>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<unary::BoxError>,
{
    let call = Call {
        deadline: deadline(request.headers()),
        is_low_priority: is_low_priority(request.headers()),
        peer,
    };
    let answered = async {
        let message = unary::message(request, limits.receive).await?;
        let answer = method(app, message, call).await?;
        unary::sized(answer, limits.send)
    };
    let answer = match call.deadline {
        None => answered.await,
        Some(deadline) => timeout_at(deadline.into(), answered)
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("Deadline Exceeded"))),
    };
    unary::response(answer)
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
