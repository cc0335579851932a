//! Which inputs must be pictures, by what the graph does with them.
//!
//! TensorFlow's kernels for convolutions (2.21, with oneDNN) end the process over an input of fewer
//! than four dimensions. Where a signature says no rank, what is fed can be judged only by where it
//! goes: from an output back to each convolution that it needs, and from that back to an input,
//! through operations that keep the rank. Such an input could never be answered when it has less.
//! What is not plain to see is not judged: branches, and whatever changes ranks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::writes::{first_bytes, Function, Graph, Node};
use crate::servable::Signatures;
use crate::wire::{Field, Malformed, Reader};

/// The least dimensions that a convolution takes.
pub const DIMENSIONS: usize = 4;

/// For tensors that are outputs of signatures, the inputs that must be pictures for them, of the
/// `GraphDef` at `range`.
///
/// # Errors
/// The bytes are no GraphDef.
pub fn pictures(
    bytes: &[u8],
    range: Range<usize>,
    signatures: &Signatures,
) -> Result<BTreeMap<String, BTreeSet<String>>, Malformed> {
    let says_no_rank =
        signatures.values().any(|one| one.inputs.values().any(|info| info.shape.is_none()));
    if !says_no_rank {
        return Ok(BTreeMap::new());
    }
    let graph = Graph::read(bytes, range)?;
    let outputs = signatures.values().flat_map(|signature| signature.outputs.values());
    let found = outputs.map(|info| (info.name.clone(), Search::new(&graph).pictures(&info.name)));
    Ok(found.filter(|(_, inputs)| !inputs.is_empty()).collect())
}

/// Operations whose kernels end the process over fewer dimensions.
const CONVOLUTIONS: [&[u8]; 3] = [b"Conv2D", b"DepthwiseConv2dNative", b"Conv3D"];

/// Operations whose output has as many dimensions as their first input.
const KEEP_RANK: [&[u8]; 28] = [
    b"Identity",
    b"Cast",
    b"StopGradient",
    b"PreventGradient",
    b"CheckNumerics",
    b"Snapshot",
    b"Relu",
    b"Relu6",
    b"Elu",
    b"LeakyRelu",
    b"Selu",
    b"Sigmoid",
    b"Tanh",
    b"Softplus",
    b"Abs",
    b"Neg",
    b"Exp",
    b"Log",
    b"Log1p",
    b"Sqrt",
    b"Rsqrt",
    b"Square",
    b"Round",
    b"Floor",
    b"Pad",
    b"PadV2",
    b"MirrorPad",
    b"BiasAdd",
];

/// Operations of two inputs, whose output has as many dimensions as the one that has more.
const BROADCAST: [&[u8]; 8] =
    [b"Add", b"AddV2", b"Sub", b"Mul", b"Div", b"RealDiv", b"Maximum", b"Minimum"];

const CALLS: [&[u8]; 2] = [b"PartitionedCall", b"StatefulPartitionedCall"];

/// Nodes that are looked at for one output; what is larger is not judged.
const MAX_STEPS: usize = 1 << 20;
/// Calls within calls.
const MAX_DEPTH: usize = 64;

/// A search through one graph and the functions that it calls.
struct Search<'g, 'b> {
    graph: &'g Graph<'b>,
    /// The graph, and each call of a function that was entered.
    scopes: Vec<Scope<'g, 'b>>,
    /// By where it is called, and the name of the call.
    entered: HashMap<(usize, &'b [u8]), usize>,
    steps: usize,
}

/// Where names stand for nodes: the graph, or the body of a function where it is called.
struct Scope<'g, 'b> {
    call: Option<Call<'g, 'b>>,
    /// The nodes of the function.
    nodes: HashMap<&'b [u8], &'g Node<'b>>,
    depth: usize,
}

#[derive(Clone, Copy)]
struct Call<'g, 'b> {
    function: &'g Function<'b>,
    node: &'g Node<'b>,
    /// The scope that the call stands in.
    caller: usize,
}

/// What a tensor is.
enum Origin<'g, 'b> {
    /// An output of a node.
    Node(&'g Node<'b>),
    /// The same as another one, elsewhere.
    Same(usize, &'b [u8]),
}

impl<'g, 'b> Search<'g, 'b> {
    fn new(graph: &'g Graph<'b>) -> Self {
        let scopes = vec![Scope { call: None, nodes: HashMap::new(), depth: 0 }];
        Self { graph, scopes, entered: HashMap::new(), steps: 0 }
    }

    /// The inputs that must be pictures where the output `name` is fetched.
    fn pictures(mut self, name: &'b str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut to_see = vec![(0, name.as_bytes())];
        while let Some((scope, tensor)) = to_see.pop() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return BTreeSet::new();
            }
            if tensor.starts_with(b"^") || !seen.insert((scope, tensor)) {
                continue;
            }
            match self.origin(scope, tensor) {
                None => {}
                Some(Origin::Same(scope, tensor)) => to_see.push((scope, tensor)),
                // Which of its inputs is needed nobody knows.
                Some(Origin::Node(node)) if node.op.ends_with(b"Merge") => {}
                Some(Origin::Node(node)) => {
                    if CONVOLUTIONS.contains(&node.op) {
                        let input = node.inputs.first();
                        found.extend(input.and_then(|input| self.fed(scope, input)));
                    }
                    to_see.extend(node.inputs.iter().map(|input| (scope, *input)));
                }
            }
        }
        found
    }

