//! Which signatures change something that outlives a run: variables, tables, queues, files.
//!
//! Batched with others, such a request would change it once for all of them. What a signature
//! reaches is followed through the graph and into the functions that it calls; of a function all
//! operations count, so that a branch that may be taken counts as taken.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use crate::servable::Signatures;
use crate::wire::{Field, Malformed, Reader};

/// The names of the signatures whose outputs need an operation that writes, of the `GraphDef` at
/// `range`.
///
/// # Errors
/// The bytes are no GraphDef.
pub fn writing_signatures(
    bytes: &[u8],
    range: Range<usize>,
    signatures: &Signatures,
) -> Result<BTreeSet<String>, Malformed> {
    let graph = Graph::read(bytes, range)?;
    let writes = |name: &&String| {
        let outputs = signatures[*name].outputs.values().map(|info| info.name.as_bytes());
        graph.writes(outputs.collect())
    };
    Ok(signatures.keys().filter(writes).cloned().collect())
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

#[derive(Default)]
pub struct Node<'b> {
    pub name: &'b [u8],
    pub op: &'b [u8],
    pub inputs: Vec<&'b [u8]>,
    /// What resources are known by; empty where it is the node's own name.
    pub shared_name: &'b [u8],
    pub functions: Vec<&'b [u8]>,
    /// The `AttrValue` of a constant.
    pub value: &'b [u8],
}

/// The body of a function, whose names are its own.
#[derive(Default)]
pub struct Function<'b> {
    pub nodes: Vec<Node<'b>>,
    pub inputs: Vec<&'b [u8]>,
    outputs: Vec<&'b [u8]>,
    /// By the name of the output.
    returns: HashMap<&'b [u8], &'b [u8]>,
}

impl<'b> Function<'b> {
    /// The tensor that is the output in this place.
    pub fn returned(&self, at: usize) -> Option<&'b [u8]> {
        self.returns.get(self.outputs.get(at)?).copied()
    }
}

#[derive(Default)]
pub struct Graph<'b> {
    pub nodes: HashMap<&'b [u8], Node<'b>>,
    pub functions: HashMap<&'b [u8], Function<'b>>,
}

impl<'b> Graph<'b> {
    /// The `GraphDef` at `range`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &'b [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let mut graph = Self::default();
        let mut reader = Reader::within(bytes, range);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                // node
                (1, Field::Bytes(range)) => {
                    let node = Node::read(bytes, range)?;
                    graph.nodes.insert(node.name, node);
                }
                // library
                (2, Field::Bytes(range)) => {
                    let mut library = Reader::within(bytes, range);
                    while let Some((number, field)) = library.next()? {
                        if let (1, Field::Bytes(range)) = (number, field) {
                            let (name, function) = function(bytes, range)?;
                            graph.functions.insert(name, function);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(graph)
    }

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

/// `^name`, `name:1` and `name` are all of the operation `name`.
pub fn operation_name(tensor: &[u8]) -> &[u8] {
    let tensor = tensor.strip_prefix(b"^").unwrap_or(tensor);
    tensor.split(|&byte| byte == b':').next().unwrap_or(tensor)
}

/// Name and body of the `FunctionDef` at `range`.
fn function(bytes: &[u8], range: Range<usize>) -> Result<(&[u8], Function<'_>), Malformed> {
    let mut name: &[u8] = &[];
    let mut function = Function::default();
    let mut reader = Reader::within(bytes, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            // signature
            (1, Field::Bytes(range)) => {
                let mut signature = Reader::within(bytes, range);
                while let Some((number, field)) = signature.next()? {
                    let Field::Bytes(range) = field else { continue };
                    match number {
                        1 => name = &bytes[range],
                        2 => function.inputs.extend(first_bytes(bytes, range, 1)?),
                        3 => function.outputs.extend(first_bytes(bytes, range, 1)?),
                        _ => {}
                    }
                }
            }
            // node_def
            (3, Field::Bytes(range)) => function.nodes.push(Node::read(bytes, range)?),
            // ret
            (4, Field::Bytes(range)) => {
                let output = first_bytes(bytes, range.clone(), 1)?;
                let tensor = first_bytes(bytes, range, 2)?;
                function.returns.extend(output.zip(tensor));
            }
            _ => {}
        }
    }
    Ok((name, function))
}

impl<'b> Node<'b> {
    /// The `NodeDef` at `range`.
    fn read(bytes: &'b [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let mut node = Self::default();
        let mut reader = Reader::within(bytes, range);
        while let Some((number, field)) = reader.next()? {
            let Field::Bytes(range) = field else { continue };
            match number {
                1 => node.name = &bytes[range],
                2 => node.op = &bytes[range],
                3 => node.inputs.push(&bytes[range]),
                // attr, whose values are AttrValue
                5 => {
                    let value = || Ok(first_bytes(bytes, range.clone(), 2)?.unwrap_or_default());
                    match first_bytes(bytes, range.clone(), 1)? {
                        Some(b"shared_name") => {
                            let value = value()?;
                            node.shared_name =
                                first_bytes(value, 0..value.len(), 2)?.unwrap_or_default();
                        }
                        Some(b"value") => node.value = value()?,
                        _ => {}
                    }
                    let mut entry = Reader::within(bytes, range);
                    while let Some((number, field)) = entry.next()? {
                        if let (2, Field::Bytes(range)) = (number, field) {
                            functions(bytes, range, &mut node.functions)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(node)
    }
}

/// The functions that the `AttrValue` at `range` names, alone or in a list.
fn functions<'b>(
    bytes: &'b [u8],
    range: Range<usize>,
    found: &mut Vec<&'b [u8]>,
) -> Result<(), Malformed> {
    let mut value = Reader::within(bytes, range);
    while let Some((number, field)) = value.next()? {
        match (number, field) {
            // func
            (10, Field::Bytes(range)) => found.extend(first_bytes(bytes, range, 1)?),
            // list
            (1, Field::Bytes(range)) => {
                let mut list = Reader::within(bytes, range);
                while let Some((number, field)) = list.next()? {
                    if let (9, Field::Bytes(range)) = (number, field) {
                        found.extend(first_bytes(bytes, range, 1)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first field with this number, where it is of bytes.
pub fn first_bytes(
    bytes: &[u8],
    range: Range<usize>,
    wanted: u32,
) -> Result<Option<&[u8]>, Malformed> {
    let mut reader = Reader::within(bytes, range);
    while let Some((number, field)) = reader.next()? {
        if let (true, Field::Bytes(range)) = (number == wanted, field) {
            return Ok(Some(&bytes[range]));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::servable::tensorflow::testing::node;
    use crate::servable::{Signature, TensorInfo};
    use pb::attr_value::{ListValue, Value};
    use prost::Message;

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
        let library = pb::FunctionDefLibrary { function: functions, ..Default::default() };
        let graph = pb::GraphDef { node: nodes, library: Some(library), ..Default::default() };
        let bytes = graph.encode_to_vec();
        let info = TensorInfo { name: "y:0".to_owned(), ..TensorInfo::default() };
        let outputs = [("y".to_owned(), info)].into();
        let signatures = [("s".to_owned(), Signature { outputs, ..Signature::default() })].into();
        !writing_signatures(&bytes, 0..bytes.len(), &signatures).unwrap().is_empty()
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
