//! One gRPC message in, one message and its trailers out.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::{timeout_at, Instant};
use tonic::{Code, Status};

use super::outbox::{Outbox, Waiting};
use crate::admission::{Admission, Permit};
use crate::frontend::pace::Pace;
use crate::memory;
use crate::wire::{Message, FRAME_HEADER};

const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a compressed message that are made before there is room for more.
const INFLATED_AT_A_TIME: usize = 1 << 20;

/// The one message in the body of a request, compressed as its head says in `encoding`.
///
/// # Errors
/// As gRPC has them: RESOURCE_EXHAUSTED for a message above `limit` or one that there is no room
/// for, INTERNAL for a broken one, UNIMPLEMENTED for a compression that is not known here,
/// DEADLINE_EXCEEDED for one that comes too slowly.
pub async fn message<B>(
    body: B,
    encoding: Option<HeaderValue>,
    limit: usize,
    permit: &Permit,
) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut body = Incoming { body, pace: None };
    let mut first = Bytes::new();
    // The header may be split over frames, and an empty frame may come before it.
    while first.len() < FRAME_HEADER {
        let Some(data) = body.next().await? else {
            return Err(Status::internal("The request has no message"));
        };
        first = if first.is_empty() { data } else { [first, data].concat().into() };
    }
    let is_compressed = first.get_u8() != 0;
    let length = first.get_u32() as usize;
    if length > limit {
        return Err(too_large(length, limit));
    }
    permit.charge(first.len())?;
    let message = if first.len() >= length {
        first
    } else {
        let mut whole = Vec::new();
        memory::room_for_promised(&mut whole, first.len(), length)?;
        whole.extend_from_slice(&first);
        while whole.len() < length {
            let Some(data) = body.next().await? else {
                return Err(Status::internal("The request ended in its message"));
            };
            // What has arrived counts, and not what was promised: that costs nothing.
            permit.charge(data.len())?;
            let missing = length - whole.len();
            memory::room_for_promised(&mut whole, data.len(), missing)?;
            whole.extend_from_slice(&data);
        }
        Bytes::from(whole)
    };
    if message.len() > length || (!body.body.is_end_stream() && body.next().await?.is_some()) {
        return Err(Status::internal("The request has more than one message"));
    }
    if is_compressed {
        return decompressed(encoding.as_ref(), &message, limit, permit);
    }
    Ok(message)
}

/// The body of a request on its way.
struct Incoming<B> {
    body: B,
    /// `None` until there is something to wait for.
    pace: Option<Pace>,
}

