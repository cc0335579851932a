//! The request path of `servable`: everything between a socket and a model's answer.
//!
//! Layers, each knowing only those to its right: `frontend` → `inference` → (`batching` |
//! `serving_map`) → `servable` → `tensor` → `status`. The Python module stands beside them.

pub mod abandoned;
pub mod access;
pub mod admission;
pub mod app;
pub mod batching;
pub mod bench;
pub mod composite;
pub mod compute;
#[cfg(test)]
mod corpus;
pub mod embedded;
pub mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod inference;
pub mod memory;
pub mod metrics;
pub mod promptness;
pub mod protos;
#[cfg(feature = "python")]
mod python;
pub mod request_log;
pub mod servable;
pub mod server;
pub mod serving_map;
pub mod shadow;
pub mod status;
pub mod tensor;
pub mod turns;
pub mod wire;

/// Small allocations are a tenth of the time of a small request with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
