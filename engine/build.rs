//! Makes message types of the wire contract.
//!
//! They come from the descriptor set that the Python messages use, too, so that building needs no
//! protobuf compiler; `tools/generate_apis.py` makes it from `proto/`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

const DESCRIPTORS: &str = "../src/servable/apis/descriptors.binpb";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={DESCRIPTORS}");
    println!("cargo:rerun-if-changed=build.rs");
    let bytes = fs::read(DESCRIPTORS)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.binpb"), &bytes)?;
    prost_build::Config::new()
        // Serialized pieces are kept as slices of the message they came in.
        .bytes(["."])
        .btree_map(["."])
        .include_file("protos.rs")
        .compile_fds(FileDescriptorSet::decode(&*bytes)?)?;
    Ok(())
}
