//! Protobuf messages as JSON, told by their descriptors.
//!
//! One space of indentation, original field names, fields with default values printed, 64-bit
//! integers as strings, enums by name (specification 2.4, 2.5).

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::OnceLock;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::tensor::json::text::{write_base64, write_string};
use crate::wire::{self, Field, Malformed, Reader};

/// How deep messages are followed; ours are not nearly so deep, junk may be.
const MAX_DEPTH: usize = 64;

/// All message and enum types of the contract by full name, such as `.tensorflow.TensorInfo`.
#[derive(Default)]
struct Schema {
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, EnumDescriptorProto>,
}

impl Schema {
    fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let mut schema = Self::default();
            // The bytes are part of the program; a test sees that they can be read.
            let files = FileDescriptorSet::decode(crate::protos::DESCRIPTORS).unwrap_or_default();
            for file in files.file {
                let package = format!(".{}", file.package());
                schema.add(&package, file.message_type, file.enum_type);
            }
            schema
        })
    }

    fn add(
        &mut self,
        scope: &str,
        messages: Vec<DescriptorProto>,
        enums: Vec<EnumDescriptorProto>,
    ) {
        for mut message in messages {
            let name = format!("{scope}.{}", message.name());
            let nested = std::mem::take(&mut message.nested_type);
            self.add(&name, nested, std::mem::take(&mut message.enum_type));
            self.messages.insert(name, message);
        }
        for kind in enums {
            self.enums.insert(format!("{scope}.{}", kind.name()), kind);
        }
    }
}

/// Write a serialized message of a type, such as `.tensorflow.TensorInfo`; `level` is that of what
/// contains it.
///
/// # Errors
/// When the bytes are none of that type.
pub fn write_message(
    out: &mut Vec<u8>,
    name: &str,
    bytes: &[u8],
    level: usize,
) -> Result<(), Malformed> {
    let schema = Schema::get();
    let message = schema.messages.get(name).ok_or(Malformed)?;
    if level > MAX_DEPTH {
        return Err(Malformed);
    }
    let mut values: BTreeMap<u32, Vec<Field>> = BTreeMap::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        values.entry(number).or_default().push(value);
    }
    out.push(b'{');
    let mut is_first = true;
    for field in &message.field {
        let number = u32::try_from(field.number()).map_err(|_| Malformed)?;
        let values = values.get(&number).map(Vec::as_slice).unwrap_or_default();
        let is_list = field.label() == Label::Repeated;
        let has_presence = field.oneof_index.is_some() || field.r#type() == Type::Message;
        if values.is_empty() && has_presence && !is_list {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        new_line(out, level + 1);
        write_string(out, field.name().as_bytes());
        out.extend_from_slice(b": ");
        let printer = Printer { field, bytes, level: level + 1 };
        match schema.messages.get(field.type_name()).filter(|entry| is_map_entry(entry)) {
            Some(entry) => printer.write_map(out, entry, values)?,
            None if is_list => printer.write_list(out, values)?,
            None => printer.write_single(out, values)?,
        }
    }
    if !is_first {
        new_line(out, level);
    }
    out.push(b'}');
    Ok(())
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
}

fn new_line(out: &mut Vec<u8>, level: usize) {
    out.push(b'\n');
    out.resize(out.len() + level, b' ');
}

/// Writes the values of one field of a message.
struct Printer<'m> {
    field: &'m FieldDescriptorProto,
    bytes: &'m [u8],
    level: usize,
}