impl<B> Incoming<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next frame of data that is not empty, `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let mut frame = self.body.frame();
            let is_there = std::future::poll_fn(|cx| {
                Poll::Ready(match Pin::new(&mut frame).poll(cx) {
                    Poll::Ready(frame) => Some(frame),
                    Poll::Pending => None,
                })
            });
            let frame = match is_there.await {
                Some(frame) => frame,
                None => {
                    let pace = self.pace.get_or_insert_with(|| Pace::new(Instant::now()));
                    let frame = Box::pin(timeout_at(pace.deadline(), frame)).await;
                    frame.map_err(|_| Status::deadline_exceeded("The request came too slowly"))?
                }
            };
            let Some(frame) = frame else { return Ok(None) };
            match frame.map_err(|error| Status::from_error(error.into()))?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    if let Some(pace) = &mut self.pace {
                        pace.came(data.len(), Instant::now());
                    }
                    return Ok(Some(data));
                }
                Err(_trailers) => return Ok(None),
            }
        }
    }
}

fn too_large(length: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("Received message larger than max ({length} vs. {limit})"))
}

fn decompressed(
    encoding: Option<&HeaderValue>,
    message: &[u8],
    limit: usize,
    permit: &Permit,
) -> Result<Bytes, Status> {
    match encoding.map(HeaderValue::as_bytes) {
        Some(b"gzip") => inflated(GzDecoder::new(message), limit, permit),
        // What gRPC calls deflate is a zlib stream; some peers leave its header out.
        Some(b"deflate") => match inflated(ZlibDecoder::new(message), limit, permit) {
            Err(status) if status.code() == Code::Internal => {
                inflated(DeflateDecoder::new(message), limit, permit)
            }
            inflated => inflated,
        },
        _ => Err(Status::unimplemented("Only gzip and deflate are known as compression")),
    }
}

/// What a decoder makes, charged piece by piece: how much it will be nobody knows.
fn inflated(mut decoder: impl Read, limit: usize, permit: &Permit) -> Result<Bytes, Status> {
    let mut inflated = Vec::new();
    loop {
        // One byte more than allowed tells a message that is too large.
        let most = INFLATED_AT_A_TIME.min(limit + 1 - inflated.len());
        memory::room(&mut inflated, most)?;
        let read = decoder.by_ref().take(most as u64).read_to_end(&mut inflated);
        let read = read.map_err(|_| Status::internal("The message cannot be decompressed"))?;
        permit.charge(read)?;
        if inflated.len() > limit {
            return Err(too_large(inflated.len(), limit));
        }
        if read < most {
            return Ok(inflated.into());
        }
    }
}

/// The message, if it is not larger than what may be sent.
///
/// # Errors
/// RESOURCE_EXHAUSTED.
pub fn sized(message: Message, limit: usize) -> Result<Message, Status> {
    let length = message.as_slice().len();
    if length > limit {
        let text = format!("Sent message larger than max ({length} vs. {limit})");
        return Err(Status::resource_exhausted(text));
    }
    Ok(message)
}

/// The response of a call, whose message waits in `outbox` until it is taken.
pub fn response(
    answer: Result<Message, Status>,
    outbox: &Arc<Outbox>,
    admission: &Arc<Admission>,
) -> Response<Answer> {
    match answer {
        // A status without a message is headers only.
        Err(status) => status.into_http(),
        Ok(message) => {
            let message = outbox.put(message.into_frame(), admission);
            let mut response = Response::new(Answer::Message(message));
            response.headers_mut().insert(CONTENT_TYPE, APPLICATION_GRPC);
            response
        }
    }
}

/// The body of an answer.
#[derive(Default)]
pub enum Answer {
    Message(Waiting),
    Trailers,
    #[default]
    End,
}

impl http_body::Body for Answer {
    type Data = Waiting;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Waiting>, Status>>> {
        Poll::Ready(match &mut *self {
            Answer::Message(message) => {
                let message = message.take();
                *self = Answer::Trailers;
                Some(Ok(Frame::data(message)))
            }
            Answer::Trailers => {
                *self = Answer::End;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Answer::End => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Admission, Limits};
    use http_body_util::StreamBody;
    use std::io::Write;
    use tokio_stream::iter;
    use tonic::body::Body;

    fn receive(frames: &[&[u8]], encoding: Option<&'static str>) -> Result<Bytes, Status> {
        let frames: Vec<Result<Frame<Bytes>, Status>> =
            frames.iter().map(|data| Ok(Frame::data(Bytes::copy_from_slice(data)))).collect();
        let body = Body::new(StreamBody::new(iter(frames)));
        let encoding = encoding.map(HeaderValue::from_static);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let permit = Admission::new(Limits::NONE).permit();
        runtime.block_on(message(body, encoding, 10, &permit))
    }

    #[test]
    fn a_message_arrives_however_it_is_split() {
        for frames in [
            &[&b"\0\0\0\0\x03abc"[..]][..],
            &[b"\0", b"", b"\0\0", b"\0\x03", b"a", b"bc"],
            &[b"\0\0\0\0\x03", b"abc"],
            &[b"\0\0\0\0\x03abc", b""],
        ] {
            assert_eq!(receive(frames, None).unwrap(), "abc", "{frames:?}");
        }
        assert_eq!(receive(&[b"\0\0\0\0\0"], None).unwrap(), "");
    }

    #[test]
    fn broken_and_oversized_requests_are_refused_with_grpcs_codes() {
        for (frames, expected) in [
            (&[][..], Code::Internal),
            (&[&b"\0\0"[..]], Code::Internal),
            (&[b"\0\0\0\0\x03ab"], Code::Internal),
            (&[b"\0\0\0\0\x01ab"], Code::Internal),
            (&[b"\0\0\0\0\x01a", b"\0\0\0\0\0"], Code::Internal),
            (&[b"\0\0\0\0\x0b"], Code::ResourceExhausted),
            (&[b"\0\xff\xff\xff\xff"], Code::ResourceExhausted),
            (&[b"\x01\0\0\0\x01a"], Code::Unimplemented),
        ] {
            assert_eq!(receive(frames, None).unwrap_err().code(), expected, "{frames:?}");
        }
    }

    #[test]
    fn compressed_messages_are_inflated_up_to_the_limit() {
        let gzip = |text: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let framed = |message: Vec<u8>| {
            let mut frame = vec![1, 0, 0, 0, u8::try_from(message.len()).unwrap()];
            frame.extend(message);
            frame
        };
        let within = |limit: usize, message: &[u8]| {
            let permit = Admission::new(Limits { bytes: 1 << 20, ..Limits::NONE }).permit();
            let encoding = HeaderValue::from_static("gzip");
            decompressed(Some(&encoding), message, limit, &permit).map_err(|s| s.code())
        };

        assert_eq!(within(10, &gzip(b"abc")).unwrap(), "abc");
        assert_eq!(within(10, &gzip(&[0; 10])).unwrap().len(), 10);
        assert_eq!(within(10, &gzip(&[0; 11])), Err(tonic::Code::ResourceExhausted));
        assert_eq!(within(10, b"junk"), Err(tonic::Code::Internal));
        // A message that is alone may be larger than the budget, in several pieces.
        let large = INFLATED_AT_A_TIME * 3 + 1;
        assert_eq!(within(large, &gzip(&vec![0; large])).unwrap().len(), large);
        let too_long = framed(gzip(b"abc"));
        assert_eq!(
            receive(&[&too_long], Some("gzip")).unwrap_err().code(),
            tonic::Code::ResourceExhausted
        );
    }
}
