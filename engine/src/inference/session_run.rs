//! SessionRun: any part of a model's graph, named tensors in and out.
//!
//! It reads and writes what no signature shows, variables among them, and is offered only where it
//! is asked for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::app::App;
use crate::inference::serialized::unparsable;
use crate::inference::{predict, spec};
use crate::request_log::{self, Kind};
use crate::servable::{SessionRun, Signature, TensorInfo};
use crate::serving_map::ModelSpec;
use crate::status::{Result, Status};
use crate::tensor::proto::{self, Encoder, Encoding, Limits};
use crate::tensor::Tensor;
use crate::turns::Client;
use crate::wire::{self, Field, Malformed, Message, Reader};

/// Most names of each kind in one request: each is looked up in the graph.
const MAX_NAMES: usize = 4096;

/// A `SessionRunRequest` taken apart.
#[derive(Default)]
struct Request {
    spec: Option<ModelSpec>,
    /// Name, and where the tensor stands.
    feeds: Vec<(String, Range<usize>)>,
    fetches: Vec<String>,
    targets: Vec<String>,
    options: Options,
    are_aliases: bool,
}

/// What counts of `RunOptions`.
#[derive(Default)]
struct Options {
    trace_level: u64,
    timeout_ms: i64,
    output_partition_graphs: bool,
    /// A field that is not taken, if there is one.
    refused: Option<&'static str>,
}

/// Answer a serialized `SessionRunRequest`.
///
/// # Errors
/// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION for what is asked, or what the runtime says.
pub async fn answer(
    app: &Arc<App>,
    message: Bytes,
    client: Client,
    deadline: Option<Instant>,
) -> Result<Message> {
    let request = parse(&message).map_err(|Malformed| unparsable())?;
    let spec = request.spec.as_ref();
    let spec = spec.ok_or_else(|| Status::invalid_argument("Missing ModelSpec"))?;
    if let Some(field) = request.options.refused {
        return Err(Status::invalid_argument(format!("RunOptions.{field} is not taken here")));
    }
    if [request.feeds.len(), request.fetches.len(), request.targets.len()]
        .iter()
        .any(|&n| n > MAX_NAMES)
    {
        let text = format!("More than {MAX_NAMES} feeds, fetches or targets");
        return Err(Status::invalid_argument(text));
    }
    let handle = app.map.resolve(spec)?;
    let signature_name = predict::signature_name(&spec.signature_name).to_owned();
    let names = Names(if request.are_aliases {
        Some(predict::signature(handle.servable.signatures(), &signature_name, false)?)
    } else {
        None
    });
    let limits = Limits::for_message(message.len(), app.options.max_expanded_bytes);
    let mut run = SessionRun::default();
    for (name, tensor) in &request.feeds {
        let tensor = proto::decode(&message.slice(tensor.clone()), limits).map_err(|status| {
            if status.message.is_empty() {
                return Status::invalid_argument(format!("tensor parsing error: {name}"));
            }
            status
        })?;
        let name = names.input(name)?;
        if run.feeds.iter().any(|(seen, _)| *seen == name) {
            return Err(Status::invalid_argument(format!("{name} is fed twice")));
        }
        run.feeds.push((name, tensor));
    }
    run.fetches = request.fetches.iter().map(|name| names.output(name)).collect::<Result<_>>()?;
    run.targets = request.targets.iter().map(|name| names.output(name)).collect::<Result<_>>()?;
    let deadline = earlier(deadline, request.options.timeout_ms);
    run.options = run_options(&request.options, deadline)?;
    let sample = app.request_logs.sample(&handle.name, || request_log::Request {
        kind: Kind::SessionRun,
        message: message.clone(),
        signature_name: String::new(),
    });
    let servable = handle.servable.clone();
    let running =
        app.run_on_thread(handle.clone(), client, deadline, move || servable.run_session(run));
    let (tensors, metadata) = running.await?;
    let mut answer = Message::new();
    let out = answer.bytes_mut();
    for (name, tensor) in request.fetches.iter().zip(&tensors) {
        put_named(out, name, tensor);
    }
    if !metadata.is_empty() {
        wire::put_bytes(out, 2, &metadata);
    }
    spec::put(out, 3, &handle.name, &spec.signature_name, handle.version);
    if let Some(sample) = sample {
        sample.answered(handle.version, answer.as_slice());
    }
    Ok(answer)
}

/// The deadline, or what `timeout_ms` makes of it, where that is positive.
fn earlier(deadline: Option<Instant>, timeout_ms: i64) -> Option<Instant> {
    let timeout = crate::app::deadline_after_ms(timeout_ms);
    [deadline, timeout].into_iter().flatten().min()
}

/// Names as the request has them, to names in the graph.
struct Names<'s>(Option<&'s Signature>);

