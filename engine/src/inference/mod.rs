//! What the server can be asked, without a word of any protocol.

pub mod classify;
pub mod examples;
pub mod head;
pub mod model_status;
pub mod multi_inference;
pub mod predict;
pub mod profile;
pub mod regress;
pub mod reload;
pub mod serialized;
pub mod session_run;
pub mod spec;
