//! The tensors of a Predict document, by its signature (specification 2.7).

use std::collections::BTreeMap;

use super::super::document::Document;
use super::carrier::{carrier, narrow};
use super::Format;
use crate::servable::{Signature, Signatures, TensorInfo, DEFAULT_SIGNATURE};
use crate::status::{Result, Status};
use crate::tensor::dtype::dtype_name;
use crate::tensor::json::decode::{base64_object, decode, Rows};
use crate::tensor::json::dump::dump;
use crate::tensor::json::scan::{Cursor, Kind};
use crate::tensor::json::text::unescape;
use crate::tensor::{DType, Tensor};

/// The type to expect of the values of a document that names `signature_name`, or none so far.
pub fn guess(
    signatures: &Signatures,
    signature_name: Option<&str>,
    extended: bool,
) -> Option<DType> {
    let name = signature_name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_SIGNATURE);
    let inputs = &signatures.get(name)?.inputs;
    let (_, info) = inputs.first_key_value().filter(|_| inputs.len() == 1)?;
    read_as(info, extended).ok()
}

/// The signature that a document means.
///
/// # Errors
/// INVALID_ARGUMENT when there is none of that name.
pub fn signature<'s>(signatures: &'s Signatures, name: &str) -> Result<&'s Signature> {
    signatures.get(name).ok_or_else(|| {
        Status::invalid_argument(format!(
            "Serving signature name: \"{name}\" not found in signature def"
        ))
    })
}

/// The tensors of a document, by input alias.
///
/// # Errors
/// Specification 2.7, in its order.
pub fn inputs(
    document: &mut Document<'_>,
    signature: &Signature,
    requested: &str,
    extended: bool,
) -> Result<(Format, BTreeMap<String, Tensor>)> {
    let (format, mut tensors) = carriers(document, signature, requested, extended)?;
    if extended {
        for (alias, info) in &signature.inputs {
            if let Some(tensor) = tensors.remove(alias) {
                tensors.insert(alias.clone(), narrow(tensor, dtype(info)?)?);
            }
        }
    }
    Ok((format, tensors))
}

/// The tensors in the types that they are read as.
fn carriers(
    document: &mut Document<'_>,
    signature: &Signature,
    requested: &str,
    extended: bool,
) -> Result<(Format, BTreeMap<String, Tensor>)> {
    let may_be_absent = |alias: &String| extended && signature.defaults.contains_key(alias);
    let is_silent = document.instances().is_none() && document.inputs().is_none();
    if extended && is_silent && signature.inputs.keys().all(may_be_absent) {
        return Ok((Format::Column, BTreeMap::new()));
    }
    if signature.inputs.is_empty() && !(extended && document.inputs().is_some()) {
        let name = if requested.is_empty() { "DEFAULT" } else { requested };
        return Err(Status::invalid_argument(format!(
            "Failed to get input map for signature: {name}"
        )));
    }
    match (document.instances(), document.inputs()) {
        (Some(_), Some(_)) => Err(document.refuse(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )),
        (None, None) => Err(Status::invalid_argument("Missing 'inputs' or 'instances' key")),
        (Some(instances), None) => {
            if instances.kind() != Kind::Array {
                return Err(document.refuse("Expecting 'instances' to be an list/array"));
            }
            if let Some(inputs) = take_decoded(document, signature, extended) {
                return Ok((Format::Row, inputs));
            }
            let mut first = instances;
            first.eat(b'[');
            first.skip_space();
            if first.peek() == b']' {
                return Err(document.refuse("No values in 'instances' array"));
            }
            rows(first, signature, extended).map(|inputs| (Format::Row, inputs))
        }
        (None, Some(inputs)) => match take_decoded(document, signature, extended) {
            Some(inputs) => Ok((Format::Column, inputs)),
            None => columns(inputs, signature, extended).map(|inputs| (Format::Column, inputs)),
        },
    }
}