impl Names<'_> {
    fn input(&self, name: &str) -> Result<String> {
        self.find(name, "an input", |signature| signature.inputs.get(name))
    }

    fn output(&self, name: &str) -> Result<String> {
        self.find(name, "an output", |signature| signature.outputs.get(name))
    }

    fn find<'s>(
        &'s self,
        name: &str,
        what: &str,
        find: impl FnOnce(&'s Signature) -> Option<&'s TensorInfo>,
    ) -> Result<String> {
        let Some(signature) = self.0 else { return Ok(name.to_owned()) };
        let info = find(signature).ok_or_else(|| {
            Status::invalid_argument(format!("{name} is not the alias of {what} of the signature"))
        })?;
        Ok(info.name.clone())
    }
}

/// Serialized `RunOptions` of what is taken.
fn run_options(options: &Options, deadline: Option<Instant>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(16);
    let mut put = |number, value| {
        wire::put_tag(&mut bytes, number, wire::VARINT);
        wire::put_varint(&mut bytes, value);
    };
    if options.trace_level > 0 {
        put(1, options.trace_level);
    }
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            return Err(Status::timed_out());
        }
        put(2, u64::try_from(left).unwrap_or(u64::MAX >> 1));
    }
    if options.output_partition_graphs {
        put(5, 1);
    }
    Ok(bytes)
}

/// Append a `NamedTensorProto`.
fn put_named(out: &mut Vec<u8>, name: &str, tensor: &Tensor) {
    let encoder = Encoder::new(tensor, Encoding::Typed);
    let len = wire::bytes_len(1, name.len()) + wire::bytes_len(2, encoder.len());
    wire::put_tag(out, 1, wire::BYTES);
    wire::put_varint(out, len as u64);
    wire::put_bytes(out, 1, name.as_bytes());
    wire::put_tag(out, 2, wire::BYTES);
    wire::put_varint(out, encoder.len() as u64);
    encoder.write(out);
}

fn parse(message: &Bytes) -> std::result::Result<Request, Malformed> {
    let mut request = Request::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => {
                spec::merge(message, range, request.spec.get_or_insert_default())?;
            }
            (2, Field::Bytes(range)) => request.feeds.push(named(message, range)?),
            (3, Field::Bytes(range)) => request.fetches.push(wire::text(&message[range])?.into()),
            (4, Field::Bytes(range)) => request.targets.push(wire::text(&message[range])?.into()),
            (5, Field::Bytes(range)) => options(message, range, &mut request.options)?,
            (6, Field::Varint(value)) => request.are_aliases = value != 0,
            _ => {}
        }
    }
    Ok(request)
}

fn named(
    message: &Bytes,
    range: Range<usize>,
) -> std::result::Result<(String, Range<usize>), Malformed> {
    let (mut name, mut tensor) = (String::new(), range.start..range.start);
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => name = wire::text(&message[range])?.into(),
            (2, Field::Bytes(range)) => tensor = range,
            _ => {}
        }
    }
    Ok((name, tensor))
}

fn options(
    message: &Bytes,
    range: Range<usize>,
    options: &mut Options,
) -> std::result::Result<(), Malformed> {
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => options.trace_level = value,
            (2, Field::Varint(value)) => options.timeout_ms = wire::int64(value),
            (5, Field::Varint(value)) => options.output_partition_graphs = value != 0,
            (3, Field::Varint(1..)) => options.refused = Some("inter_op_thread_pool"),
            // It names places that tensors would be sent to.
            (6, Field::Bytes(range)) if !range.is_empty() => {
                options.refused = Some("debug_options");
            }
            (8, Field::Bytes(range)) if !range.is_empty() => {
                options.refused = Some("experimental");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_that_reach_beyond_the_run_are_refused() {
        for (bytes, expected) in [
            (&b"\x08\x03\x10\x64"[..], None),
            (b"\x28\x01", None),
            (b"\x18\x05", Some("inter_op_thread_pool")),
            (b"\x32\x02\x10\x01", Some("debug_options")),
            (b"\x42\x02\x10\x01", Some("experimental")),
        ] {
            let mut message = Vec::new();
            wire::put_bytes(&mut message, 5, bytes);
            let request = parse(&message.into()).unwrap();
            assert_eq!(request.options.refused, expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_earlier_end_counts() {
        let soon = Instant::now() + std::time::Duration::from_millis(1);
        assert_eq!(earlier(None, 0), None);
        assert_eq!(earlier(Some(soon), 60_000), Some(soon));
        assert!(earlier(Some(soon), -1) == Some(soon) && earlier(None, 5).is_some());
    }

    #[test]
    fn what_is_kept_is_parsed_or_refused() {
        crate::corpus::each("protobuf", |input| drop(parse(&Bytes::copy_from_slice(input))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes.into());
        }
    }
}
