//! Predict: the request is taken apart in place, and each tensor's values are moved once, from the
//! message into the buffer the runtime reads.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::{missing_spec, Prepared, Request, Rules};
use crate::inference::predict::{self, Input};
use crate::inference::spec;
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::Result;
use crate::tensor::proto::{self, Encoder, Encoding};
use crate::tensor::Tensor;
use crate::wire::{self, Field, Malformed, Message, Reader};

/// A `PredictRequest` taken apart.
#[derive(Default)]
pub struct PredictRequest {
    spec: Option<ModelSpec>,
    inputs: BTreeMap<String, SerializedTensor>,
    output_filter: Vec<String>,
}

/// A `TensorProto` as it arrived.
struct SerializedTensor {
    bytes: Bytes,
    limits: proto::Limits,
}

impl Input for SerializedTensor {
    fn to_tensor(&self) -> Result<Tensor> {
        proto::decode(&self.bytes, self.limits)
    }
}

impl Request for PredictRequest {
    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        let limits = proto::Limits::for_message(message.len());
        let mut request = Self::default();
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(range)) => {
                    spec::merge(message, range, request.spec.get_or_insert_default())?;
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

    fn spec(&self) -> Result<&ModelSpec> {
        self.spec.as_ref().ok_or_else(missing_spec)
    }

    fn prepare(self, handle: &ServableHandle, rules: Rules) -> Result<Prepared> {
        let requested = self.spec.as_ref().map_or("", |spec| &spec.signature_name);
        let name = predict::signature_name(requested).to_owned();
        let signatures = handle.servable.signatures();
        let signature = predict::signature(signatures, &name, rules.check_method_name)?;
        let feeds = predict::feeds(signature, &self.inputs)?;
        let outputs = predict::fetches(signature, &self.output_filter)?;
        let (aliases, fetches): (Vec<String>, Vec<String>) = outputs.into_iter().unzip();
        let encoding = if rules.as_tensor_content { Encoding::Content } else { Encoding::Typed };
        let respond = move |handle: &ServableHandle, tensors: &[Tensor]| {
            Ok(response(handle, &name, &aliases, tensors, encoding))
        };
        Ok(Prepared { feeds, fetches, respond: Box::new(respond) })
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
    spec::put(out, 2, &handle.name, signature_name, handle.version);
    message
}
