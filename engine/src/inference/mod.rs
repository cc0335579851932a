//! What the server can be asked, without a word of any protocol.

pub mod model_status;
pub mod predict;
pub mod predict_bytes;
pub mod spec;
