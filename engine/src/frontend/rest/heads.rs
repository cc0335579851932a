//! Classify and Regress over REST.

use std::sync::Arc;

use super::document::Document;
use super::examples;
use super::service::{Body, Failure, Service, LARGE_ANSWER};
use crate::inference::head::{Head, Inference, Method};
use crate::inference::predict::signature_name;
use crate::inference::serialized::examples as serialized;
use crate::metrics::{Exchange, Stage};
use crate::request_log::{Kind, Request, Sample};
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::tensor::Tensor;

impl Service {
    pub(super) async fn infer(
        &self,
        method: Method,
        spec: ModelSpec,
        body: Body,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let options = self.run_options();
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
        self.convert(elements > LARGE_ANSWER, move || {
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

    /// The version, the signature's name and the examples of a request, and what is logged of it.
    async fn examples(
        &self,
        method: Method,
        spec: ModelSpec,
        body: Body,
    ) -> Result<(Arc<ServableHandle>, String, Tensor, Option<Sample>), Failure> {
        let app = self.app.clone();
        self.convert(body.is_large(), move || {
            let body = body.read(app.options.max_body_bytes)?;
            let document = Document::parse(&body, |_| None)?;
            let requested = document.signature_name()?.unwrap_or_default();
            let examples = examples::examples(&document)?;
            let handle = app.map.resolve(&spec)?;
            let tensor = examples.to_tensor()?;
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
