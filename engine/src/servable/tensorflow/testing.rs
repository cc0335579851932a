//! What the tests of graphs are made of.

use crate::protos::tensorflow as pb;

/// An operation without attributes.
pub fn node(name: &str, op: &str, inputs: &[&str]) -> pb::NodeDef {
    pb::NodeDef {
        name: name.to_owned(),
        op: op.to_owned(),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        ..pb::NodeDef::default()
    }
}