impl Printer<'_> {
    /// The value of a field that occurs once: the last one, or the default.
    fn write_single(&self, out: &mut Vec<u8>, values: &[Field]) -> Result<(), Malformed> {
        match values {
            [] => self.write_default(out),
            // Several messages for one field are one message in pieces.
            [first @ .., _] if !first.is_empty() && self.field.r#type() == Type::Message => {
                let mut whole = Vec::new();
                for value in values {
                    let Field::Bytes(range) = value else { return Err(Malformed) };
                    whole.extend_from_slice(&self.bytes[range.clone()]);
                }
                write_message(out, self.field.type_name(), &whole, self.level)
            }
            [.., last] => self.write_value(out, last),
        }
    }

    fn write_default(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let zero = match self.field.r#type() {
            Type::String | Type::Bytes | Type::Message => Field::Bytes(0..0),
            Type::Float => Field::Fixed32(0),
            Type::Double => Field::Fixed64(0),
            _ => Field::Varint(0),
        };
        self.write_value(out, &zero)
    }

    fn write_list(&self, out: &mut Vec<u8>, values: &[Field]) -> Result<(), Malformed> {
        let elements = self.unpack(values)?;
        out.push(b'[');
        let inner = Printer { level: self.level + 1, ..*self };
        for (at, element) in elements.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            new_line(out, inner.level);
            inner.write_value(out, element)?;
        }
        if !elements.is_empty() {
            new_line(out, self.level);
        }
        out.push(b']');
        Ok(())
    }

    fn write_map(
        &self,
        out: &mut Vec<u8>,
        entry: &DescriptorProto,
        values: &[Field],
    ) -> Result<(), Malformed> {
        let [_, value_field] = entry.field.as_slice() else { return Err(Malformed) };
        let mut entries: BTreeMap<&[u8], Option<Field>> = BTreeMap::new();
        for value in values {
            let Field::Bytes(range) = value else { return Err(Malformed) };
            let (mut key, mut value) = (&[][..], None);
            let mut reader = Reader::within(self.bytes, range.clone());
            while let Some((number, field)) = reader.next()? {
                match (number, field) {
                    (1, Field::Bytes(range)) => key = &self.bytes[range],
                    (2, field) => value = Some(field),
                    _ => {}
                }
            }
            entries.insert(key, value);
        }
        out.push(b'{');
        let inner = Printer { field: value_field, bytes: self.bytes, level: self.level + 1 };
        for (at, (key, value)) in entries.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            new_line(out, inner.level);
            write_string(out, key);
            out.extend_from_slice(b": ");
            inner.write_single(out, value.as_slice())?;
        }
        if !entries.is_empty() {
            new_line(out, self.level);
        }
        out.push(b'}');
        Ok(())
    }

    /// The elements of a repeated field, packed or not.
    fn unpack(&self, values: &[Field]) -> Result<Vec<Field>, Malformed> {
        let kind = self.field.r#type();
        if matches!(kind, Type::String | Type::Bytes | Type::Message) {
            return Ok(values.to_vec());
        }
        let mut elements = Vec::with_capacity(values.len());
        for value in values {
            let Field::Bytes(range) = value else {
                elements.push(value.clone());
                continue;
            };
            let packed = &self.bytes[range.clone()];
            match kind {
                Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                    let chunks = packed.chunks_exact(4).filter_map(<[u8]>::first_chunk);
                    elements.extend(chunks.map(|&raw| Field::Fixed32(u32::from_le_bytes(raw))));
                }
                Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                    let chunks = packed.chunks_exact(8).filter_map(<[u8]>::first_chunk);
                    elements.extend(chunks.map(|&raw| Field::Fixed64(u64::from_le_bytes(raw))));
                }
                _ => {
                    let mut at = 0;
                    while at < packed.len() {
                        let (value, next) = wire::varint(packed, at)?;
                        elements.push(Field::Varint(value));
                        at = next;
                    }
                }
            }
        }
        Ok(elements)
    }

    fn write_value(&self, out: &mut Vec<u8>, value: &Field) -> Result<(), Malformed> {
        match (self.field.r#type(), value) {
            (Type::Message, Field::Bytes(range)) => {
                let bytes = &self.bytes[range.clone()];
                write_message(out, self.field.type_name(), bytes, self.level)?;
            }
            (Type::String, Field::Bytes(range)) => write_string(out, &self.bytes[range.clone()]),
            (Type::Bytes, Field::Bytes(range)) => {
                out.push(b'"');
                write_base64(out, &self.bytes[range.clone()]);
                out.push(b'"');
            }
            (Type::Bool, Field::Varint(value)) => {
                out.extend_from_slice(if *value == 0 { b"false" } else { b"true" });
            }
            (Type::Enum, Field::Varint(value)) => {
                let number = wire::int32(*value);
                let kind = Schema::get().enums.get(self.field.type_name());
                let known =
                    kind.and_then(|kind| kind.value.iter().find(|value| value.number() == number));
                match known {
                    Some(known) => write_string(out, known.name().as_bytes()),
                    None => write_text(out, number),
                }
            }
            (Type::Int32, Field::Varint(value)) => write_text(out, wire::int32(*value)),
            (Type::Uint32, Field::Varint(value)) => write_text(out, *value & 0xFFFF_FFFF),
            (Type::Int64, Field::Varint(value)) => {
                write_text(out, format_args!("\"{}\"", wire::int64(*value)));
            }
            (Type::Uint64, Field::Varint(value)) => write_text(out, format_args!("\"{value}\"")),
            (Type::Float, Field::Fixed32(bits)) => write_float(out, f32::from_bits(*bits)),
            (Type::Double, Field::Fixed64(bits)) => write_float(out, f64::from_bits(*bits)),
            _ => return Err(Malformed),
        }
        Ok(())
    }
}

