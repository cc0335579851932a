//! A servable to batch for, and parameters that ask for nothing.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::signature::Parameters;
use crate::servable::{RunOptions, Servable, Signatures};
use crate::status::Result;
use crate::tensor::{Buffer, DType, Tensor};

/// The shapes of what was fed, run by run.
pub type Runs = Arc<Mutex<Vec<Vec<i64>>>>;

/// Gives back what it is fed, and remembers the shapes.
pub struct Echo {
    signatures: Signatures,
    map: Bytes,
    runs: Runs,
    /// The shape of its output where that is not the input's.
    output: Option<Vec<i64>>,
}

impl Echo {
    pub fn new(output: Option<Vec<i64>>) -> (Self, Runs) {
        let runs = Runs::default();
        let echo =
            Self { signatures: Signatures::new(), map: Bytes::new(), runs: runs.clone(), output };
        (echo, runs)
    }
}

impl Servable for Echo {
    fn signatures(&self) -> &Signatures {
        &self.signatures
    }
    fn signature_def_map(&self) -> &Bytes {
        &self.map
    }
    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        _: &[String],
        _: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let (_, tensor) = feeds.into_iter().next().unwrap();
        self.runs.lock().push(tensor.shape().to_vec());
        let shape = self.output.clone();
        Ok(vec![shape.map_or(tensor, |shape| ints(&shape, &[7]))])
    }
}

pub fn ints(shape: &[i64], values: &[i32]) -> Tensor {
    let mut buffer = Buffer::zeroed(values.len() * 4);
    buffer.elements_mut::<i32>().copy_from_slice(values);
    Tensor::dense(DType::Int32, shape.to_vec(), buffer)
}

pub fn parameters() -> Parameters {
    Parameters {
        max_batch_size: 16,
        batch_timeout_s: 0.0,
        max_enqueued_batches: 10,
        allowed_batch_sizes: vec![],
        pad_variable_length_inputs: false,
        enable_large_batch_splitting: false,
        max_execution_batch_size: 16,
        run_unbatchable_alone: false,
        padding_value: None,
        unpad_outputs: false,
        unbatched_signatures: vec![],
        policy: "fixed".to_owned(),
        target_p99_ms: 0.0,
        max_in_flight: 0,
    }
}
