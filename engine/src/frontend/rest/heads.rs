//! Classify, Regress and MultiInference over REST.

use std::sync::Arc;

use serde::Deserialize;

use super::document::Document;
use super::examples;
use super::gzip::Inflation;
use super::media::Media;
use super::predict::{not_parsed, with_spec};
use super::service::{Body, Failure, Service, LARGE_ANSWER};
use crate::inference::examples::Most;
use crate::inference::head::{Head, Inference, Method};
use crate::inference::multi_inference::{Plan, Task};
use crate::inference::predict::signature_name;
use crate::inference::serialized::examples::{
    self as serialized, ClassificationRequest, RegressionRequest,
};
use crate::inference::serialized::{answer_counted, unparsable};
use crate::metrics::{Exchange, Stage};
use crate::request_log::{Kind, Request, Sample};
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::Status;
use crate::tensor::Tensor;

impl Service {
    /// Answer Classify or Regress, in kind.
    pub(super) async fn infer(
        &self,
        method: Method,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Media, Vec<u8>), Failure> {
        if body.content != Media::Protobuf {
            return Ok((Media::Json, self.infer_json(method, spec, body, exchange).await?));
        }
        let options = body.run_options();
        let inflation = Inflation::of(&self.app.options);
        let permit = body.permit.clone();
        let message = self
            .convert(body.is_large(), body.run_options(), move || {
                Ok::<_, Failure>(with_spec(body.read(&inflation)?, &spec))
            })
            .await?;
        let answered = match method {
            Method::Classify => {
                answer_counted::<ClassificationRequest>(
                    &self.app,
                    message,
                    options,
                    Some(&permit),
                    exchange,
                )
                .await
            }
            Method::Regress => {
                answer_counted::<RegressionRequest>(
                    &self.app,
                    message,
                    options,
                    Some(&permit),
                    exchange,
                )
                .await
            }
        };
        Ok((Media::Protobuf, answered.map_err(told)?.into_vec()))
    }

    async fn infer_json(
        &self,
        method: Method,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let options = body.run_options();
        let (handle, name, examples, sample) = self.examples(method, spec, body).await?;
        exchange.resolved(&handle.series, handle.known_signature(signature_name(&name)));
        let check = self.app.options.enable_signature_method_name_check;
        let head = Head::new(method, handle.servable.signatures(), &name, check)?;
        let count = examples.num_elements();
        let feeds = vec![(head.input().to_owned(), examples)];
        exchange.ended(Stage::Decode);
        let fetches = head.fetches();
        let outputs = self.app.run(handle.clone(), feeds, fetches, options, exchange).await?;
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        self.convert(elements > LARGE_ANSWER, options, move || {
            let outputs: Vec<&Tensor> = outputs.iter().collect();
            let inference = head.infer(count, &outputs)?;
            let body = match &inference {
                Inference::Classify(results) => examples::classify_body(results)?,
                Inference::Regress(values) => examples::regress_body(values)?,
            };
            if let Some(sample) = sample {
                let response = serialized::response(&inference, &handle, signature_name(&name));
                sample.answered(handle.version, response.as_slice());
            }
            Ok(body)
        })
        .await
    }

    /// Answer several heads of one model that share their examples.
    pub(super) async fn multi_inference(
        &self,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let options = body.run_options();
        let app = self.app.clone();
        let (handle, plan, count, feeds) = self
            .convert(body.is_large(), body.run_options(), move || {
                let body = body.read(&Inflation::of(&app.options))?;
                let document = Document::parse(&body, |_| None)?;
                let tasks: Vec<TaskDocument> = document.tasks(TASKS)?;
                let most = Most::of(&app.options);
                let examples = examples::examples(&document, most)?;
                let handle = app.map.resolve(&spec)?;
                let tasks: Vec<Task> = tasks.into_iter().map(|task| task.of(&spec)).collect();
                let check = app.options.enable_signature_method_name_check;
                let plan = Plan::new(handle.servable.signatures(), &tasks, check)?;
                let mut feeds = Vec::with_capacity(plan.inputs.len());
                for name in &plan.inputs {
                    feeds.push((name.clone(), examples.to_tensor(most)?));
                }
                Ok::<_, Failure>((handle, plan, examples.examples.len(), feeds))
            })
            .await?;
        exchange.resolved(&handle.series, "");
        exchange.has_examples(count);
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle, feeds, plan.fetches.clone(), options, exchange).await?;
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        self.convert(elements > LARGE_ANSWER, options, move || {
            let inferences = plan.inferences(count, &outputs)?;
            Ok(examples::multi_inference_body(&plan.signature_names, &inferences))
        })
        .await
    }

    /// The version, the signature's name and the examples of a request, and what is logged of it.
    async fn examples(
        &self,
        method: Method,
        spec: ModelSpec,
        body: Body,
    ) -> Result<(Arc<ServableHandle>, String, Tensor, Option<Sample>), Failure> {
        let app = self.app.clone();
        self.convert(body.is_large(), body.run_options(), move || {
            let body = body.read(&Inflation::of(&app.options))?;
            let document = Document::parse(&body, |_| None)?;
            let requested = document.signature_name()?.unwrap_or_default();
            let most = Most::of(&app.options);
            let examples = examples::examples(&document, most)?;
            let handle = app.map.resolve(&spec)?;
            let tensor = examples.to_tensor(most)?;
            let sample = app.request_logs.sample(&handle.name, || {
                let name = signature_name(&requested);
                Request {
                    kind: match method {
                        Method::Classify => Kind::Classify,
                        Method::Regress => Kind::Regress,
                    },
                    message: serialized::request(&handle.name, name, &examples).into(),
                    signature_name: name.to_owned(),
                }
            });
            Ok((handle, requested, tensor, sample))
        })
        .await
    }
}

const TASKS: &str = "a list of objects with 'method_name' and, if it is not the default, \
                     'signature_name'";

/// One of `tasks`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskDocument {
    #[serde(default)]
    signature_name: String,
    method_name: String,
}

impl TaskDocument {
    /// The task for the model that the target names. The method may be named as in a target, too.
    fn of(self, spec: &ModelSpec) -> Task {
        let method_name = match &*self.method_name {
            "classify" | "regress" => format!("tensorflow/serving/{}", self.method_name),
            _ => self.method_name,
        };
        Task {
            spec: ModelSpec { signature_name: self.signature_name, ..spec.clone() },
            method_name,
        }
    }
}

/// A message that cannot be parsed is the client's fault, which over HTTP has a code of its own.
fn told(status: Status) -> Status {
    if status == unparsable() {
        return not_parsed();
    }
    status
}
