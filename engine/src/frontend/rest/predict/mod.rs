//! Predict over REST: a document becomes tensors by its signature, tensors become a document.

mod inputs;
mod outputs;

use std::sync::Arc;

use super::document::Document;
use super::service::{Body, Failure, Service, LARGE_ANSWER};
use crate::app::App;
use crate::inference::predict as inference;
use crate::inference::serialized::predict as serialized;
use crate::metrics::{Exchange, Stage};
use crate::request_log::{Kind, Request, Sample};
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::{Result, Status};
use crate::tensor::proto::Encoding;
use crate::tensor::Tensor;

/// How the request gave its values, which decides how the answer gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `instances`: a list of rows.
    Row,
    /// `inputs`: whole tensors.
    Column,
}

impl Service {
    pub(super) async fn predict(
        &self,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let options = self.run_options();
        let app = self.app.clone();
        let prepared = self
            .convert(body.is_large(), move || {
                let limit = app.options.max_body_bytes;
                Ok::<_, Failure>(prepare_predict(&app, &spec, &body.read(limit)?)?)
            })
            .await?;
        let Prepared { handle, signature_name, format, feeds, aliases, fetches, sample } = prepared;
        exchange.resolved(&handle.series, &signature_name);
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle.clone(), feeds, fetches, options, exchange).await?;
        if outputs.len() != aliases.len() {
            return Err(Status::unknown("Predict internal error").into());
        }
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        let written: Result<Vec<u8>> = self
            .convert(elements > LARGE_ANSWER, move || {
                let named = aliases.iter().map(String::as_str).zip(&outputs);
                let body = outputs::body(format, &named.collect::<Vec<_>>())?;
                if let Some(sample) = sample {
                    let response = serialized::response(
                        &handle,
                        &signature_name,
                        &aliases,
                        &outputs,
                        Encoding::Typed,
                    );
                    sample.answered(handle.version, response.as_slice());
                }
                Ok(body)
            })
            .await;
        written.map_err(Failure::from)
    }
}

/// A Predict request, ready to run.
struct Prepared {
    handle: Arc<ServableHandle>,
    signature_name: String,
    format: Format,
    feeds: Vec<(String, Tensor)>,
    aliases: Vec<String>,
    fetches: Vec<String>,
    sample: Option<Sample>,
}

fn prepare_predict(app: &App, spec: &ModelSpec, body: &[u8]) -> Result<Prepared> {
    // The version is looked up first, so that its signatures say what to read the numbers as; that
    // there is none is said only after what is wrong with the document.
    let resolved = app.map.resolve(spec);
    let mut document = Document::parse(body, |signature_name| {
        let handle = resolved.as_ref().ok()?;
        inputs::guess(handle.servable.signatures(), signature_name)
    })?;
    let requested = document.signature_name()?.unwrap_or_default();
    let handle = resolved?;
    let name = inference::signature_name(&requested);
    let signature = inputs::signature(handle.servable.signatures(), name)?;
    let (format, tensors) = inputs::inputs(&mut document, signature, &requested)?;
    if app.options.enable_signature_method_name_check {
        inference::check_method_name(signature)?;
    }
    let sample = app.request_logs.sample(&handle.name, || {
        let inputs = tensors.iter().map(|(alias, tensor)| (alias.as_str(), tensor));
        Request {
            kind: Kind::Predict,
            message: serialized::request(&handle.name, name, inputs).into(),
            signature_name: name.to_owned(),
        }
    });
    let feeds = tensors
        .into_iter()
        .filter_map(|(alias, tensor)| Some((signature.inputs.get(&alias)?.name.clone(), tensor)))
        .collect();
    let outputs = signature.outputs.iter().map(|(alias, info)| (alias.clone(), info.name.clone()));
    let (aliases, fetches) = outputs.unzip();
    let signature_name = name.to_owned();
    Ok(Prepared { handle, signature_name, format, feeds, aliases, fetches, sample })
}
