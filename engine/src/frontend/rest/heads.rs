//! Classify and Regress over REST.

use std::sync::Arc;

use super::document::Document;
use super::examples;
use super::service::{Body, Failure, Service, LARGE_ANSWER};
use crate::inference::head::{Head, Inference, Method};
use crate::inference::predict::signature_name;
use crate::metrics::{Exchange, Stage};
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
        let (handle, name, examples) = self.examples(spec, body).await?;
        exchange.resolved(&handle.series, handle.known_signature(signature_name(&name)));
        let check = self.app.options.enable_signature_method_name_check;
        let head = Head::new(method, handle.servable.signatures(), &name, check)?;
        let count = examples.num_elements();
        let feeds = vec![(head.input().to_owned(), examples)];
        exchange.ended(Stage::Decode);
        let outputs = self.app.run(handle, feeds, head.fetches(), options, exchange).await?;
        let elements: usize = outputs.iter().map(Tensor::num_elements).sum();
        self.convert(elements > LARGE_ANSWER, move || {
            let outputs: Vec<&Tensor> = outputs.iter().collect();
            match head.infer(count, &outputs)? {
                Inference::Classify(results) => Ok(examples::classify_body(&results)?),
                Inference::Regress(values) => Ok(examples::regress_body(values)?),
            }
        })
        .await
    }

    /// The version, the signature's name and the examples of a request.
    async fn examples(
        &self,
        spec: ModelSpec,
        body: Body,
    ) -> Result<(Arc<ServableHandle>, String, Tensor), Failure> {
        let app = self.app.clone();
        self.convert(body.is_large(), move || {
            let body = body.read(app.options.max_body_bytes)?;
            let document = Document::parse(&body, |_| None)?;
            let signature_name = document.signature_name()?.unwrap_or_default();
            let examples = examples::examples(&document)?;
            let handle = app.map.resolve(&spec)?;
            Ok((handle, signature_name, examples.to_tensor()?))
        })
        .await
    }
}
