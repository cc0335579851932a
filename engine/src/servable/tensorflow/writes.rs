//! Which signatures change something that outlives a run: variables, tables, queues, files.
//!
//! Batched with others, such a request would change it once for all of them. What a signature
//! reaches is followed through the graph and into the functions that it calls; of a function all
//! operations count, so that a branch that may be taken counts as taken.

use std::collections::{BTreeSet, HashSet};

use super::graph::{operation_name, Graph, Node};
use crate::servable::Signatures;

/// The names of the signatures whose outputs need an operation that writes.
pub fn writing_signatures(graph: &Graph, signatures: &Signatures) -> BTreeSet<String> {
    let writes = |name: &&String| {
        let outputs = signatures[*name].outputs.values().map(|info| info.name.as_bytes());
        graph.writes(outputs.collect())
    };
    signatures.keys().filter(writes).cloned().collect()
}

/// Whether an operation writes, by its name.
fn is_write(op: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 13] = [
        b"Assign",
        b"Apply",
        b"SparseApply",
        b"ResourceApply",
        b"ResourceSparseApply",
        b"ResourceScatter",
        b"ResourceCountUpTo",
        b"CountUpTo",
        b"LookupTableInsert",
        b"LookupTableRemove",
        b"QueueEnqueue",
        b"QueueDequeue",
        b"WriteFile",
    ];
    const PURE_SCATTERS: [&[u8]; 2] = [b"ScatterNd", b"ScatterNdNonAliasingAdd"];
    BEGINNINGS.iter().any(|beginning| op.starts_with(beginning))
        || op.starts_with(b"Scatter") && !PURE_SCATTERS.contains(&op)
}

impl<'b> Graph<'b> {
    /// Whether something that these tensors depend on writes.
    fn writes(&self, tensors: Vec<&'b [u8]>) -> bool {
        let mut called = HashSet::new();
        let mut seen = HashSet::new();
        let mut to_see = tensors;
        while let Some(tensor) = to_see.pop() {
            let name = operation_name(tensor);
            if !seen.insert(name) {
                continue;
            }
            let Some(node) = self.nodes.get(name) else { continue };
            if self.node_writes(node, &mut called) {
                return true;
            }
            to_see.extend(&node.inputs);
        }
        false
    }

    fn node_writes(&self, node: &Node<'b>, called: &mut HashSet<&'b [u8]>) -> bool {
        let mut to_see = vec![node];
        while let Some(node) = to_see.pop() {
            if is_write(node.op) {
                return true;
            }
            // A function may be called by its name as an operation, too.
            for name in node.functions.iter().chain([&node.op]) {
                if let Some(body) = self.functions.get(name).filter(|_| called.insert(name)) {
                    to_see.extend(&body.nodes);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::servable::tensorflow::testing::{self, node};
    use crate::servable::{Signature, TensorInfo};
    use pb::attr_value::{ListValue, Value};

    fn named(name: &str) -> pb::NameAttrList {
        pb::NameAttrList { name: name.to_owned(), ..Default::default() }
    }

    fn with(mut node: pb::NodeDef, value: Value) -> pb::NodeDef {
        node.attr.insert("f".to_owned(), pb::AttrValue { value: Some(value) });
        node
    }

    fn function(name: &str, node: pb::NodeDef) -> pb::FunctionDef {
        let signature = pb::OpDef { name: name.to_owned(), ..Default::default() };
        pb::FunctionDef { signature: Some(signature), node_def: vec![node], ..Default::default() }
    }

    fn writes(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>) -> bool {
        let bytes = testing::graph(nodes, functions);
        let info = TensorInfo { name: "y:0".to_owned(), ..TensorInfo::default() };
        let outputs = [("y".to_owned(), info)].into();
        let signatures = [("s".to_owned(), Signature { outputs, ..Signature::default() })].into();
        let graph = Graph::read(&bytes, 0..bytes.len()).unwrap();
        !writing_signatures(&graph, &signatures).is_empty()
    }

    #[test]
    fn operations_are_told_apart_by_their_names() {
        for (op, expected) in [
            ("AssignAddVariableOp", true),
            ("AssignVariableOp", true),
            ("ResourceApplyAdam", true),
            ("ScatterAdd", true),
            ("ScatterNdUpdate", true),
            ("LookupTableInsertV2", true),
            ("QueueDequeueManyV2", true),
            ("ScatterNd", false),
            ("TensorScatterAdd", false),
            ("ReadVariableOp", false),
            ("LookupTableFindV2", false),
            ("MatMul", false),
        ] {
            assert_eq!(writes(vec![node("y", op, &[])], vec![]), expected, "{op}");
        }
    }

    #[test]
    fn what_an_output_needs_counts_and_nothing_else() {
        let counter = || node("count", "AssignAddVariableOp", &[]);
        for (what, input, expected) in [
            ("an input", "count:0", true),
            ("what has to be done before", "^count", true),
            ("another output's", "x", false),
        ] {
            let nodes = vec![
                node("y", "Identity", &["between"]),
                node("between", "Add", &[input]),
                counter(),
            ];
            assert_eq!(writes(nodes, vec![]), expected, "{what}");
        }
    }

    #[test]
    fn functions_are_looked_into() {
        let call = |value| vec![with(node("y", "StatefulPartitionedCall", &[]), value)];
        let outer = || {
            let calls = with(node("c", "PartitionedCall", &[]), Value::Func(named("inner")));
            function("outer", calls)
        };
        let inner = |op: &str| function("inner", node("n", op, &[]));
        let list = ListValue { func: vec![named("outer")], ..Default::default() };
        for (what, nodes, expected) in [
            ("an attribute", call(Value::Func(named("outer"))), true),
            ("a list of branches", call(Value::List(list)), true),
            ("by its name", vec![node("y", "outer", &[])], true),
            ("another one", call(Value::Func(named("other"))), false),
        ] {
            let functions = vec![outer(), inner("AssignVariableOp")];
            assert_eq!(writes(nodes.clone(), functions), expected, "{what}");
            assert!(!writes(nodes, vec![outer(), inner("Add")]), "{what}");
        }
    }

    #[test]
    fn functions_and_graphs_that_go_round_come_to_an_end() {
        let own = with(node("n", "PartitionedCall", &[]), Value::Func(named("f")));
        let call = with(node("y", "PartitionedCall", &["x"]), Value::Func(named("f")));

        assert!(!writes(vec![call, node("x", "Merge", &["y"])], vec![function("f", own)]));
    }
}
