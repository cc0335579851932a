//! What requests are run on: any runtime that takes named tensors and gives named tensors back.

pub mod aliases;
mod cost;
pub mod fixed_inputs;
#[cfg(unix)]
pub mod native;
#[cfg(feature = "python")]
pub mod python;
pub mod signature_def;
pub mod table;
pub mod tensorflow;
#[cfg(unix)]
pub mod worker;

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::compute::Compute;
use crate::status::{Result, Status};
use crate::tensor::{Shape, Tensor};
use crate::turns::Client;

/// What a SignatureDef says of one of its tensors. Nothing here is believed: the graph decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name in the graph, such as `x:0`; empty when it has none (a sparse encoding).
    pub name: String,
    /// Number of `DataType`: possibly a reference type, or 0 where none was given.
    pub dtype: i32,
    /// Sizes, −1 where unknown; `None` for an unknown rank.
    pub shape: Option<Shape>,
}

/// Named inputs, outputs and method of a servable.
#[derive(Debug, Default)]
pub struct Signature {
    pub inputs: BTreeMap<String, TensorInfo>,
    pub outputs: BTreeMap<String, TensorInfo>,
    pub method_name: String,
    /// Serialized `TensorProto`s of the inputs that may be left out.
    pub defaults: BTreeMap<String, Bytes>,
    /// The SignatureDef as text, for the messages that quote it.
    pub text: String,
}

pub type Signatures = BTreeMap<String, Signature>;

/// The signature that requests mean when they name none.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
    /// Whether others go first.
    pub is_low_priority: bool,
    /// Whom it is for, where clients take turns.
    pub client: Client,
}

/// What became of the process of a servable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Runs that were given up, and their process with them.
    pub hung_runs: u64,
    /// Processes that ended while they were needed; counted before their runs are answered.
    pub ends: u64,
    pub restarts: u64,
}

/// One loaded version. Called from several threads at once.
pub trait Servable: Send + Sync {
    fn signatures(&self) -> &Signatures;

    /// Serialized `SignatureDefMap`, as metadata answers carry it.
    fn signature_def_map(&self) -> &Bytes;

    /// Whether a run would be over so soon, and so surely, that handing it to another thread costs
    /// more than it: only then may it happen on an I/O thread.
    fn is_quick(&self, _feeds: &[(String, Tensor)], _fetches: &[String]) -> bool {
        false
    }

    /// The threads that its runs wait on, where they are not those of all servables.
    fn compute(&self) -> Option<&Compute> {
        None
    }

    /// Whether all that its runs do is to compute, so that more of them at one time than there are
    /// cores only hold each other up.
    fn waits_for_nothing(&self) -> bool {
        false
    }

    /// What became of its process, where it has one.
    fn process_counts(&self) -> Option<ProcessCounts> {
        None
    }

    /// Whether requests for a signature may share a run: it changes nothing that outlives one, and
    /// says of none of its tensors that they have no rows.
    fn is_batchable(&self, _signature_name: &str) -> bool {
        true
    }

    /// Whether a run of a signature may keep what it was fed beyond its end.
    fn may_keep_feeds(&self, _signature_name: &str) -> bool {
        true
    }

    /// Whether the time of a run is bounded by the sizes of what is fed.
    fn is_bounded(&self) -> bool {
        false
    }

    /// Feed tensors by their names in the graph and fetch others, in the order of `fetches`.
    /// Blocks the calling thread.
    ///
    /// # Errors
    /// What the runtime says.
    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>>;

    /// Run whatever part of a graph is asked for; the tensors in the order of the fetches, and
    /// serialized `RunMetadata`, empty unless it was asked for. Blocks the calling thread.
    ///
    /// # Errors
    /// What the runtime says; UNIMPLEMENTED where there is no session.
    fn run_session(&self, _run: SessionRun) -> Result<(Vec<Tensor>, Vec<u8>)> {
        Err(Status::unimplemented("This model is not run by a TensorFlow session"))
    }
}

/// What a session is asked to run, by names in the graph.
#[derive(Default)]
pub struct SessionRun {
    pub feeds: Vec<(String, Tensor)>,
    pub fetches: Vec<String>,
    /// Operations to run whose outputs are not wanted.
    pub targets: Vec<String>,
    /// Serialized `tensorflow.RunOptions`.
    pub options: Vec<u8>,
}
