//! Message types of the wire contract in `proto/`, generated when the crate is built.

#![allow(clippy::all, clippy::pedantic, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));

/// The serialized `FileDescriptorSet` of the whole contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
