//! `ModelSpec` from the wire and back.

use std::ops::Range;

use crate::serving_map::{ModelSpec, VersionChoice};
use crate::wire::{self, Field, Malformed, Reader};

/// Read a `ModelSpec` that stands at `range` of `message`, on top of what came before: a message
/// field that occurs twice is merged.
///
/// # Errors
/// When the bytes are none.
pub fn merge(message: &[u8], range: Range<usize>, spec: &mut ModelSpec) -> Result<(), Malformed> {
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => spec.name = wire::text(&message[range])?.into(),
            (2, Field::Bytes(range)) => {
                let mut version = match spec.version {
                    VersionChoice::Version(version) => version,
                    _ => 0,
                };
                let mut value = Reader::within(message, range);
                while let Some((number, field)) = value.next()? {
                    if let (1, Field::Varint(value)) = (number, field) {
                        version = wire::int64(value);
                    }
                }
                spec.version = VersionChoice::Version(version);
            }
            (3, Field::Bytes(range)) => {
                spec.signature_name = wire::text(&message[range])?.into();
            }
            (4, Field::Bytes(range)) => {
                let label = wire::text(&message[range])?.to_owned();
                spec.version = VersionChoice::Label(label);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A generated `ModelSpec` as ours.
pub fn from_message(spec: crate::protos::tensorflow::serving::ModelSpec) -> ModelSpec {
    use crate::protos::tensorflow::serving::model_spec::VersionChoice as Choice;
    ModelSpec {
        name: spec.name,
        version: match spec.version_choice {
            None => VersionChoice::Latest,
            Some(Choice::Version(version)) => VersionChoice::Version(version),
            Some(Choice::VersionLabel(label)) => VersionChoice::Label(label),
        },
        signature_name: spec.signature_name,
    }
}

/// Write the `ModelSpec` of an answer as field `number`: name, signature and concrete version.
pub fn put(out: &mut Vec<u8>, number: u32, name: &str, signature: &str, version: i64) {
    let mut spec = Vec::with_capacity(name.len() + signature.len() + 20);
    wire::put_bytes(&mut spec, 1, name.as_bytes());
    wire::put_tag(&mut spec, 2, wire::BYTES);
    if version == 0 {
        wire::put_varint(&mut spec, 0);
    } else {
        wire::put_varint(&mut spec, 1 + wire::varint_len(version as u64) as u64);
        wire::put_tag(&mut spec, 1, wire::VARINT);
        wire::put_varint(&mut spec, version as u64);
    }
    if !signature.is_empty() {
        wire::put_bytes(&mut spec, 3, signature.as_bytes());
    }
    wire::put_bytes(out, number, &spec);
}

/// Write the `ModelSpec` of a request as field `number`: the name, and what version is asked for.
pub fn put_requested(out: &mut Vec<u8>, number: u32, requested: &ModelSpec) {
    let mut spec = Vec::with_capacity(requested.name.len() + 20);
    wire::put_bytes(&mut spec, 1, requested.name.as_bytes());
    match &requested.version {
        VersionChoice::Latest => {}
        VersionChoice::Version(version) => {
            let mut value = Vec::with_capacity(11);
            wire::put_tag(&mut value, 1, wire::VARINT);
            wire::put_varint(&mut value, *version as u64);
            wire::put_bytes(&mut spec, 2, &value);
        }
        VersionChoice::Label(label) => wire::put_bytes(&mut spec, 4, label.as_bytes()),
    }
    wire::put_bytes(out, number, &spec);
}
