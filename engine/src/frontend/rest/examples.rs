//! Classify and Regress over REST: objects become serialized examples, results become a document.

use super::document::Document;
use crate::inference::classify::Classifications;
use crate::inference::examples::{check_count, Examples, Most};
use crate::inference::head::Inference;
use crate::status::{Result, Status};
use crate::tensor::json::decode::{base64_object, read_bytes};
use crate::tensor::json::encode::new_line;
use crate::tensor::json::scan::{Cursor, Kind, Number};
use crate::tensor::json::text::{unescape, write_string};
use crate::tensor::number;
use crate::wire;

/// The examples of a document, and their context.
///
/// # Errors
/// INVALID_ARGUMENT by specification 2.10, in its order; RESOURCE_EXHAUSTED as soon as there are too
/// many.
pub fn examples(document: &Document<'_>, most: Most) -> Result<Examples<Vec<u8>>> {
    let context = document.context().map(|mut cursor| example(&mut cursor)).transpose()?;
    let Some(mut cursor) = document.examples() else {
        // The text is the same for both methods.
        return Err(document
            .refuse("When method is classify, key 'examples' is expected and was not found"));
    };
    if cursor.kind() != Kind::Array {
        return Err(document.refuse("Expecting 'examples' value to be an list/array"));
    }
    cursor.eat(b'[');
    cursor.skip_space();
    if cursor.eat(b']') {
        return Err(document.refuse("'examples' value is an empty array"));
    }
    let mut examples = Vec::new();
    loop {
        examples.push(example(&mut cursor)?);
        check_count(examples.len(), most)?;
        if !cursor.eat_comma() {
            return Ok(Examples { examples, context });
        }
    }
}

/// Kinds of a feature's values, with their field numbers in `Feature`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Bytes = 1,
    Float = 2,
    Int64 = 3,
}

impl Values {
    fn name(self) -> &'static str {
        match self {
            Values::Bytes => "bytes",
            Values::Float => "float",
            Values::Int64 => "int64",
        }
    }
}

/// The object at the cursor as a serialized `Example`.
fn example(cursor: &mut Cursor<'_>) -> Result<Vec<u8>> {
    if cursor.kind() != Kind::Object {
        return Err(Status::invalid_argument(format!(
            "Example must be JSON object but got JSON {}",
            cursor.kind().name()
        )));
    }
    let (mut features, mut entry) = (Vec::new(), Vec::new());
    cursor.eat(b'{');
    cursor.skip_space();
    while cursor.peek() == b'"' {
        let Ok(name) = cursor.member() else { break };
        let name = unescape(&cursor.bytes()[name]);
        let feature = feature(cursor, &name)?;
        entry.clear();
        wire::put_bytes(&mut entry, 1, &name);
        wire::put_bytes(&mut entry, 2, &feature);
        wire::put_bytes(&mut features, 1, &entry);
        if !cursor.eat_comma() {
            break;
        }
    }
    cursor.eat(b'}');
    let mut example = Vec::with_capacity(features.len() + 8);
    wire::put_bytes(&mut example, 1, &features);
    Ok(example)
}

/// The value at the cursor as a serialized `Feature`.
fn feature(cursor: &mut Cursor<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let mut kind = None;
    // Numbers are packed; bytes are fields of their own.
    let mut values = Vec::new();
    if cursor.eat(b'[') {
        cursor.skip_space();
        if !cursor.eat(b']') {
            loop {
                value(cursor, name, &mut kind, &mut values)?;
                if !cursor.eat_comma() {
                    break;
                }
            }
            cursor.eat(b']');
        }
    } else {
        value(cursor, name, &mut kind, &mut values)?;
    }
    let mut feature = Vec::with_capacity(values.len() + 16);
    match kind {
        None => {}
        Some(Values::Bytes) => wire::put_bytes(&mut feature, Values::Bytes as u32, &values),
        Some(kind) => {
            let mut list = Vec::with_capacity(values.len() + 8);
            wire::put_bytes(&mut list, 1, &values);
            wire::put_bytes(&mut feature, kind as u32, &list);
        }
    }
    Ok(feature)
}

