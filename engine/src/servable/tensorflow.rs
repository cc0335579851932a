//! SavedModels, run by TensorFlow's C API.
//!
//! The library is that of an installed wheel, opened at run time; Python TensorFlow is never
//! imported. Dense tensors change hands without a copy in both directions.

mod api;
mod graph;
mod pictures;
mod restored;
mod saved_model;
mod session;
mod shared_threads;
mod startup;
mod tensor;
#[cfg(test)]
mod testing;
mod walk;
mod widths;
mod writes;

pub use api::{has_library, load_library, Library};
pub use session::{load_saved_model, LoadOptions, SavedModel};

/// Read bytes as a SavedModel and as a MetaGraphDef.
#[cfg(any(test, feature = "fuzzing"))]
pub fn try_graph(input: &[u8]) {
    saved_model::try_bytes(input);
}