    /// The input of the graph that has no more dimensions than this tensor.
    fn fed(&mut self, mut scope: usize, mut tensor: &'b [u8]) -> Option<String> {
        loop {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return None;
            }
            let node = match self.origin(scope, tensor)? {
                Origin::Same(other, same) => {
                    (scope, tensor) = (other, same);
                    continue;
                }
                Origin::Node(node) => node,
            };
            if node.op == b"Placeholder" && scope == 0 {
                return Some(format!("{}:0", String::from_utf8_lossy(node.name)));
            }
            let inputs = node.inputs.iter().filter(|input| !input.starts_with(b"^"));
            let inputs: Vec<&'b [u8]> = inputs.copied().collect();
            tensor = match inputs[..] {
                [first, ..] if KEEP_RANK.contains(&node.op) => first,
                [one, other] if BROADCAST.contains(&node.op) => {
                    match (self.is_flat(scope, one), self.is_flat(scope, other)) {
                        (false, true) => one,
                        (true, false) => other,
                        _ => return None,
                    }
                }
                _ => return None,
            };
        }
    }

    /// Whether a tensor is a constant of fewer dimensions than a picture.
    fn is_flat(&self, scope: usize, tensor: &[u8]) -> bool {
        let node = self.node(scope, tensor).filter(|node| node.op == b"Const");
        node.is_some_and(|node| rank(node.value).is_ok_and(|rank| rank < DIMENSIONS))
    }

    fn node(&self, scope: usize, tensor: &[u8]) -> Option<&'g Node<'b>> {
        let name = tensor.split(|&byte| byte == b':').next()?;
        match self.scopes[scope].call {
            None => self.graph.nodes.get(name),
            Some(_) => self.scopes[scope].nodes.get(name).copied(),
        }
    }

    fn origin(&mut self, scope: usize, tensor: &'b [u8]) -> Option<Origin<'g, 'b>> {
        if let Some(Call { function, node, caller }) = self.scopes[scope].call {
            if let Some(at) = function.inputs.iter().position(|input| *input == tensor) {
                return Some(Origin::Same(caller, node.inputs.get(at)?));
            }
        }
        let node = self.node(scope, tensor)?;
        let [name] = node.functions[..] else { return Some(Origin::Node(node)) };
        if !CALLS.contains(&node.op) {
            return Some(Origin::Node(node));
        }
        let function = self.graph.functions.get(name)?;
        let at = tensor.rsplit(|&byte| byte == b':').next()?;
        let at = std::str::from_utf8(at).ok()?.parse().unwrap_or(0_usize);
        let returned = function.returned(at)?;
        let scopes = &mut self.scopes;
        let depth = scopes[scope].depth + 1;
        if depth > MAX_DEPTH {
            return None;
        }
        let inside = *self.entered.entry((scope, node.name)).or_insert_with(|| {
            let call = Call { function, node, caller: scope };
            let nodes = function.nodes.iter().map(|node| (node.name, node)).collect();
            scopes.push(Scope { call: Some(call), nodes, depth });
            scopes.len() - 1
        });
        Some(Origin::Same(inside, returned))
    }
}

