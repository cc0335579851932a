//! One gRPC message in, one message and its trailers out.

use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tonic::Status;

use crate::wire::{Message, FRAME_HEADER};

const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Memory taken for a message before it has arrived, whatever its length says.
const EAGER: usize = 4 << 20;

/// The one message of a request.
///
/// # Errors
/// As gRPC has them: RESOURCE_EXHAUSTED for a message above `limit`, INTERNAL for a broken one,
/// UNIMPLEMENTED for a compression that is not known here.
pub async fn message<B>(request: Request<B>, limit: usize) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let encoding = request.headers().get("grpc-encoding").cloned();
    let mut body = request.into_body();
    let mut first = Bytes::new();
    // The header may be split over frames, and an empty frame may come before it.
    while first.len() < FRAME_HEADER {
        let Some(data) = next_data(&mut body).await? else {
            return Err(Status::internal("The request has no message"));
        };
        first = if first.is_empty() { data } else { [first, data].concat().into() };
    }
    let is_compressed = first.get_u8() != 0;
    let length = first.get_u32() as usize;
    if length > limit {
        return Err(too_large(length, limit));
    }
    let message = if first.len() >= length {
        first
    } else {
        let mut whole = Vec::with_capacity(length.min(EAGER).max(first.len()));
        whole.extend_from_slice(&first);
        while whole.len() < length {
            let Some(data) = next_data(&mut body).await? else {
                return Err(Status::internal("The request ended in its message"));
            };
            whole.extend_from_slice(&data);
        }
        Bytes::from(whole)
    };
    if message.len() > length || (!body.is_end_stream() && next_data(&mut body).await?.is_some()) {
        return Err(Status::internal("The request has more than one message"));
    }
    if is_compressed {
        return decompressed(encoding.as_ref(), &message, limit);
    }
    Ok(message)
}

/// The next frame of data that is not empty, `None` at the end.
async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| Status::from_error(error.into()))?.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            Err(_trailers) => return Ok(None),
        }
    }
    Ok(None)
}

fn too_large(length: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("Received message larger than max ({length} vs. {limit})"))
}

fn decompressed(
    encoding: Option<&HeaderValue>,
    message: &[u8],
    limit: usize,
) -> Result<Bytes, Status> {
    let mut inflated = Vec::new();
    // One byte more than allowed tells a message that is too large.
    let cap = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = match encoding.map(HeaderValue::as_bytes) {
        Some(b"gzip") => GzDecoder::new(message).take(cap).read_to_end(&mut inflated),
        // What gRPC calls deflate is a zlib stream; some peers leave its header out.
        Some(b"deflate") => match ZlibDecoder::new(message).take(cap).read_to_end(&mut inflated) {
            Err(_) => {
                inflated.clear();
                DeflateDecoder::new(message).take(cap).read_to_end(&mut inflated)
            }
            read => read,
        },
        _ => return Err(Status::unimplemented("Only gzip and deflate are known as compression")),
    };
    read.map_err(|_| Status::internal("The message cannot be decompressed"))?;
    if inflated.len() > limit {
        return Err(too_large(inflated.len(), limit));
    }
    Ok(inflated.into())
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

/// The response of a call.
pub fn response(answer: Result<Message, Status>) -> Response<Answer> {
    match answer {
        // A status without a message is headers only.
        Err(status) => status.into_http(),
        Ok(message) => {
            let mut response = Response::new(Answer::Message(message.into_frame()));
            response.headers_mut().insert(CONTENT_TYPE, APPLICATION_GRPC);
            response
        }
    }
}

/// The body of an answer.
#[derive(Default)]
pub enum Answer {
    Message(Bytes),
    Trailers,
    #[default]
    End,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(match &mut *self {
            Answer::Message(message) => {
                let message = std::mem::take(message);
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
    use http_body_util::StreamBody;
    use std::io::Write;
    use tokio_stream::iter;
    use tonic::body::Body;

    fn receive(frames: &[&[u8]], encoding: Option<&'static str>) -> Result<Bytes, Status> {
        let frames: Vec<Result<Frame<Bytes>, Status>> =
            frames.iter().map(|data| Ok(Frame::data(Bytes::copy_from_slice(data)))).collect();
        let mut request = Request::new(Body::new(StreamBody::new(iter(frames))));
        if let Some(encoding) = encoding {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static(encoding));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(message(request, 10))
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
        use tonic::Code;
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
        let limited = |message: &[u8]| {
            decompressed(Some(&HeaderValue::from_static("gzip")), message, 10).map_err(|s| s.code())
        };

        assert_eq!(limited(&gzip(b"abc")).unwrap(), "abc");
        assert_eq!(limited(&gzip(&[0; 11])), Err(tonic::Code::ResourceExhausted));
        assert_eq!(limited(b"junk"), Err(tonic::Code::Internal));
        let too_long = framed(gzip(b"abc"));
        assert_eq!(
            receive(&[&too_long], Some("gzip")).unwrap_err().code(),
            tonic::Code::ResourceExhausted
        );
    }
}
