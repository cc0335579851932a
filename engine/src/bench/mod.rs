//! The load generator: drives a server with load and says what came back, how fast, at what cost.
//!
//! It shares a machine with the server it measures, so it has to be cheap: each of its threads is
//! one event loop that sends bytes prepared beforehand and looks at answers no longer than it takes to
//! tell right from wrong.  It knows no model and no message; what to send is in the [`Spec`].
//!
//! `schedule` decides when requests are due, `recorder` which of them count and what they add up to;
//! both are pure.  `grpc` and `rest` send one request, `drive` keeps them coming, `process` reads
//! what the server spends.

mod drive;
mod grpc;
mod process;
#[cfg(feature = "python")]
pub mod python;
mod recorder;
mod rest;
mod schedule;
mod socket;
mod spec;

pub use drive::run;
pub use recorder::{ErrorCount, Latency, Report, ServerUsage};
pub use schedule::{Arrival, Schedule};
pub use spec::{Load, Protocol, Spec};

/// Why there is no result at all; requests that fail are counted in the [`Report`] instead.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Spec(String),
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("cannot read what process {pid} uses: {source}")]
    Process { pid: u32, source: std::io::Error },
    #[error("stopped before the measurement ended")]
    Stopped,
    #[error("cannot run: {0}")]
    Io(#[from] std::io::Error),
}
