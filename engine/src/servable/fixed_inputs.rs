//! Tensors that are fed to every run of a servable, beside what requests feed.

use std::sync::Arc;

use bytes::Bytes;

use crate::compute::Compute;
use crate::servable::{ProcessCounts, RunOptions, Servable, SessionRun, Signatures};
use crate::status::{Result, Status};
use crate::tensor::proto::{self, Limits};
use crate::tensor::Tensor;

/// A servable with inputs of its own.
pub struct FixedInputs {
    inner: Arc<dyn Servable>,
    /// Name in the graph, and serialized `TensorProto`.
    inputs: Vec<(String, Bytes)>,
}

impl FixedInputs {
    /// # Errors
    /// INVALID_ARGUMENT when one is no tensor.
    pub fn new(inner: Arc<dyn Servable>, inputs: Vec<(String, Bytes)>) -> Result<Self> {
        for (name, input) in &inputs {
            decode(name, input)?;
        }
        Ok(Self { inner, inputs })
    }

    fn add(&self, feeds: &mut Vec<(String, Tensor)>) -> Result<()> {
        for (name, input) in &self.inputs {
            if feeds.iter().any(|(fed, _)| fed == name) {
                return Err(Status::invalid_argument(format!(
                    "{name} is one of the fixed input tensors, and cannot be fed"
                )));
            }
            feeds.push((name.clone(), decode(name, input)?));
        }
        Ok(())
    }
}

fn decode(name: &str, input: &Bytes) -> Result<Tensor> {
    proto::decode(input, Limits::default())
        .map_err(|_| Status::invalid_argument(format!("The fixed input {name} is no tensor")))
}

impl Servable for FixedInputs {
    fn signatures(&self) -> &Signatures {
        self.inner.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.inner.signature_def_map()
    }

    fn compute(&self) -> Option<&Compute> {
        self.inner.compute()
    }

    fn waits_for_nothing(&self) -> bool {
        self.inner.waits_for_nothing()
    }

    fn process_counts(&self) -> Option<ProcessCounts> {
        self.inner.process_counts()
    }

    fn is_batchable(&self, signature_name: &str) -> bool {
        self.inner.is_batchable(signature_name)
    }

    fn may_keep_feeds(&self, signature_name: &str) -> bool {
        self.inner.may_keep_feeds(signature_name)
    }

    fn is_bounded(&self) -> bool {
        self.inner.is_bounded()
    }

    fn run(
        &self,
        mut feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        self.add(&mut feeds)?;
        self.inner.run(feeds, fetches, options)
    }

    fn run_session(&self, mut run: SessionRun) -> Result<(Vec<Tensor>, Vec<u8>)> {
        self.add(&mut run.feeds)?;
        self.inner.run_session(run)
    }
}
