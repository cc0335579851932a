//! A servable to batch for, and parameters that ask for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::signature::Parameters;
use crate::servable::{ProcessCounts, RunOptions, Servable, Signatures};
use crate::status::{Result, Status};
use crate::tensor::{Buffer, DType, Tensor};

/// The shapes of what was fed, run by run.
pub type Runs = Arc<Mutex<Vec<Vec<i64>>>>;

/// What a run fails with that is fed `POISON`.
pub const POISON: i32 = -1;

/// Gives back what it is fed, and remembers the shapes.
pub struct Echo {
    signatures: Signatures,
    map: Bytes,
    runs: Runs,
    /// The shape of its output where that is not the input's.
    output: Option<Vec<i64>>,
    /// How a run fails that is fed `POISON`.
    failure: Status,
    /// Whether such a run ends a process of the servable's.
    crashes: bool,
    ends: AtomicU64,
}

impl Echo {
    pub fn new(output: Option<Vec<i64>>) -> (Self, Runs) {
        let runs = Runs::default();
        let echo = Self {
            signatures: Signatures::new(),
            map: Bytes::new(),
            runs: runs.clone(),
            output,
            failure: Status::invalid_argument("poison"),
            crashes: false,
            ends: AtomicU64::new(0),
        };
        (echo, runs)
    }

    /// One that fails in another way.
    pub fn failing(failure: Status, crashes: bool) -> (Self, Runs) {
        let (echo, runs) = Self::new(None);
        (Self { failure, crashes, ..echo }, runs)
    }
}

impl Servable for Echo {
    fn signatures(&self) -> &Signatures {
        &self.signatures
    }
    fn signature_def_map(&self) -> &Bytes {
        &self.map
    }
    fn process_counts(&self) -> Option<ProcessCounts> {
        let ends = self.ends.load(Ordering::Relaxed);
        self.crashes.then_some(ProcessCounts { ends, ..ProcessCounts::default() })
    }
    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        _: &[String],
        _: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let (_, tensor) = feeds.into_iter().next().unwrap();
        self.runs.lock().push(tensor.shape().to_vec());
        let is_ints = tensor.dtype() == DType::Int32;
        if is_ints && tensor.buffer().unwrap().elements::<i32>().contains(&POISON) {
            self.ends.fetch_add(u64::from(self.crashes), Ordering::Relaxed);
            return Err(self.failure.clone());
        }
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
        batcher: None,
    }
}