/// What was read along with the check of the document, if it is of the type that is wanted.
fn take_decoded(
    document: &mut Document<'_>,
    signature: &Signature,
    extended: bool,
) -> Option<BTreeMap<String, Tensor>> {
    let tensor = document.take_decoded()?;
    let (alias, info) = signature.inputs.first_key_value()?;
    let fits = signature.inputs.len() == 1
        && read_as(info, extended).ok() == Some(tensor.dtype())
        && tensor.shape().first() != Some(&0);
    fits.then(|| BTreeMap::from([(alias.clone(), tensor)]))
}

fn dtype(info: &TensorInfo) -> Result<DType> {
    DType::from_number_or_ref(info.dtype).ok_or_else(|| {
        Status::unimplemented(format!("Conversion of JSON to type: {}", dtype_name(info.dtype)))
    })
}

/// The type that values for an input are read as.
fn read_as(info: &TensorInfo, extended: bool) -> Result<DType> {
    dtype(info).map(|dtype| if extended { carrier(dtype) } else { dtype })
}

/// Whether the value is an object of named values, and not one that stands for bytes.
fn is_named(cursor: &Cursor<'_>) -> bool {
    cursor.kind() == Kind::Object && base64_object(&mut cursor.clone()).is_none()
}

/// Tensors of a list of rows; the cursor is at the first.
fn rows(
    mut cursor: Cursor<'_>,
    signature: &Signature,
    extended: bool,
) -> Result<BTreeMap<String, Tensor>> {
    let named = is_named(&cursor);
    // One that stands for bytes is an object, too, and is read as the first of the inputs.
    if cursor.kind() != Kind::Object && signature.inputs.len() > 1 {
        return Err(Status::invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors \
             required as per tensorinfo_map",
        ));
    }
    let num_inputs = if named { signature.inputs.len() } else { 1 };
    let mut collected = Vec::with_capacity(num_inputs);
    for (alias, info) in signature.inputs.iter().take(num_inputs) {
        let rows = read_as(info, extended)
            .and_then(Rows::new)
            .map_err(|status| in_row(0, None, &status))?;
        collected.push((alias, rows, false));
    }
    let mut index = 0;
    loop {
        match (named, is_named(&cursor)) {
            (true, true) => row(&mut cursor, &mut collected, index)?,
            (false, false) => {
                let pushed = collected[0].1.push(&mut cursor);
                pushed.map_err(|status| in_row(index, None, &status))?;
            }
            (true, false) => {
                return Err(Status::invalid_argument(format!(
                    "Expecting object but got list at item {index} of input list"
                )));
            }
            (false, true) => {
                return Err(Status::invalid_argument(format!(
                    "Expecting value/list but got object at item {index} of input list"
                )));
            }
        }
        index += 1;
        if !cursor.eat_comma() {
            break;
        }
    }
    Ok(collected.into_iter().map(|(alias, rows, _)| (alias.clone(), rows.build())).collect())
}

/// One row of named values: every input once. The flag says which were met.
fn row(
    cursor: &mut Cursor<'_>,
    collected: &mut [(&String, Rows, bool)],
    index: usize,
) -> Result<()> {
    let object = *cursor;
    for (_, _, is_met) in collected.iter_mut() {
        *is_met = false;
    }
    let mut met = 0;
    cursor.eat(b'{');
    cursor.skip_space();
    while cursor.peek() == b'"' {
        let Ok(name) = cursor.member() else { break };
        let name = unescape(&cursor.bytes()[name]);
        let found = collected.binary_search_by(|(alias, ..)| alias.as_bytes().cmp(&name));
        let name = || String::from_utf8_lossy(&name).into_owned();
        match found {
            Err(_) => {
                let name = name();
                let status = Status::invalid_argument(format!(
                    "JSON object: does not have named input: {name}"
                ));
                return Err(in_row(index, Some(&name), &status));
            }
            // Of several of the same name the first counts.
            Ok(at) if collected[at].2 => {
                let _ = cursor.value();
            }
            Ok(at) => {
                let (_, rows, is_met) = &mut collected[at];
                rows.push(cursor).map_err(|status| in_row(index, Some(&name()), &status))?;
                *is_met = true;
                met += 1;
            }
        }
        if !cursor.eat_comma() {
            break;
        }
    }
    cursor.eat(b'}');
    if met < collected.len() {
        let names: Vec<&str> = collected.iter().map(|(alias, ..)| alias.as_str()).collect();
        return Err(Status::invalid_argument(format!(
            "Failed to process element: {index} of 'instances' list. JSON object: {} keys must be \
             equal to: {}",
            dump(object),
            names.join(","),
        )));
    }
    Ok(())
}