fn value(
    cursor: &mut Cursor<'_>,
    name: &[u8],
    kind: &mut Option<Values>,
    values: &mut Vec<u8>,
) -> Result<()> {
    let feature = || String::from_utf8_lossy(name);
    let unexpected = |kind: Kind| {
        Status::invalid_argument(format!(
            "Feature: {} has element with unexpected JSON type: {}",
            feature(),
            kind.name()
        ))
    };
    let mut expect = |wanted: Values| match *kind {
        Some(kind) if kind != wanted => Err(Status::invalid_argument(format!(
            "Unexpected element type in feature: {} expecting type: {}",
            feature(),
            kind.name()
        ))),
        _ => {
            *kind = Some(wanted);
            Ok(())
        }
    };
    match cursor.kind() {
        found @ (Kind::Null | Kind::Array) => Err(unexpected(found)),
        Kind::Object if base64_object(&mut cursor.clone()).is_none() => {
            Err(unexpected(Kind::Object))
        }
        Kind::String | Kind::Object => {
            expect(Values::Bytes)?;
            let mut bytes = Vec::new();
            if !read_bytes(cursor, &mut bytes) {
                return Err(Status::invalid_argument("Unable to base64 decode"));
            }
            wire::put_bytes(values, 1, &bytes);
            Ok(())
        }
        truth @ (Kind::True | Kind::False) => {
            expect(Values::Int64)?;
            let _ = cursor.value();
            wire::put_varint(values, u64::from(truth == Kind::True));
            Ok(())
        }
        Kind::Number => match cursor.number() {
            Ok(Number::Signed(value)) => {
                expect(Values::Int64)?;
                #[allow(clippy::cast_sign_loss)] // two's complement is how it is written
                wire::put_varint(values, value as u64);
                Ok(())
            }
            Ok(Number::Unsigned(_)) => Err(Status::invalid_argument(format!(
                "Feature: {} has uint64_t element. Only int64_t is supported.",
                feature()
            ))),
            Ok(Number::Double(value)) => {
                expect(Values::Float)?;
                #[allow(clippy::cast_possible_truncation)] // overflow is infinity
                let value = value as f32;
                let value = if value.is_subnormal() { 0.0f32.copysign(value) } else { value };
                values.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
            Err(_) => Err(unexpected(Kind::Number)),
        },
    }
}

/// The body of an answer to Classify.
///
/// # Errors
/// INVALID_ARGUMENT when there is nothing to answer.
pub fn classify_body(results: &Classifications<'_>) -> Result<Vec<u8>> {
    if results.count == 0 {
        return Err(Status::invalid_argument("Cannot convert empty ClassificationResults to JSON"));
    }
    let mut out = b"{\n    \"results\": [".to_vec();
    write_classifications(&mut out, results);
    new_line(&mut out, 1);
    out.extend_from_slice(b"]\n}");
    Ok(out)
}

/// The body of an answer to Regress.
///
/// # Errors
/// INVALID_ARGUMENT when there is nothing to answer.
pub fn regress_body(values: &[f32]) -> Result<Vec<u8>> {
    if values.is_empty() {
        return Err(Status::invalid_argument("Cannot convert empty RegressionResults to JSON"));
    }
    let mut out = b"{\n    \"results\": [".to_vec();
    write_regressions(&mut out, values);
    out.extend_from_slice(b"]\n}");
    Ok(out)
}

/// The body of an answer to MultiInference: a result for each task, in their order.
pub fn multi_inference_body(signature_names: &[String], results: &[Inference<'_>]) -> Vec<u8> {
    let mut out = b"{\n    \"results\": [".to_vec();
    for (at, (name, result)) in signature_names.iter().zip(results).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        new_line(&mut out, 2);
        out.extend_from_slice(b"{\"signature_name\": ");
        write_string(&mut out, name.as_bytes());
        match result {
            Inference::Classify(results) => {
                out.extend_from_slice(b", \"classifications\": [");
                write_classifications(&mut out, results);
            }
            Inference::Regress(values) => {
                out.extend_from_slice(b", \"regressions\": [");
                write_regressions(&mut out, values);
            }
        }
        out.extend_from_slice(b"]}");
    }
    new_line(&mut out, 1);
    out.extend_from_slice(b"]\n}");
    out
}

fn write_classifications(out: &mut Vec<u8>, results: &Classifications<'_>) {
    for example in 0..results.count {
        out.extend_from_slice(if example > 0 { b", [" } else { b"[" });
        for (at, (label, score)) in results.of(example).enumerate() {
            out.extend_from_slice(if at > 0 { b", [" } else { b"[" });
            write_string(out, label);
            out.extend_from_slice(b", ");
            number::write_f32(out, score);
            out.push(b']');
        }
        out.push(b']');
    }
}

fn write_regressions(out: &mut Vec<u8>, values: &[f32]) {
    for (at, &value) in values.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        number::write_f32(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> std::result::Result<Examples<Vec<u8>>, String> {
        let document = Document::parse(body.as_bytes(), |_| None).unwrap();
        examples(&document, Most::default()).map_err(|status| status.message.into_owned())
    }

    /// An example with one feature: its name, and the serialized `Feature`.
    fn with_feature(name: &str, feature: &[u8]) -> Vec<u8> {
        let (mut entry, mut features, mut example) = (vec![], vec![], vec![]);
        wire::put_bytes(&mut entry, 1, name.as_bytes());
        wire::put_bytes(&mut entry, 2, feature);
        wire::put_bytes(&mut features, 1, &entry);
        wire::put_bytes(&mut example, 1, &features);
        example
    }

    #[test]
    fn features_have_the_kind_of_their_first_value() {
        for (value, feature) in [
            ("8", &b"\x1a\x03\x0a\x01\x08"[..]),
            ("[true, 4, false]", b"\x1a\x05\x0a\x03\x01\x04\x00"),
            ("-1", b"\x1a\x0c\x0a\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            ("1.5", b"\x12\x06\x0a\x04\x00\x00\xc0\x3f"),
            ("[1.0, -Infinity]", b"\x12\x0a\x0a\x08\x00\x00\x80\x3f\x00\x00\x80\xff"),
            ("18446744073709551616", b"\x12\x06\x0a\x04\x00\x00\x80\x5f"),
            (r#"["a", {"b64": "Yg=="}]"#, b"\x0a\x06\x0a\x01a\x0a\x01b"),
            ("[]", b""),
        ] {
            let examples = parse(&format!(r#"{{"examples": [{{"f": {value}}}]}}"#)).unwrap();
            assert_eq!(examples.examples, [with_feature("f", feature)], "{value}");
        }
    }

    #[test]
    fn a_context_is_an_example_beside_the_others() {
        let examples = parse(r#"{"examples": [{}, {}], "context": {"f": []}}"#).unwrap();

        assert_eq!(examples.examples, [b"\x0a\x00", b"\x0a\x00"]);
        assert_eq!(examples.context, Some(with_feature("f", b"")));
    }

    #[test]
    fn what_is_no_example_is_refused() {
        for (body, expected) in [
            (
                "{}",
                "JSON Value: {} When method is classify, key 'examples' is expected and was not \
                 found",
            ),
            (
                r#"{"examples": 5}"#,
                "JSON Value: {\n    \"examples\": 5\n} Expecting 'examples' value to be an \
                 list/array",
            ),
            (
                r#"{"examples": []}"#,
                "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
            ),
            (r#"{"examples": [1]}"#, "Example must be JSON object but got JSON Number"),
            (
                r#"{"context": null, "examples": 1}"#,
                "Example must be JSON object but got JSON Null",
            ),
            (
                r#"{"examples": [{"f": [1, 2.0]}]}"#,
                "Unexpected element type in feature: f expecting type: int64",
            ),
            (
                r#"{"examples": [{"f": [[1]]}]}"#,
                "Feature: f has element with unexpected JSON type: Array",
            ),
            (
                r#"{"examples": [{"f": {"k": 1}}]}"#,
                "Feature: f has element with unexpected JSON type: Object",
            ),
            (
                r#"{"examples": [{"f": 9223372036854775808}]}"#,
                "Feature: f has uint64_t element. Only int64_t is supported.",
            ),
            (r#"{"examples": [{"f": {"b64": "*"}}]}"#, "Unable to base64 decode"),
        ] {
            assert_eq!(parse(body).map(drop), Err(expected.to_owned()), "{body}");
        }
    }

    #[test]
    fn regressions_stand_in_one_line() {
        let body = regress_body(&[0.2, 0.9]).unwrap();
        assert_eq!(body, b"{\n    \"results\": [0.2, 0.9]\n}");
        assert!(regress_body(&[]).is_err());
    }
}
