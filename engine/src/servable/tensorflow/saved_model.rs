//! What is read of a SavedModel's MetaGraphDef: its signatures, and what it needs to be whole.
//!
//! Graphs may have hundreds of megabytes, so the bytes are walked in place and only the
//! signatures become messages.

use std::path::Path;

use bytes::Bytes;

use crate::servable::{signature_def, Signatures};
use crate::status::{Result, Status};
use crate::wire::{self, Field, Malformed, Reader};

/// The parts of a MetaGraphDef that serving needs.
pub struct MetaGraph {
    pub signatures: Signatures,
    /// Serialized `SignatureDefMap`.
    pub signature_def_map: Bytes,
    pub has_variables: bool,
}

impl MetaGraph {
    /// # Errors
    /// DATA_LOSS when the bytes are no MetaGraphDef.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let malformed = |_| Status::new(crate::status::Code::DataLoss, "MetaGraphDef is malformed");
        Self::walk(bytes).map_err(malformed)?.ok_or_else(|| malformed(Malformed))
    }

    fn walk(bytes: &[u8]) -> std::result::Result<Option<Self>, Malformed> {
        let mut map = Vec::new();
        let mut has_variables = false;
        let mut reader = Reader::new(bytes);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                // graph_def
                (2, Field::Bytes(range)) => has_variables |= graph_has_variables(bytes, range)?,
                // signature_def: its entries are those of SignatureDefMap.signature_def
                (5, Field::Bytes(range)) => wire::put_bytes(&mut map, 1, &bytes[range]),
                _ => {}
            }
        }
        let signature_def_map = Bytes::from(map);
        let Some(signatures) = signature_def::signatures(&signature_def_map) else {
            return Ok(None);
        };
        Ok(Some(Self { signatures, signature_def_map, has_variables }))
    }

    /// Check that the files the graph restores its variables from are there: the loader says OK to
    /// a model without them, and its first request fails.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn check_variables(&self, directory: &Path) -> Result<()> {
        if !self.has_variables || directory.join("variables/variables.index").is_file() {
            return Ok(());
        }
        Err(Status::not_found(
            "The SavedModel has variables, but no file variables/variables.index; \
             the copy may be incomplete",
        ))
    }
}

/// Operations whose values a checkpoint holds.
const VARIABLES: [&[u8]; 4] = [b"VarHandleOp", b"VariableV2", b"Variable", b"AutoReloadVariable"];

fn graph_has_variables(
    bytes: &[u8],
    range: std::ops::Range<usize>,
) -> std::result::Result<bool, Malformed> {
    let mut graph = Reader::within(bytes, range);
    while let Some((number, field)) = graph.next()? {
        let (1, Field::Bytes(range)) = (number, field) else { continue };
        let mut node = Reader::within(bytes, range);
        while let Some((number, field)) = node.next()? {
            if let (2, Field::Bytes(op)) = (number, field) {
                if VARIABLES.contains(&&bytes[op]) {
                    return Ok(true);
                }
                break;
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use prost::Message;

    #[test]
    fn signatures_and_the_need_for_variables_are_read_from_a_meta_graph() {
        let node = |op: &str| pb::NodeDef { op: op.to_owned(), ..pb::NodeDef::default() };
        let info = pb::TensorInfo {
            encoding: Some(pb::tensor_info::Encoding::Name("x:0".to_owned())),
            dtype: 1,
            ..pb::TensorInfo::default()
        };
        let def = pb::SignatureDef {
            inputs: [("x".to_owned(), info)].into(),
            method_name: "tensorflow/serving/predict".to_owned(),
            ..pb::SignatureDef::default()
        };
        for (op, expected) in [("Add", false), ("VarHandleOp", true), ("VariableV2", true)] {
            let meta_graph = pb::MetaGraphDef {
                graph_def: Some(pb::GraphDef { node: vec![node(op)], ..Default::default() }),
                signature_def: [("serving_default".to_owned(), def.clone())].into(),
                ..Default::default()
            };

            let read = MetaGraph::read(&meta_graph.encode_to_vec()).unwrap();

            assert_eq!(read.has_variables, expected, "{op}");
            assert_eq!(read.signatures["serving_default"].inputs["x"].name, "x:0");
        }
        assert!(MetaGraph::read(b"\x0a\xff").is_err());
    }
}
