//! The protocols. They know no servable: they translate, and ask `inference`.

pub mod grpc;
pub mod metrics;
mod pace;
pub mod peer;
pub mod rest;
pub mod tls;

/// The header, and the metadata of a call, that says what a request is worth against others, and
/// the value with which it lets others go first.
const PRIORITY: &str = "servable-priority";
const LOW_PRIORITY: &str = "low";
