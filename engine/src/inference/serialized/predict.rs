//! Predict: the request is taken apart in place, and each tensor's values are moved once, from the
//! message into the buffer the runtime reads.

use std::ops::Range;

use bytes::Bytes;

use super::{missing_spec, Prepared, Request, Rules, LARGE_TENSOR};
use crate::inference::predict::{self, Input};
use crate::inference::spec;
use crate::metrics::Method;
use crate::request_log::Kind;
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::{Result, Status};
use crate::tensor::proto::{self, Encoder, Encoding};
use crate::tensor::Tensor;
use crate::wire::{self, Field, Malformed, Message, Reader};

/// A `PredictRequest` taken apart.
#[derive(Default)]
pub struct PredictRequest {
    spec: Option<ModelSpec>,
    /// Name and tensor of every entry, in the order of the message; positions, because a message
    /// may have millions of them.
    inputs: Vec<(Range<usize>, Range<usize>)>,
    message: Bytes,
    output_filter: Vec<String>,
}

/// A `TensorProto` as it arrived.
struct SerializedTensor<'m> {
    message: &'m Bytes,
    tensor: Range<usize>,
    limits: proto::Limits,
}

impl Input for SerializedTensor<'_> {
    fn to_tensor(&self) -> Result<Tensor> {
        proto::decode(&self.message.slice(self.tensor.clone()), self.limits)
    }
}

impl Request for PredictRequest {
    const METHOD: Method = Method::Predict;
    const KIND: Kind = Kind::Predict;

    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        let mut request = Self { message: message.clone(), ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(range)) => {
                    spec::merge(message, range, request.spec.get_or_insert_default())?;
                }
                (2, Field::Bytes(range)) => {
                    request.inputs.push(entry(message, range)?);
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
        let Plan { signature_name, feeds, aliases, fetches } = self.plan(handle, rules)?;
        let encoding = if rules.as_tensor_content { Encoding::Content } else { Encoding::Typed };
        let respond = move |handle: &ServableHandle, tensors: &[Tensor]| {
            response(handle, &signature_name, &aliases, tensors, encoding)
        };
        Ok(Prepared { feeds, fetches, respond: Box::new(respond) })
    }
}

/// What a request comes to, given the version that it is for.
pub struct Plan {
    /// Resolved.
    pub signature_name: String,
    /// By names in the graph.
    pub feeds: Vec<(String, Tensor)>,
    /// Names of the outputs in the signature, and in the graph.
    pub aliases: Vec<String>,
    pub fetches: Vec<String>,
}

impl PredictRequest {
    /// # Errors
    /// Specification 1.4, in its order.
    pub fn plan(&self, handle: &ServableHandle, rules: Rules) -> Result<Plan> {
        let requested = self.spec.as_ref().map_or("", |spec| &spec.signature_name);
        let signature_name = predict::signature_name(requested).to_owned();
        let signatures = handle.servable.signatures();
        let signature = predict::signature(signatures, &signature_name, rules.check_method_name)?;
        let feeds = predict::feeds(signature, &self.inputs(rules))?;
        let outputs = predict::fetches(signature, &self.output_filter)?;
        let (aliases, fetches) = outputs.into_iter().unzip();
        Ok(Plan { signature_name, feeds, aliases, fetches })
    }

    /// The inputs by name; of several with one name the last counts.
    fn inputs(&self, rules: Rules) -> Vec<(&str, SerializedTensor<'_>)> {
        let mut limits = proto::Limits::for_message(self.message.len(), rules.most.expanded_bytes);
        if rules.is_hurried {
            limits.max_bytes = limits.max_bytes.min(LARGE_TENSOR);
        }
        let input = |(name, tensor): &(Range<usize>, Range<usize>)| {
            // Checked when the message was parsed.
            let name = wire::text(&self.message[name.clone()]).unwrap_or_default();
            (name, SerializedTensor { message: &self.message, tensor: tensor.clone(), limits })
        };
        let mut inputs: Vec<_> = self.inputs.iter().rev().map(input).collect();
        // Stable, so that the last of equals, which stands first now, is the one that stays.
        inputs.sort_by_key(|(name, _)| *name);
        inputs.dedup_by_key(|(name, _)| *name);
        inputs
    }
}

/// Key and value of an entry of `inputs`.
fn entry(
    message: &Bytes,
    range: Range<usize>,
) -> std::result::Result<(Range<usize>, Range<usize>), Malformed> {
    let (mut name, mut tensor) = (range.start..range.start, range.start..range.start);
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => {
                wire::utf8(&message[range.clone()])?;
                name = range;
            }
            (2, Field::Bytes(range)) => tensor = range,
            _ => {}
        }
    }
    Ok((name, tensor))
}

/// A serialized `PredictRequest` for requests that came in another form.
pub fn request<'t>(
    model: &str,
    signature_name: &str,
    inputs: impl Iterator<Item = (&'t str, &'t Tensor)>,
) -> Vec<u8> {
    let (mut out, mut model_spec) = (Vec::new(), Vec::new());
    wire::put_bytes(&mut model_spec, 1, model.as_bytes());
    wire::put_bytes(&mut model_spec, 3, signature_name.as_bytes());
    wire::put_bytes(&mut out, 1, &model_spec);
    for (alias, tensor) in inputs {
        let encoder = Encoder::new(tensor, Encoding::Typed);
        let len = wire::bytes_len(1, alias.len()) + wire::bytes_len(2, encoder.len());
        wire::put_tag(&mut out, 2, wire::BYTES);
        wire::put_varint(&mut out, len as u64);
        wire::put_bytes(&mut out, 1, alias.as_bytes());
        wire::put_tag(&mut out, 2, wire::BYTES);
        wire::put_varint(&mut out, encoder.len() as u64);
        encoder.write(&mut out);
    }
    out
}

/// The serialized `PredictResponse`, written in one buffer of its final size.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for that.
pub fn response(
    handle: &ServableHandle,
    signature_name: &str,
    aliases: &[String],
    tensors: &[Tensor],
    encoding: Encoding,
) -> Result<Message> {
    let encoders: Vec<Encoder<'_>> =
        tensors.iter().map(|tensor| Encoder::new(tensor, encoding)).collect();
    let entry_len = |alias: &String, encoder: &Encoder<'_>| {
        wire::bytes_len(1, alias.len()) + wire::bytes_len(2, encoder.len())
    };
    let entries = aliases.iter().zip(&encoders);
    let len: usize = entries.clone().map(|(a, e)| wire::bytes_len(1, entry_len(a, e))).sum();
    let size = len + handle.name.len() + signature_name.len() + 32;
    let mut message = Message::try_with_capacity(size).ok_or_else(|| Status::no_memory(size))?;
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
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_several_entries_with_one_name_the_last_counts() {
        let mut message = Vec::new();
        for (name, tensor) in [("b", "1"), ("a", "2"), ("b", "3")] {
            let mut entry = Vec::new();
            wire::put_bytes(&mut entry, 1, name.as_bytes());
            wire::put_bytes(&mut entry, 2, tensor.as_bytes());
            wire::put_bytes(&mut message, 2, &entry);
        }
        let message = Bytes::from(message);
        let request = PredictRequest::parse(&message).unwrap();

        let inputs: Vec<(&str, &[u8])> = request
            .inputs(Rules::default())
            .into_iter()
            .map(|(n, t)| (n, &message[t.tensor]))
            .collect();
        assert_eq!(inputs, [("a", &b"2"[..]), ("b", b"3")]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = PredictRequest::parse(&bytes.into());
        }
    }
}