/// How many dimensions the tensor in an `AttrValue` has.
fn rank(value: &[u8]) -> Result<usize, Malformed> {
    let tensor = first_bytes(value, 0..value.len(), 8)?.ok_or(Malformed)?;
    let shape = first_bytes(tensor, 0..tensor.len(), 2)?.unwrap_or_default();
    let mut rank = 0;
    let mut reader = Reader::new(shape);
    while let Some((number, field)) = reader.next()? {
        rank += usize::from(matches!((number, field), (2, Field::Bytes(_))));
    }
    Ok(rank)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::servable::tensorflow::testing::node;
    use crate::servable::{Signature, TensorInfo};

    fn with(mut node: pb::NodeDef, name: &str, value: pb::attr_value::Value) -> pb::NodeDef {
        node.attr.insert(name.to_owned(), pb::AttrValue { value: Some(value) });
        node
    }

    fn constant(name: &str, rank: usize) -> pb::NodeDef {
        let dim = vec![pb::tensor_shape_proto::Dim { size: 1, ..Default::default() }; rank];
        let shape = pb::TensorShapeProto { dim, ..Default::default() };
        let tensor = pb::TensorProto { tensor_shape: Some(shape), ..Default::default() };
        with(node(name, "Const", &[]), "value", pb::attr_value::Value::Tensor(tensor))
    }

    fn call(name: &str, function: &str, inputs: &[&str]) -> pb::NodeDef {
        let function = pb::NameAttrList { name: function.to_owned(), ..Default::default() };
        let node = node(name, "StatefulPartitionedCall", inputs);
        with(node, "f", pb::attr_value::Value::Func(function))
    }

    /// A function of two inputs, `a` and `b`.
    fn function(name: &str, nodes: Vec<pb::NodeDef>, returns: &[&str]) -> pb::FunctionDef {
        let arg = |name: &str| pb::op_def::ArgDef { name: name.to_owned(), ..Default::default() };
        let output = |at: usize| format!("output_{at}");
        let signature = pb::OpDef {
            name: name.to_owned(),
            input_arg: vec![arg("a"), arg("b")],
            output_arg: (0..returns.len()).map(|at| arg(&output(at))).collect(),
            ..Default::default()
        };
        let ret = returns.iter().enumerate().map(|(at, tensor)| (output(at), (*tensor).to_owned()));
        pb::FunctionDef {
            signature: Some(signature),
            node_def: nodes,
            ret: ret.collect(),
            ..Default::default()
        }
    }

    /// What must be a picture for `y:0`, of the inputs `x` and `z`.
    fn found(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>, rank: bool) -> Vec<String> {
        let inputs = [node("x", "Placeholder", &[]), node("z", "Placeholder", &[])];
        let library = pb::FunctionDefLibrary { function: functions, ..Default::default() };
        let graph = pb::GraphDef {
            node: inputs.into_iter().chain(nodes).collect(),
            library: Some(library),
            ..Default::default()
        };
        let bytes = graph.encode_to_vec();
        let info = |name: &str| TensorInfo {
            name: name.to_owned(),
            dtype: 1,
            shape: rank.then(|| vec![-1]),
        };
        let signature = Signature {
            inputs: ["x:0", "z:0"].map(|name| (name.to_owned(), info(name))).into(),
            outputs: [("y".to_owned(), info("y:0"))].into(),
            ..Signature::default()
        };
        let signatures = [("serving_default".to_owned(), signature)].into();
        let mut found = pictures(&bytes, 0..bytes.len(), &signatures).unwrap();
        found.remove("y:0").into_iter().flatten().collect()
    }

    #[test]
    fn what_reaches_a_convolution_as_it_is_must_be_a_picture() {
        let conv = |name: &str, input: &str| node(name, "Conv2D", &[input, "filter"]);
        for (case, nodes, expected) in [
            ("a convolution", vec![conv("y", "x")], vec!["x:0"]),
            ("one further on", vec![conv("c", "x"), node("y", "Relu", &["c"])], vec!["x:0"]),
            (
                "what is cast and scaled",
                vec![
                    node("cast", "Cast", &["x"]),
                    constant("by", 0),
                    node("scaled", "Mul", &["cast", "by"]),
                    node("shifted", "Sub", &["by", "scaled"]),
                    conv("y", "shifted"),
                ],
                vec!["x:0"],
            ),
            (
                "what a constant may give dimensions",
                vec![constant("by", 4), node("scaled", "Mul", &["x", "by"]), conv("y", "scaled")],
                vec![],
            ),
            ("two inputs", vec![node("sum", "Add", &["x", "z"]), conv("y", "sum")], vec![]),
            ("what is reshaped", vec![node("r", "Reshape", &["x"]), conv("y", "r")], vec![]),
            ("an output that needs none", vec![conv("c", "x"), node("y", "Relu", &["x"])], vec![]),
            ("a branch", vec![conv("c", "x"), node("y", "Merge", &["c", "z"])], vec![]),
            ("only what is convolved", vec![node("y", "Conv2D", &["x", "z"])], vec!["x:0"]),
        ] {
            assert_eq!(found(nodes.clone(), vec![], false), expected, "{case}");
            assert!(found(nodes, vec![], true).is_empty(), "{case}, of a rank that is said");
        }
    }

    #[test]
    fn functions_are_looked_into_where_they_are_called() {
        let conv = vec![node("c", "Conv2D", &["b", "a"])];
        let inner = function("inner", conv, &["c:output:0", "b"]);
        let outer = function("outer", vec![call("i", "inner", &["b", "a"])], &["i:output:0"]);
        let both = || vec![inner.clone(), outer.clone()];

        assert_eq!(found(vec![call("y", "inner", &["z", "x"])], both(), false), ["x:0"]);
        assert_eq!(found(vec![call("y", "outer", &["z", "x"])], both(), false), ["z:0"]);
        let unused = vec![call("i", "inner", &["z", "x"]), node("y", "Relu", &["i:1"])];
        assert!(found(unused, both(), false).is_empty());
        let through = vec![
            call("i", "inner", &["z", "x"]),
            node("y", "DepthwiseConv2dNative", &["i:1", "z"]),
        ];
        assert_eq!(found(through, both(), false), ["x:0"]);
        let itself = function("itself", vec![call("i", "itself", &["b", "a"])], &["i:output:0"]);
        assert!(found(vec![call("y", "itself", &["x", "z"])], vec![itself], false).is_empty());
    }
}
