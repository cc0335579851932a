//! What a call needs where tokens are asked for: a scope by its method, and the models it names.

use std::ops::Range;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::HeaderMap;

use crate::access::{Access, Scopes, Token};
use crate::inference::serialized::unparsable;
use crate::status::Result;
use crate::wire::{self, Field, Malformed, Reader};

/// What a method needs. One that nobody thought of is for administrators.
pub fn needed(service: &str, method: &str) -> Scopes {
    match (service, method) {
        ("tensorflow.serving.PredictionService", "GetModelMetadata") => {
            Scopes::PREDICT.or(Scopes::STATUS)
        }
        (
            "tensorflow.serving.PredictionService",
            "Predict" | "Classify" | "Regress" | "MultiInference",
        ) => Scopes::PREDICT,
        ("tensorflow.serving.ModelService", "GetModelStatus") => Scopes::STATUS,
        _ => Scopes::ADMIN,
    }
}

pub fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(AUTHORIZATION).iter().map(http::HeaderValue::as_bytes)
}

/// Check that a token may ask the models that a message names. Every name that stands in it
/// counts, also one that a later one replaces.
///
/// # Errors
/// PERMISSION_DENIED, or INTERNAL when the bytes are not the message.
pub fn check_models(access: &Access, token: &Token, method: &str, message: &Bytes) -> Result<()> {
    if token.models.is_empty() {
        return Ok(());
    }
    // All fields on the way from the request to the name have the number 1.
    let depth = if method == "MultiInference" { 3 } else { 2 };
    let mut names = Vec::new();
    let found = collect(&mut names, message, 0..message.len(), depth);
    found.map_err(|Malformed| unparsable())?;
    if names.is_empty() {
        names.push("");
    }
    access.check_models(token, names)
}

/// Collect the texts that stand `depth` messages deep, each in a field with the number 1.
fn collect<'m>(
    names: &mut Vec<&'m str>,
    message: &'m [u8],
    range: Range<usize>,
    depth: usize,
) -> std::result::Result<(), Malformed> {
    if depth == 0 {
        names.push(wire::text(&message[range])?);
        return Ok(());
    }
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        if let (1, Field::Bytes(range)) = (number, field) {
            collect(names, message, range, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::protos::tensorflow::serving::{
        GetModelStatusRequest, InferenceTask, ModelSpec, MultiInferenceRequest, PredictRequest,
    };
    use crate::status::{code, Code};

    fn spec(name: &str) -> ModelSpec {
        ModelSpec { name: name.to_owned(), ..ModelSpec::default() }
    }

    fn checked(method: &str, message: impl Into<Bytes>) -> Code {
        let token = Token {
            name: "app".to_owned(),
            sha256: [0; 32],
            scopes: Scopes::PREDICT,
            models: vec!["m".to_owned()],
        };
        code(&check_models(&Access::default(), &token, method, &message.into()))
    }

    #[test]
    fn every_name_in_a_message_counts() {
        let predict = |name: &str| {
            let request =
                PredictRequest { model_spec: Some(spec(name)), ..PredictRequest::default() };
            request.encode_to_vec()
        };
        let task =
            |name: &str| InferenceTask { model_spec: Some(spec(name)), ..InferenceTask::default() };
        let multi = |names: &[&str]| {
            let tasks = names.iter().map(|name| task(name)).collect();
            MultiInferenceRequest { tasks, ..MultiInferenceRequest::default() }.encode_to_vec()
        };
        let status = GetModelStatusRequest { model_spec: Some(spec("m")) }.encode_to_vec();

        assert_eq!(checked("GetModelStatus", status), Code::Ok);
        for (message, expected) in [
            (predict("m"), Code::Ok),
            (predict("n"), Code::PermissionDenied),
            (Vec::new(), Code::PermissionDenied),
            ([predict("m"), predict("n")].concat(), Code::PermissionDenied),
            ([predict("n"), predict("m")].concat(), Code::PermissionDenied),
            (b"\x0a\x7f".to_vec(), Code::Internal),
        ] {
            assert_eq!(checked("Predict", message.clone()), expected, "{message:?}");
        }
        for (names, expected) in [
            (&["m", "m"][..], Code::Ok),
            (&["m", "n"], Code::PermissionDenied),
            (&[], Code::PermissionDenied),
        ] {
            assert_eq!(checked("MultiInference", multi(names)), expected, "{names:?}");
        }
    }
}
