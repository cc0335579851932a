//! Predict over REST: a body becomes tensors by its signature, tensors become a body.
//!
//! JSON is what TensorFlow Serving has; a serialized `PredictRequest` and a `.npy` file are ours.

mod carrier;
mod inputs;
mod outputs;

use std::sync::Arc;

use bytes::Bytes;

use super::document::Document;
use super::gzip::Inflation;
use super::media::Media;
use super::service::{Body, Failure, Service, LARGE_ANSWER};
use crate::app::App;
use crate::inference::examples::Most;
use crate::inference::predict as inference;
use crate::inference::serialized::predict::{request, response, Plan, PredictRequest};
use crate::inference::serialized::{Request as _, Rules};
use crate::inference::spec;
use crate::metrics::{Exchange, Stage};
use crate::request_log::{self, Kind, Sample};
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::{Result, Status};
use crate::tensor::proto::{Encoding, Limits};
use crate::tensor::{npy, Tensor};

/// How the request gave its values, which decides how the answer gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `instances`: a list of rows.
    Row,
    /// `inputs`: whole tensors.
    Column,
}

impl Service {
    /// The answer's body, and what it is written in.
    pub(super) async fn predict(
        &self,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<(Media, Vec<u8>), Failure> {
        let options = body.run_options();
        let app = self.app.clone();
        let permit = body.permit.clone();
        let prepared = self
            .convert(body.is_large(), body.run_options(), move || Prepared::new(&app, &spec, body))
            .await?;
        let Prepared { handle, format, answer, plan, sample } = prepared;
        let Plan { signature_name, feeds, aliases, fetches } = plan;
        exchange.resolved(&handle.series, handle.known_signature(&signature_name));
        if format.is_none() {
            permit.charge(feeds.iter().map(|(_, tensor)| tensor.memory_bytes()).sum())?;
        }
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle.clone(), feeds, fetches, options, exchange).await?;
        if outputs.len() != aliases.len() {
            return Err(Status::unknown("Predict internal error").into());
        }
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        let widens = self.app.options.rest_api_extensions;
        let as_content = self.app.options.enable_serialization_as_tensor_content;
        let encoding = if as_content { Encoding::Content } else { Encoding::Typed };
        let written: Result<Vec<u8>> = self
            .convert(elements > LARGE_ANSWER, options, move || {
                let message =
                    |encoding| response(&handle, &signature_name, &aliases, &outputs, encoding);
                let logged =
                    sample.and_then(|sample| Some((sample, message(Encoding::Typed).ok()?)));
                let body = match answer {
                    Media::Npy => npy::encode(&outputs[0])?,
                    Media::Protobuf => message(encoding)?.into_vec(),
                    Media::Json => json(format, &aliases, outputs, widens)?,
                };
                if let Some((sample, response)) = logged {
                    sample.answered(handle.version, response.as_slice());
                }
                Ok(body)
            })
            .await;
        Ok((answer, written?))
    }
}

fn json(
    format: Option<Format>,
    aliases: &[String],
    outputs: Vec<Tensor>,
    widens: bool,
) -> Result<Vec<u8>> {
    let outputs: Vec<Tensor> = if widens || format.is_none() {
        outputs.into_iter().map(carrier::widen).collect()
    } else {
        outputs
    };
    let named = aliases.iter().map(String::as_str).zip(&outputs);
    outputs::body(format.unwrap_or(Format::Column), &named.collect::<Vec<_>>())
}

/// A Predict request, ready to run.
struct Prepared {
    handle: Arc<ServableHandle>,
    /// Of a request in JSON.
    format: Option<Format>,
    answer: Media,
    plan: Plan,
    /// What is logged of it.
    sample: Option<Sample>,
}

impl Prepared {
    fn new(app: &App, spec: &ModelSpec, body: Body) -> std::result::Result<Self, Failure> {
        let Body { content, accept, .. } = body;
        let headers = (body.signature_name.clone(), body.output_filter.clone());
        let bytes = body.read(&Inflation::of(&app.options))?;
        let media = content.of_body(&bytes);
        let answer = accept.unwrap_or(media);
        let prepared = match media {
            Media::Json => from_json(app, spec, &bytes, answer),
            Media::Protobuf => from_message(app, spec, bytes, answer),
            Media::Npy => from_npy(app, spec, &bytes, headers, answer),
        }?;
        let aliases = &prepared.plan.aliases;
        if answer == Media::Npy && aliases.len() != 1 {
            return Err(Status::invalid_argument(format!(
                "application/x-npy holds one tensor, and the outputs are {{{}}}: choose one of \
                 them",
                aliases.join(",")
            ))
            .into());
        }
        Ok(prepared)
    }
}