fn in_row(index: usize, key: Option<&str>, status: &Status) -> Status {
    let key = key.map(|key| format!(" key: {key}")).unwrap_or_default();
    Status::invalid_argument(format!(
        "Failed to process element: {index}{key} of 'instances' list. Error: {status}"
    ))
}

/// Tensors of whole values; the cursor is at the value of `inputs`.
fn columns(
    mut cursor: Cursor<'_>,
    signature: &Signature,
    extended: bool,
) -> Result<BTreeMap<String, Tensor>> {
    if !is_named(&cursor) {
        let Some((alias, info)) =
            signature.inputs.first_key_value().filter(|_| signature.inputs.len() == 1)
        else {
            return Err(Status::invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors \
                 required as per tensorinfo_map",
            ));
        };
        let tensor = decode(&mut cursor, read_as(info, extended)?)?;
        return Ok([(alias.clone(), tensor)].into());
    }
    let mut values = vec![None; signature.inputs.len()];
    cursor.eat(b'{');
    cursor.skip_space();
    while cursor.peek() == b'"' {
        let Ok(name) = cursor.member() else { break };
        let name = unescape(&cursor.bytes()[name]);
        let at = signature.inputs.keys().position(|alias| alias.as_bytes() == &*name);
        if let Some(at) = at {
            values[at].get_or_insert(cursor);
        }
        if cursor.value().is_err() || !cursor.eat_comma() {
            break;
        }
    }
    let mut tensors = BTreeMap::new();
    for ((alias, info), value) in signature.inputs.iter().zip(values) {
        let Some(mut value) = value else {
            if extended && signature.defaults.contains_key(alias) {
                continue;
            }
            return Err(Status::invalid_argument(format!(
                "Missing named input: {alias} in 'inputs' object."
            )));
        };
        tensors.insert(alias.clone(), decode(&mut value, read_as(info, extended)?)?);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example_signature(inputs: &[(&str, DType)]) -> Signature {
        let inputs = inputs.iter().map(|(alias, dtype)| {
            let info = TensorInfo { dtype: dtype.number(), ..TensorInfo::default() };
            ((*alias).to_owned(), info)
        });
        Signature { inputs: inputs.collect(), ..Signature::default() }
    }

    fn parse(body: &str, signature: &Signature) -> std::result::Result<Vec<String>, String> {
        parse_as(body, signature, false)
    }

    fn parse_as(
        body: &str,
        signature: &Signature,
        extended: bool,
    ) -> std::result::Result<Vec<String>, String> {
        let guess = |_: Option<&str>| Some(DType::Float);
        let mut document = Document::parse(body.as_bytes(), guess).unwrap();
        let (format, tensors) = inputs(&mut document, signature, "", extended)
            .map_err(|status| format!("{} {}", status.code.http(), status.message))?;
        let shown = tensors.iter().map(|(alias, tensor)| format!("{format:?} {alias} {tensor:?}"));
        Ok(shown.collect())
    }

    fn many() -> Signature {
        example_signature(&[("a", DType::Float), ("b", DType::Int32)])
    }

    #[test]
    fn values_go_to_the_inputs_they_are_for() {
        let one = example_signature(&[("x", DType::Float)]);
        let text = example_signature(&[("s", DType::String)]);
        for (body, signature, expected) in [
            (r#"{"instances": [1.0, 2]}"#, &one, &["Row x <Tensor float[2]>"][..]),
            (r#"{"instances": [{"x": 1.0}, {"x": 2}]}"#, &one, &["Row x <Tensor float[2]>"]),
            (r#"{"instances": [{"x": 1.0, "x": "?"}]}"#, &one, &["Row x <Tensor float[1]>"]),
            (r#"{"instances": [[[]]]}"#, &one, &["Row x <Tensor float[1,1,0]>"]),
            (r#"{"inputs": 1.0}"#, &one, &["Column x <Tensor float[]>"]),
            (r#"{"inputs": []}"#, &one, &["Column x <Tensor float[0]>"]),
            (r#"{"inputs": {"x": [1.0], "q": 1}}"#, &one, &["Column x <Tensor float[1]>"]),
            (r#"{"instances": [{"b64": "YQ"}, "b"]}"#, &text, &["Row s <Tensor string[2]>"]),
            (r#"{"instances": [{"s": [{"b64": "YQ"}]}]}"#, &text, &["Row s <Tensor string[1,1]>"]),
            (r#"{"inputs": {"b64": "YQ"}}"#, &text, &["Column s <Tensor string[]>"]),
            (
                r#"{"instances": [{"b": 1, "a": [1]}, {"a": [2], "b": 1}]}"#,
                &many(),
                &["Row a <Tensor float[2,1]>", "Row b <Tensor int32[2]>"],
            ),
            (
                r#"{"inputs": {"a": [[1]], "b": 1}}"#,
                &many(),
                &["Column a <Tensor float[1,1]>", "Column b <Tensor int32[]>"],
            ),
        ] {
            let expected = expected.iter().map(|&line| line.to_owned()).collect();
            assert_eq!(parse(body, signature), Ok(expected), "{body}");
        }
    }

    #[test]
    fn with_extensions_more_types_have_values_and_defaults_count() {
        let of = |dtype| example_signature(&[("x", dtype)]);
        let mut defaults = many();
        defaults.defaults.insert("b".to_owned(), bytes::Bytes::new());
        let mut all = of(DType::Float);
        all.defaults.insert("x".to_owned(), bytes::Bytes::new());
        let ok = |lines: &[&str]| Ok(lines.iter().map(|&line| line.to_owned()).collect());
        for (body, signature, expected) in [
            (r#"{"instances": [1.5, 2]}"#, &of(DType::Half), ok(&["Row x <Tensor half[2]>"])),
            (
                r#"{"inputs": [[1.5]]}"#,
                &of(DType::BFloat16),
                ok(&["Column x <Tensor bfloat16[1,1]>"]),
            ),
            (r#"{"instances": [{"x": 7}]}"#, &of(DType::UInt16), ok(&["Row x <Tensor uint16[1]>"])),
            (
                r#"{"instances": [[1, 2]]}"#,
                &of(DType::Complex64),
                ok(&["Row x <Tensor complex64[1]>"]),
            ),
            (
                r#"{"inputs": [1, 2]}"#,
                &of(DType::Complex128),
                ok(&["Column x <Tensor complex128[]>"]),
            ),
            (r#"{"inputs": {}}"#, &example_signature(&[]), ok(&[])),
            ("{}", &example_signature(&[]), ok(&[])),
            ("{}", &all, ok(&[])),
            (r#"{"inputs": {"a": 1}}"#, &defaults, ok(&["Column a <Tensor float[]>"])),
            (
                r#"{"inputs": {"b": 1}}"#,
                &defaults,
                Err("400 Missing named input: a in 'inputs' object.".to_owned()),
            ),
            (
                r#"{"inputs": [70000]}"#,
                &of(DType::UInt16),
                Err("400 JSON Value: 70000 is out of the range of type: uint16".to_owned()),
            ),
            (
                r#"{"instances": [1]}"#,
                &example_signature(&[]),
                Err("400 Failed to get input map for signature: DEFAULT".to_owned()),
            ),
            ("{}", &of(DType::Float), Err("400 Missing 'inputs' or 'instances' key".to_owned())),
        ] {
            assert_eq!(parse_as(body, signature, true), expected, "{body}");
        }
    }

    #[test]
    fn what_stands_for_bytes_is_read_as_the_first_of_several_inputs() {
        let body = r#"{"instances": [{"b64": "YQ"}]}"#;
        let texts = example_signature(&[("a", DType::String), ("b", DType::Int32)]);

        assert_eq!(parse(body, &texts), Ok(vec!["Row a <Tensor string[1]>".to_owned()]));
        let refused = parse(body, &many()).unwrap_err();
        assert!(refused.ends_with("Type: Object is not of expected type: float"), "{refused}");
    }

    #[test]
    fn what_does_not_fit_the_signature_is_refused() {
        let one = example_signature(&[("x", DType::Float)]);
        let half = example_signature(&[("x", DType::Half)]);
        let none = example_signature(&[]);
        let element = |at: &str, error: &str| {
            format!("400 Failed to process element: {at} of 'instances' list. Error: {error}")
        };
        let plain = "required as per tensorinfo_map";
        for (body, signature, expected) in [
            ("{}", &one, "400 Missing 'inputs' or 'instances' key".to_owned()),
            ("{}", &none, "400 Failed to get input map for signature: DEFAULT".to_owned()),
            (
                r#"{"instances": [1.0], "inputs": [1.0]}"#,
                &one,
                "400 JSON Value: {\n    \"instances\": [1.0],\n    \"inputs\": [1.0]\n} Not \
                 formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
                    .to_owned(),
            ),
            (
                r#"{"instances": 1}"#,
                &one,
                "400 JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an \
                 list/array"
                    .to_owned(),
            ),
            (
                r#"{"instances": []}"#,
                &one,
                "400 JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"
                    .to_owned(),
            ),
            (
                r#"{"instances": [1]}"#,
                &many(),
                format!(
                    "400 instances is a plain list, but expecting list of objects as multiple \
                     input tensors {plain}"
                ),
            ),
            (
                r#"{"inputs": {"b64": "YQ"}}"#,
                &many(),
                format!(
                    "400 inputs is a plain value/list, but expecting an object as multiple input \
                     tensors {plain}"
                ),
            ),
            (
                r#"{"inputs": {"a": [1]}}"#,
                &many(),
                "400 Missing named input: b in 'inputs' object.".to_owned(),
            ),
            (
                r#"{"instances": [{"x": 2.0}, 1.0]}"#,
                &one,
                "400 Expecting object but got list at item 1 of input list".to_owned(),
            ),
            (
                r#"{"instances": [1.0, {"x": 2.0}]}"#,
                &one,
                "400 Expecting value/list but got object at item 1 of input list".to_owned(),
            ),
            (
                r#"{"instances": [{"q": 1.0}]}"#,
                &one,
                element("0 key: q", "INVALID_ARGUMENT: JSON object: does not have named input: q"),
            ),
            (
                r#"{"instances": [{}]}"#,
                &many(),
                "400 Failed to process element: 0 of 'instances' list. JSON object: {} keys must \
                 be equal to: a,b"
                    .to_owned(),
            ),
            (
                r#"{"instances": [[1.0], [2.0, 3.0]]}"#,
                &one,
                element("1", "INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2"),
            ),
            (
                r#"{"instances": [1.0, [2.0]]}"#,
                &one,
                element("1", "INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
            ),
            (
                r#"{"instances": [{"a": 1.0, "b": 2}, {"a": [1.0], "b": 2}]}"#,
                &many(),
                element("1 key: a", "INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
            ),
            (
                r#"{"instances": [1]}"#,
                &half,
                element("0", "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"),
            ),
            (r#"{"inputs": 1}"#, &half, "501 Conversion of JSON Value: 1 to type: half".to_owned()),
        ] {
            assert_eq!(parse(body, signature), Err(expected), "{body}");
        }
    }

    #[test]
    fn what_is_kept_is_read_or_refused() {
        let signatures: Vec<Signature> = (1..=33)
            .filter_map(DType::from_number)
            .map(|dtype| example_signature(&[("x", dtype)]))
            .chain([many(), example_signature(&[])])
            .collect();
        crate::corpus::each("json", |input| {
            for dtype in [None, Some(DType::Float), Some(DType::Int64)] {
                let Ok(mut document) = Document::parse(input, |_| dtype) else { continue };
                let _ = (document.signature_name(), document.output_filter());
                let _ = document.tasks::<serde_json::Value>("a list");
                let _ = super::super::super::examples::examples(
                    &document,
                    crate::inference::examples::Most::default(),
                );
                for signature in &signatures {
                    for extended in [false, true] {
                        let _ = inputs(&mut document, signature, "", extended);
                    }
                }
            }
        });
    }
}
