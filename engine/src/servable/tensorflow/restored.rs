//! Which variables a SavedModel reads without ever restoring them.
//!
//! A session assigns variables in two places: it runs the graph's restore operation, and then its
//! initializer. What signatures read and neither of them is given the handle of stays without a
//! value, and every run fails; Keras 3 models written by `tf.saved_model.save` are of this kind.
//! The server has Python's TensorFlow run those (`unrestored_variables.py` says more), and who has
//! no Python refuses them.

use std::collections::{BTreeSet, HashSet};

use super::graph::{first_bytes, operation_name, Graph};
use crate::servable::Signatures;
use crate::wire::{Field, Malformed, Reader};

const INITIALIZER_SIGNATURE: &str = "__saved_model_init_op";
const INITIALIZER_COLLECTIONS: [&[u8]; 2] = [b"saved_model_main_op", b"legacy_init_op"];

/// The names of those variables, of a MetaGraphDef with these signatures; none where it has no
/// graph of objects, without which nobody could restore more than a session does.
///
/// # Errors
/// The bytes are no MetaGraphDef.
pub fn unrestored_variables(
    meta_graph: &[u8],
    signatures: &Signatures,
) -> Result<Vec<String>, Malformed> {
    let mut graph = Graph::default();
    let mut assigning: Vec<&[u8]> = Vec::new();
    let mut has_object_graph = false;
    let mut reader = Reader::new(meta_graph);
    while let Some((number, field)) = reader.next()? {
        let Field::Bytes(range) = field else { continue };
        match number {
            // graph_def
            2 => graph = Graph::read(meta_graph, range)?,
            // saver_def, and its restore_op_name
            3 => assigning.extend(first_bytes(meta_graph, range, 3)?),
            // collection_def
            4 => {
                let name = first_bytes(meta_graph, range.clone(), 1)?.unwrap_or_default();
                if INITIALIZER_COLLECTIONS.contains(&name) {
                    // CollectionDef, node_list, and the names in it.
                    let value = first_bytes(meta_graph, range, 2)?.unwrap_or_default();
                    let nodes = first_bytes(value, 0..value.len(), 1)?.unwrap_or_default();
                    let mut nodes_reader = Reader::new(nodes);
                    while let Some((number, field)) = nodes_reader.next()? {
                        if let (1, Field::Bytes(range)) = (number, field) {
                            assigning.push(&nodes[range]);
                        }
                    }
                }
            }
            // object_graph_def
            7 => has_object_graph = true,
            _ => {}
        }
    }
    if !has_object_graph {
        return Ok(Vec::new());
    }
    let mut reading = Vec::new();
    let mut fed = HashSet::new();
    for (name, signature) in signatures {
        let outputs = signature.outputs.values().map(|info| info.name.as_bytes());
        if name == INITIALIZER_SIGNATURE {
            assigning.extend(outputs);
        } else {
            reading.extend(outputs);
            let inputs = signature.inputs.values().map(|info| info.name.as_bytes());
            fed.extend(inputs.map(operation_name));
        }
    }
    let assigned = variables_below(&graph, assigning, HashSet::new());
    let read = variables_below(&graph, reading, fed);
    let unrestored = read.difference(&assigned);
    Ok(unrestored.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The variables whose handles these tensors depend on, not through what was `seen`. Functions get
/// the handles of their variables as arguments, so that the top of the graph says it all.
fn variables_below<'b>(
    graph: &Graph<'b>,
    tensors: Vec<&'b [u8]>,
    mut seen: HashSet<&'b [u8]>,
) -> BTreeSet<&'b [u8]> {
    let mut found = BTreeSet::new();
    let mut to_see = tensors;
    while let Some(tensor) = to_see.pop() {
        let name = operation_name(tensor);
        if !seen.insert(name) {
            continue;
        }
        let Some(node) = graph.nodes.get(name) else { continue };
        if node.op == b"VarHandleOp" {
            // What a session knows it by.
            found.insert(node.shared_name());
        }
        to_see.extend(&node.inputs);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::servable::tensorflow::testing::node;
    use crate::servable::{Signature, TensorInfo};
    use pb::attr_value::Value;
    use pb::collection_def::{Kind, NodeList};
    use prost::Message;

    fn variable(name: &str, shared_name: &str) -> pb::NodeDef {
        let mut made = node(name, "VarHandleOp", &[]);
        let value = Value::S(shared_name.to_owned().into());
        made.attr.insert("shared_name".to_owned(), pb::AttrValue { value: Some(value) });
        made
    }

    fn signature(input: &str, output: &str) -> Signature {
        let info = |name: &str| {
            let info = TensorInfo { name: name.to_owned(), ..TensorInfo::default() };
            [(name.to_owned(), info)].into()
        };
        Signature { inputs: info(input), outputs: info(output), ..Signature::default() }
    }

    /// A model that reads `v`, and that assigns `assigned` in one way.
    fn unrestored(assigned: &str, way: &str, has_object_graph: bool) -> Vec<String> {
        let nodes = vec![
            variable("v", "weights"),
            variable("copy", "weights_of_nobody"),
            variable("same", "weights"),
            node("y", "StatefulPartitionedCall", &["x", "v"]),
            node("assign", "AssignVariableOp", &[assigned, "value"]),
            node("restore", "Identity", &["path", "^assign"]),
        ];
        let list = NodeList { value: vec!["restore".to_owned()] };
        let collection = pb::CollectionDef { kind: Some(Kind::NodeList(list)) };
        let mut meta_graph = pb::MetaGraphDef {
            graph_def: Some(pb::GraphDef { node: nodes, ..Default::default() }),
            object_graph_def: has_object_graph.then(Default::default),
            ..Default::default()
        };
        let mut signatures: Signatures =
            [("serving_default".to_owned(), signature("x:0", "y:0"))].into();
        match way {
            "saver" => {
                let restore_op_name = "restore".to_owned();
                meta_graph.saver_def = Some(pb::SaverDef { restore_op_name, ..Default::default() });
            }
            "collection" => {
                meta_graph.collection_def.insert("saved_model_main_op".to_owned(), collection);
            }
            _ => {
                signatures.insert("__saved_model_init_op".to_owned(), signature("", "restore"));
            }
        }
        unrestored_variables(&meta_graph.encode_to_vec(), &signatures).unwrap()
    }

    #[test]
    fn what_is_read_has_to_be_assigned_under_the_name_that_sessions_know() {
        for way in ["saver", "collection", "initializer"] {
            for (assigned, has_object_graph, expected) in [
                ("v", true, &[][..]),
                ("same", true, &[]),
                ("copy", true, &["weights"]),
                ("copy", false, &[]),
            ] {
                assert_eq!(unrestored(assigned, way, has_object_graph), expected, "{way}");
            }
        }
        assert!(unrestored_variables(b"\x12\xff", &Signatures::new()).is_err());
    }
}
