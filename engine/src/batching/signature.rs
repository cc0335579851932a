//! What a queue runs: a servable, which tensors are fed and fetched, and how batches are made.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Duration;

use super::batcher::Installed;
use super::queue::Limits;
use super::tensors::Fill;
use crate::servable::Servable;

/// How a version's requests are put into batches; `BatchingParameters` in `_engine.pyi`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "python", derive(pyo3::FromPyObject))]
pub struct Parameters {
    pub max_batch_size: usize,
    pub batch_timeout_s: f64,
    pub max_enqueued_batches: usize,
    pub allowed_batch_sizes: Vec<i64>,
    pub pad_variable_length_inputs: bool,
    pub enable_large_batch_splitting: bool,
    pub max_execution_batch_size: usize,
    /// Whether what no batch can hold runs by itself, and is not refused.
    pub run_unbatchable_alone: bool,
    /// What variable lengths are padded with; `None`: the tensor's own first element.
    pub padding_value: Option<f64>,
    pub unpad_outputs: bool,
    pub unbatched_signatures: Vec<String>,
    /// `fixed`, or who decides.
    pub policy: String,
    /// What the adaptive policy aims at; 0: nothing.
    pub target_p99_ms: f64,
    /// Most batches at a time; 0: one for each core.
    pub max_in_flight: usize,
    /// Puts requests together and takes answers apart; `None`: `rows`.
    pub batcher: Option<Installed>,
}

impl Parameters {
    pub fn is_fixed(&self) -> bool {
        self.policy == "fixed"
    }

    pub fn limits(&self) -> Limits {
        let splits = self.enable_large_batch_splitting;
        let whole = self.max_batch_size.max(1);
        Limits {
            max_task_size: whole,
            max_batch_size: if splits {
                self.max_execution_batch_size.clamp(1, whole)
            } else {
                whole
            },
            max_enqueued_batches: self.max_enqueued_batches,
            timeout: Duration::try_from_secs_f64(self.batch_timeout_s).unwrap_or(Duration::MAX),
            splits,
        }
    }

    pub fn allowed_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.allowed_batch_sizes.iter().filter_map(|&size| usize::try_from(size).ok())
    }

    /// The size that a batch of `rows` is padded to: the smallest allowed that holds it.
    pub fn padded_size(&self, rows: usize) -> usize {
        if rows == 0 {
            return 0;
        }
        self.allowed_sizes().filter(|&size| size >= rows).min().unwrap_or(rows)
    }

    pub fn fill(&self) -> Fill {
        self.padding_value.map_or(Fill::FirstElement, Fill::Number)
    }
}

/// One combination of feeds and fetches of one version.
pub struct Signature {
    pub model: String,
    /// The signature that feeds and fetches belong to; empty for those of several.
    pub name: String,
    pub servable: Arc<dyn Servable>,
    /// Names in the graph, sorted.
    pub feeds: Vec<String>,
    pub fetches: Vec<String>,
    pub parameters: Arc<Parameters>,
    /// Whether its requests run by themselves: the servable says so, or its outputs
    /// turned out not to have a row for each row that is fed.
    pub is_unbatchable: AtomicBool,
}

impl Signature {
    pub fn new(
        model: String,
        servable: Arc<dyn Servable>,
        feeds: Vec<String>,
        fetches: Vec<String>,
        parameters: Arc<Parameters>,
    ) -> Self {
        let name = name(&*servable, &feeds, &fetches);
        let is_unbatchable =
            AtomicBool::new(parameters.run_unbatchable_alone && !servable.is_batchable(&name));
        Self { model, name, servable, feeds, fetches, parameters, is_unbatchable }
    }
}

/// The first signature with these inputs, and with these outputs among its own.
fn name(servable: &dyn Servable, feeds: &[String], fetches: &[String]) -> String {
    let mut signatures = servable.signatures().iter();
    let found = signatures.find(|(_, signature)| {
        let inputs = || signature.inputs.values().map(|info| &info.name);
        let has_output = |name: &String| signature.outputs.values().any(|info| info.name == *name);
        inputs().all(|name| feeds.contains(name))
            && feeds.iter().all(|name| inputs().any(|input| input == name))
            && fetches.iter().all(has_output)
    });
    found.map(|(name, _)| name.clone()).unwrap_or_default()
}
