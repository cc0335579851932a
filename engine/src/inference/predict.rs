//! Predict: any signature, named tensors in, named tensors out.

use std::collections::BTreeMap;

use crate::servable::{Signature, Signatures, DEFAULT_SIGNATURE};
use crate::status::{Result, Status};
use crate::tensor::{proto, Tensor};

const PREDICT: &str = "tensorflow/serving/predict";
const CLASSIFY: &str = "tensorflow/serving/classify";
const REGRESS: &str = "tensorflow/serving/regress";

/// The name of the signature that `requested` means.
pub fn signature_name(requested: &str) -> &str {
    if requested.is_empty() {
        DEFAULT_SIGNATURE
    } else {
        requested
    }
}

/// The signature to predict with, over gRPC.
///
/// # Errors
/// FAILED_PRECONDITION when there is none of that name; INTERNAL when methods are checked and its
/// method is not one of the three.
pub fn signature<'s>(
    signatures: &'s Signatures,
    name: &str,
    check_method: bool,
) -> Result<&'s Signature> {
    let signature = signatures.get(name).ok_or_else(|| {
        Status::failed_precondition(format!("Serving signature key \"{name}\" not found."))
    })?;
    if check_method {
        check_method_name(signature)?;
    }
    Ok(signature)
}

/// Refuse a signature whose method is none of the three.
///
/// # Errors
/// INTERNAL.
pub fn check_method_name(signature: &Signature) -> Result<()> {
    let method = signature.method_name.as_str();
    if [PREDICT, CLASSIFY, REGRESS].contains(&method) {
        return Ok(());
    }
    Err(Status::internal(format!(
        "Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, \
         {REGRESS}}}. Was: {method}"
    )))
}

fn join<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut joined = String::new();
    for name in names {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(name);
    }
    joined
}

fn names<T>(map: &BTreeMap<String, T>) -> impl Iterator<Item = &str> {
    map.keys().map(String::as_str)
}

/// An input of a request before it is a tensor.
pub trait Input {
    /// # Errors
    /// INVALID_ARGUMENT; the caller names the input.
    fn to_tensor(&self) -> Result<Tensor>;
}

/// The tensors to feed, by their names in the graph: the request's inputs, and the signature's
/// defaults for those it left out. The inputs are sorted by name, and each name is there once.
///
/// # Errors
/// INVALID_ARGUMENT by specification 1.4, steps 5 to 7.
pub fn feeds<I: Input>(
    signature: &Signature,
    inputs: &[(&str, I)],
) -> Result<Vec<(String, Tensor)>> {
    let (given, wanted) = (inputs.len(), signature.inputs.len());
    let find = |name: &str| inputs.binary_search_by_key(&name, |(name, _)| name).ok();
    let given_names = || inputs.iter().map(|(name, _)| *name);
    if given > wanted || (given < wanted && signature.defaults.is_empty()) {
        let extra = given_names().filter(|name| !signature.inputs.contains_key(*name));
        let missing = names(&signature.inputs).filter(|name| find(name).is_none());
        return Err(Status::invalid_argument(format!(
            "input size does not match signature: {given}!={wanted} len({{{}}}) != len({{{}}}). \
             Sent extra: {{{}}}. Missing but required: {{{}}}.",
            join(given_names()),
            join(names(&signature.inputs)),
            join(extra),
            join(missing),
        )));
    }
    let mut feeds = Vec::with_capacity(wanted);
    let mut used: Vec<&str> = Vec::with_capacity(given);
    for (alias, info) in &signature.inputs {
        let tensor = if let Some(at) = find(alias) {
            used.push(alias);
            inputs[at].1.to_tensor()
        } else if let Some(default) = signature.defaults.get(alias) {
            proto::decode(default, proto::Limits::default())
        } else {
            return Err(Status::invalid_argument(format!(
                "Signature input alias: {alias}(feed name: {}) not found in request and no \
                 default value provided. Inputs expected to be in the request {{{}}}, or default \
                 input alias set: {}",
                info.name,
                join(given_names()),
                join(names(&signature.defaults)),
            )));
        };
        feeds.push((info.name.clone(), tensor.map_err(|status| status_of_input(alias, status))?));
    }
    if given > 0 && used.len() < given {
        return Err(Status::invalid_argument(format!(
            "Inputs contains invalid name. Used request inputs: {}, request input: {}",
            join(used),
            join(given_names()),
        )));
    }
    Ok(feeds)
}

fn status_of_input(alias: &str, status: Status) -> Status {
    if status.message.is_empty() {
        return Status::invalid_argument(format!("tensor parsing error: {alias}"));
    }
    status
}

/// Alias and name in the graph of every output to fetch; all, when the filter is empty.
///
/// # Errors
/// INVALID_ARGUMENT for an output that is unknown or asked for twice.
pub fn fetches(signature: &Signature, filter: &[String]) -> Result<Vec<(String, String)>> {
    if filter.is_empty() {
        let all = signature.outputs.iter();
        return Ok(all.map(|(alias, info)| (alias.clone(), info.name.clone())).collect());
    }
    let mut fetches: Vec<(String, String)> = Vec::with_capacity(filter.len());
    for alias in filter {
        let info = signature.outputs.get(alias).ok_or_else(|| {
            Status::invalid_argument(format!(
                "output tensor alias not found in signature: {alias} Outputs expected to be in \
                 the set {{{}}}.",
                join(names(&signature.outputs)),
            ))
        })?;
        if fetches.iter().any(|(seen, _)| seen == alias) {
            return Err(Status::invalid_argument(format!(
                "duplicate output tensor alias: {alias}"
            )));
        }
        fetches.push((alias.clone(), info.name.clone()));
    }
    Ok(fetches)
}
