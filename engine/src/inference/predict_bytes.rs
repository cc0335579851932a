//! Predict on serialized messages: `PredictRequest` bytes in, `PredictResponse` bytes out.
//!
//! What gRPC receives and what warm-up files hold. The request is taken apart in place; each
//! tensor's values are moved once, from the message into the buffer the runtime reads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::app::App;
use crate::inference::predict::{self, Input};
use crate::servable::RunOptions;
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::{Code, Result, Status};
use crate::tensor::proto::{self, Encoder, Encoding};
use crate::tensor::Tensor;
use crate::wire::{self, Field, Malformed, Message, Reader};

/// A `PredictRequest` taken apart.
#[derive(Default)]
pub struct Request {
    pub spec: Option<ModelSpec>,
    pub inputs: BTreeMap<String, SerializedTensor>,
    pub output_filter: Vec<String>,
}

/// A `TensorProto` as it arrived.
pub struct SerializedTensor {
    bytes: Bytes,
    limits: proto::Limits,
}

impl Input for SerializedTensor {
    fn to_tensor(&self) -> Result<Tensor> {
        proto::decode(&self.bytes, self.limits)
    }
}

/// Requests above this are decoded on a compute thread, so that the I/O thread is free.
const LARGE: usize = 256 << 10;

/// Answer a serialized `PredictRequest`.
///
/// # Errors
/// Specification 1.4; INTERNAL when the bytes are none.
pub async fn predict(app: &Arc<App>, message: Bytes, options: RunOptions) -> Result<Message> {
    let request = Request::parse(&message).map_err(|Malformed| unparsable())?;
    let spec = request.spec.as_ref();
    let spec = spec.ok_or_else(|| Status::invalid_argument("Missing ModelSpec"))?;
    let handle = app.map.resolve(spec)?;
    let prepared = if message.len() > LARGE {
        let check = app.options.enable_signature_method_name_check;
        let shared = handle.clone();
        app.compute.run(move || request.prepare(&shared, check)).await?
    } else {
        request.prepare(&handle, app.options.enable_signature_method_name_check)?
    };
    let Prepared { signature_name, feeds, outputs } = prepared;
    let (aliases, fetches): (Vec<String>, Vec<String>) = outputs.into_iter().unzip();
    let tensors = app.run(handle.clone(), feeds, fetches, options).await?;
    let encoding = match app.options.enable_serialization_as_tensor_content {
        true => Encoding::Content,
        false => Encoding::Typed,
    };
    Ok(response(&handle, &signature_name, &aliases, &tensors, encoding))
}

/// Answer a serialized `PredictRequest` with a version that is not being served, on the calling
/// thread; the model it names does not matter.
///
/// # Errors
/// As [`predict`].
pub fn predict_on(
    handle: &ServableHandle,
    message: &Bytes,
    options: RunOptions,
) -> Result<Message> {
    let request = Request::parse(message).map_err(|Malformed| unparsable())?;
    let Prepared { signature_name, feeds, outputs } = request.prepare(handle, false)?;
    let (aliases, fetches): (Vec<String>, Vec<String>) = outputs.into_iter().unzip();
    let tensors = handle.servable.run(feeds, &fetches, options)?;
    Ok(response(handle, &signature_name, &aliases, &tensors, Encoding::Typed))
}

fn unparsable() -> Status {
    Status::new(Code::Internal, "The request message cannot be parsed")
}

/// What a request comes to, ready to run.
struct Prepared {
    signature_name: String,
    feeds: Vec<(String, Tensor)>,
    outputs: Vec<(String, String)>,
}

impl Request {
    /// # Errors
    /// When the bytes are no `PredictRequest`.
    pub fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        let limits = proto::Limits::for_message(message.len());
        let mut request = Self::default();
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(range)) => {
                    let spec = request.spec.get_or_insert_default();
                    crate::inference::spec::merge(message, range, spec)?;
                }
                (2, Field::Bytes(range)) => {
                    let (name, tensor) = entry(message, range)?;
                    let bytes = message.slice(tensor);
                    request.inputs.insert(name, SerializedTensor { bytes, limits });
                }
                (3, Field::Bytes(range)) => {
                    request.output_filter.push(wire::text(&message[range])?.to_owned());
                }
                _ => {}
            }
        }
        Ok(request)
    }

    fn prepare(self, handle: &ServableHandle, check_method: bool) -> Result<Prepared> {
        let requested = self.spec.as_ref().map_or("", |spec| &spec.signature_name);
        let signature_name = predict::signature_name(requested).to_owned();
        let signatures = handle.servable.signatures();
        let signature = predict::signature(signatures, &signature_name, check_method)?;
        let feeds = predict::feeds(signature, &self.inputs)?;
        let outputs = predict::fetches(signature, &self.output_filter)?;
        Ok(Prepared { signature_name, feeds, outputs })
    }
}

/// Key and value of an entry of `inputs`; the last of several counts.
fn entry(
    message: &Bytes,
    range: Range<usize>,
) -> std::result::Result<(String, Range<usize>), Malformed> {
    let mut name = "";
    let mut tensor = range.start..range.start;
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => name = wire::text(&message[range])?,
            (2, Field::Bytes(range)) => tensor = range,
            _ => {}
        }
    }
    Ok((name.to_owned(), tensor))
}

/// The serialized `PredictResponse`, written in one buffer of its final size.
fn response(
    handle: &ServableHandle,
    signature_name: &str,
    aliases: &[String],
    tensors: &[Tensor],
    encoding: Encoding,
) -> Message {
    let encoders: Vec<Encoder<'_>> =
        tensors.iter().map(|tensor| Encoder::new(tensor, encoding)).collect();
    let entry_len = |alias: &String, encoder: &Encoder<'_>| {
        wire::bytes_len(1, alias.len()) + wire::bytes_len(2, encoder.len())
    };
    let entries = aliases.iter().zip(&encoders);
    let len: usize = entries.clone().map(|(a, e)| wire::bytes_len(1, entry_len(a, e))).sum();
    let mut message = Message::with_capacity(len + handle.name.len() + signature_name.len() + 32);
    let out = message.bytes_mut();
    for (alias, encoder) in entries {
        wire::put_tag(out, 1, wire::BYTES);
        wire::put_varint(out, entry_len(alias, encoder) as u64);
        wire::put_bytes(out, 1, alias.as_bytes());
        wire::put_tag(out, 2, wire::BYTES);
        wire::put_varint(out, encoder.len() as u64);
        encoder.write(out);
    }
    crate::inference::spec::put(out, 2, &handle.name, signature_name, handle.version);
    message
}
