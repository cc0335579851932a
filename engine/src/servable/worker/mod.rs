//! Servables that are run by a process of their own: models written in Python, and what wraps
//! a servable of this process with steps written in Python.
//!
//! Whatever such a model does (raise, hang, hold the interpreter's lock, crash), it does in its own
//! process, on threads that no other model needs.

mod frame;
mod process;

use std::sync::Arc;

use bytes::Bytes;

pub use process::{Process, Recipe};

use crate::compute::Compute;
use crate::servable::aliases::{gather, Aliases, Call};
use crate::servable::{ProcessCounts, RunOptions, Servable, Signatures, TensorInfo};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// Read bytes as what the process of a model sends.
#[cfg(any(test, feature = "fuzzing"))]
pub fn try_frames(input: &[u8]) {
    let _ = frame::ready(input).is_ok();
    let _ = frame::answer(input).is_ok();
}

/// Runs that may wait for a model; more are refused, so that a model that hangs collects no memory.
const MAX_WAITING: usize = 1000;

/// A model in a process of its own.
pub struct Worker {
    aliases: Aliases,
    process: Process,
    compute: Compute,
}

/// Make the thread that starts processes, with the priority of the calling one.
pub fn prepare() {
    process::spawner();
}

/// Start a process and load a model in it; around `inner`, where there is one. Blocks.
///
/// # Errors
/// What the model fails to load with.
pub fn load(recipe: Recipe, inner: Option<Arc<dyn Servable>>) -> Result<Arc<dyn Servable>> {
    let (process, ready) = Process::start(recipe)?;
    let aliases = Aliases::new(Bytes::from(ready.signature_def_map))?;
    let compute = Compute::bounded(ready.threads, MAX_WAITING);
    let worker = Worker { aliases, process, compute };
    match inner {
        None => Ok(Arc::new(worker)),
        Some(inner) => Ok(Arc::new(Transformed::new(worker, inner)?)),
    }
}

impl Servable for Worker {
    fn signatures(&self) -> &Signatures {
        self.aliases.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.aliases.signature_def_map()
    }

    fn compute(&self) -> Option<&Compute> {
        Some(&self.compute)
    }

    fn process_counts(&self) -> Option<ProcessCounts> {
        Some(self.process.counts())
    }

    fn is_batchable(&self, signature_name: &str) -> bool {
        let has_rows = |info: &TensorInfo| {
            info.shape.as_ref().is_none_or(|sizes| sizes.first().is_some_and(|&size| size < 0))
        };
        self.signatures().get(signature_name).is_none_or(|signature| {
            signature.inputs.values().chain(signature.outputs.values()).all(has_rows)
        })
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for call in self.aliases.calls(&feeds, fetches)? {
            let names = call.output_names();
            let answer =
                self.process.call("run", call.signature_name, &call.inputs, &names, options)?;
            place(&mut results, &call.outputs, answer)?;
        }
        gather(results)
    }
}

/// A servable of this process, with steps before and after it that a process of theirs runs.
struct Transformed {
    worker: Worker,
    inner: Arc<dyn Servable>,
}

impl Transformed {
    fn new(worker: Worker, inner: Arc<dyn Servable>) -> Result<Self> {
        let unknown =
            worker.signatures().keys().find(|name| !inner.signatures().contains_key(*name));
        if let Some(name) = unknown {
            return Err(Status::failed_precondition(format!(
                "There are steps around a signature {name}, which the model does not have"
            )));
        }
        Ok(Self { worker, inner })
    }

    fn answer(&self, call: &Call, options: RunOptions) -> Result<Vec<(String, Tensor)>> {
        let process = &self.worker.process;
        let name = call.signature_name;
        let signature = &self.inner.signatures()[name];
        let inputs: Vec<&str> = signature.inputs.keys().map(String::as_str).collect();
        let prepared = process.call("preprocess", name, &call.inputs, &inputs, options)?;
        let mut feeds = Vec::with_capacity(prepared.len());
        for (alias, tensor) in prepared {
            let info = signature.inputs.get(&alias).ok_or_else(unasked)?;
            feeds.push((info.name.clone(), tensor));
        }
        let aliases = signature.outputs.keys().map(String::as_str);
        let fetches: Vec<String> =
            signature.outputs.values().map(|info| info.name.clone()).collect();
        let outputs = self.inner.run(feeds, &fetches, options)?;
        let outputs: Vec<(&str, &Tensor)> = aliases.zip(&outputs).collect();
        process.call("postprocess", name, &outputs, &call.output_names(), options)
    }
}

impl Servable for Transformed {
    fn signatures(&self) -> &Signatures {
        self.worker.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.worker.signature_def_map()
    }

    fn compute(&self) -> Option<&Compute> {
        self.worker.compute()
    }

    fn process_counts(&self) -> Option<ProcessCounts> {
        self.worker.process_counts()
    }

    fn is_batchable(&self, signature_name: &str) -> bool {
        self.worker.is_batchable(signature_name) && self.inner.is_batchable(signature_name)
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for call in self.worker.aliases.calls(&feeds, fetches)? {
            let answer = self.answer(&call, options)?;
            place(&mut results, &call.outputs, answer)?;
        }
        gather(results)
    }
}

/// Put the tensors of an answer where their aliases are wanted.
fn place(
    results: &mut [Option<Tensor>],
    outputs: &[(usize, &str)],
    answer: Vec<(String, Tensor)>,
) -> Result<()> {
    for (alias, tensor) in answer {
        let wanted = outputs.iter().find(|(_, wanted)| *wanted == alias);
        let (at, _) = wanted
            .ok_or_else(|| Status::internal("The model's process gave what nobody asked for"))?;
        results[*at] = Some(tensor);
    }
    Ok(())
}

fn unasked() -> Status {
    Status::internal("The model's process gave what nobody asked for")
}
