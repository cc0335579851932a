//! The pages that show what was counted, as Prometheus reads them.
//!
//! `serving` has the names, labels and format of TensorFlow Serving; `own` has Prometheus's
//! conventions, and what TensorFlow Serving does not tell.

mod batching;
mod gpu;
mod own;
mod process;
mod serving;

pub use own::page as own_page;
pub use serving::page as serving_page;
