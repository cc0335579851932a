//! The protocols. They know no servable: they translate, and ask `inference`.

pub mod grpc;
pub mod metrics;
pub mod peer;
pub mod rest;
pub mod tls;