fn from_json(app: &App, spec: &ModelSpec, body: &[u8], answer: Media) -> Result<Prepared> {
    let extended = app.options.rest_api_extensions;
    // The version is looked up first, so that its signatures say what to read the numbers as; that
    // there is none is said only after what is wrong with the document.
    let resolved = app.map.resolve(spec);
    let mut document = Document::parse(body, |signature_name| {
        let handle = resolved.as_ref().ok()?;
        inputs::guess(handle.servable.signatures(), signature_name, extended)
    })?;
    let requested = document.signature_name()?.unwrap_or_default();
    let filter = if extended { document.output_filter()? } else { Vec::new() };
    let handle = resolved?;
    let name = inference::signature_name(&requested);
    let signature = inputs::signature(handle.servable.signatures(), name)?;
    let (format, tensors) = inputs::inputs(&mut document, signature, &requested, extended)?;
    if app.options.enable_signature_method_name_check {
        inference::check_method_name(signature)?;
    }
    let sample = sample(app, &handle, name, || {
        let inputs = tensors.iter().map(|(alias, tensor)| (alias.as_str(), tensor));
        request(&handle.name, name, inputs).into()
    });
    let feeds = if tensors.len() == signature.inputs.len() {
        let name_of = |alias: &String| Some(signature.inputs.get(alias)?.name.clone());
        let feeds = tensors.into_iter();
        feeds.filter_map(|(alias, tensor)| Some((name_of(&alias)?, tensor))).collect()
    } else {
        let given: Vec<(&str, Decoded)> =
            tensors.iter().map(|(alias, tensor)| (alias.as_str(), Decoded(tensor))).collect();
        inference::feeds(signature, &given)?
    };
    let (aliases, fetches) = inference::fetches(signature, &filter)?.into_iter().unzip();
    let signature_name = name.to_owned();
    let plan = Plan { signature_name, feeds, aliases, fetches };
    Ok(Prepared { handle, format: Some(format), answer, plan, sample })
}

/// An input that is a tensor already.
struct Decoded<'t>(&'t Tensor);

impl inference::Input for Decoded<'_> {
    fn to_tensor(&self) -> Result<Tensor> {
        self.0.try_copied()
    }
}

fn from_message(app: &App, spec: &ModelSpec, body: Vec<u8>, answer: Media) -> Result<Prepared> {
    let message = with_spec(body, spec);
    let request = PredictRequest::parse(&message).map_err(|_| not_parsed())?;
    let handle = app.map.resolve(request.spec()?)?;
    let rules = Rules {
        check_method_name: app.options.enable_signature_method_name_check,
        as_tensor_content: app.options.enable_serialization_as_tensor_content,
        most: Most::of(&app.options),
        is_hurried: false,
    };
    let plan = request.plan(&handle, rules)?;
    let sample = sample(app, &handle, &plan.signature_name, || message.clone());
    Ok(Prepared { handle, format: None, answer, plan, sample })
}

fn from_npy(
    app: &App,
    spec: &ModelSpec,
    body: &[u8],
    (signature_name, filter): (String, Vec<String>),
    answer: Media,
) -> Result<Prepared> {
    let tensor =
        npy::decode(body, Limits::for_message(body.len(), app.options.max_expanded_bytes))?;
    let handle = app.map.resolve(spec)?;
    let signature_name = inference::signature_name(&signature_name).to_owned();
    let check = app.options.enable_signature_method_name_check;
    let signature = inference::signature(handle.servable.signatures(), &signature_name, check)?;
    let [(alias, info)] = Vec::from_iter(&signature.inputs)[..] else {
        return Err(Status::invalid_argument(format!(
            "application/x-npy holds one tensor, and signature \"{signature_name}\" has {} inputs",
            signature.inputs.len()
        )));
    };
    let sample = sample(app, &handle, &signature_name, || {
        request(&handle.name, &signature_name, [(alias.as_str(), &tensor)].into_iter()).into()
    });
    let feeds = vec![(info.name.clone(), tensor)];
    let (aliases, fetches) = inference::fetches(signature, &filter)?.into_iter().unzip();
    let signature_name = signature_name.clone();
    let plan = Plan { signature_name, feeds, aliases, fetches };
    Ok(Prepared { handle, format: None, answer, plan, sample })
}

/// Choose the request to be logged, perhaps.
fn sample(
    app: &App,
    handle: &ServableHandle,
    signature_name: &str,
    message: impl FnOnce() -> Bytes,
) -> Option<Sample> {
    app.request_logs.sample(&handle.name, || request_log::Request {
        kind: Kind::Predict,
        message: message(),
        signature_name: signature_name.to_owned(),
    })
}

/// The message with the model that the target names in place of its own: what is appended to a
/// message is merged into it.
pub(super) fn with_spec(mut message: Vec<u8>, spec: &ModelSpec) -> Bytes {
    spec::put_requested(&mut message, 1, spec);
    message.into()
}

pub(super) fn not_parsed() -> Status {
    Status::invalid_argument("The request message cannot be parsed")
}