fn write_text(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

fn write_float(out: &mut Vec<u8>, value: impl Into<f64> + std::fmt::Display) {
    let text = value.to_string();
    match value.into() {
        wide if wide.is_nan() => out.extend_from_slice(b"\"NaN\""),
        wide if wide == f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        wide if wide == f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        _ => out.extend_from_slice(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::protos::tensorflow::serving::SignatureDefMap;

    #[test]
    fn a_signature_prints_as_recorded() {
        let shape = pb::TensorShapeProto {
            dim: vec![pb::tensor_shape_proto::Dim { size: -1, name: String::new() }],
            unknown_rank: false,
        };
        let info = |dtype, tensor_shape| pb::TensorInfo {
            dtype,
            tensor_shape,
            encoding: Some(pb::tensor_info::Encoding::Name("x:0".to_owned())),
        };
        let signature = pb::SignatureDef {
            inputs: [("x".to_owned(), info(1, Some(shape)))].into(),
            outputs: [("y".to_owned(), info(101, None))].into(),
            method_name: "m".to_owned(),
            ..pb::SignatureDef::default()
        };
        let map = SignatureDefMap { signature_def: [("s".to_owned(), signature)].into() };
        let mut out = Vec::new();
        let name = ".tensorflow.serving.SignatureDefMap";
        write_message(&mut out, name, &map.encode_to_vec(), 0).unwrap();

        let expected = "{\n \"signature_def\": {\n  \"s\": {\n   \"inputs\": {\n    \"x\": {\n     \
            \"name\": \"x:0\",\n     \"dtype\": \"DT_FLOAT\",\n     \"tensor_shape\": {\n      \
            \"dim\": [\n       {\n        \"size\": \"-1\",\n        \"name\": \"\"\n       }\n      ],\n      \
            \"unknown_rank\": false\n     }\n    }\n   },\n   \"outputs\": {\n    \"y\": {\n     \
            \"name\": \"x:0\",\n     \"dtype\": \"DT_FLOAT_REF\"\n    }\n   },\n   \"method_name\": \"m\",\n   \
            \"defaults\": {}\n  }\n }\n}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn values_of_every_kind_are_printed() {
        let tensor = pb::TensorProto {
            dtype: 1,
            float_val: vec![0.5, f32::NAN],
            int64_val: vec![-1],
            uint64_val: vec![u64::MAX],
            bool_val: vec![true],
            string_val: vec![b"a".to_vec().into()],
            ..pb::TensorProto::default()
        };
        let mut out = Vec::new();
        write_message(&mut out, ".tensorflow.TensorProto", &tensor.encode_to_vec(), 0).unwrap();

        let printed: serde_json::Value = serde_json::from_slice(&out).unwrap();
        for (field, expected) in [
            ("float_val", serde_json::json!([0.5, "NaN"])),
            ("int64_val", serde_json::json!(["-1"])),
            ("uint64_val", serde_json::json!(["18446744073709551615"])),
            ("bool_val", serde_json::json!([true])),
            ("string_val", serde_json::json!(["YQ=="])),
            ("half_val", serde_json::json!([])),
            ("tensor_content", serde_json::json!("")),
            ("version_number", serde_json::json!(0)),
        ] {
            assert_eq!(printed[field], expected, "{field}");
        }
        assert_eq!(printed.get("tensor_shape"), None);
    }

    #[test]
    fn junk_is_refused() {
        let mut out = Vec::new();
        assert_eq!(
            write_message(&mut out, ".tensorflow.TensorInfo", b"\x0a\x05", 0),
            Err(Malformed)
        );
        assert_eq!(write_message(&mut out, ".no.Such", b"", 0), Err(Malformed));
    }
}
