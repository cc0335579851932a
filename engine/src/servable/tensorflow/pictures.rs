//! Which inputs must be pictures, by what the graph does with them.
//!
//! TensorFlow's kernels for convolutions (2.21, with oneDNN) end the process over an input of fewer
//! than four dimensions. Where a signature says no rank, what is fed can be judged only by where it
//! goes: from an output back to each convolution that it needs, and from that back to an input,
//! through operations that keep the rank. Such an input could never be answered when it has less.
//! What is not plain to see is not judged: branches, and whatever changes ranks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::graph::Graph;
use super::walk::{Origin, Place, Search, BROADCAST, ELEMENTWISE};
use super::widths::Widths;
use crate::servable::Signatures;

/// The least dimensions that a convolution takes.
pub const DIMENSIONS: usize = 4;

/// What is wanted of what is fed where one output is fetched.
#[derive(Debug, Default)]
pub struct Pictures {
    /// The inputs that must be pictures, where a signature says no rank.
    pub inputs: BTreeSet<String>,
    pub widths: Arc<Widths>,
}

impl Pictures {
    /// What the output `name` wants.
    pub fn of(graph: &Graph, signatures: &Signatures, name: &str) -> Self {
        let mut infos = signatures.values().flat_map(|one| one.inputs.values());
        let says_no_rank = infos.any(|info| info.shape.is_none());
        let inputs = if says_no_rank { convolved(graph, name) } else { BTreeSet::new() };
        Self { inputs, widths: Arc::new(Widths::of(&mut Search::new(graph), name)) }
    }

    pub fn are_nothing(&self) -> bool {
        self.inputs.is_empty() && self.widths.are_nothing()
    }
}

/// The inputs that are convolved, as many dimensions as they have, where the output `name` is
/// fetched.
fn convolved(graph: &Graph, name: &str) -> BTreeSet<String> {
    let mut search = Search::new(graph);
    let needed = search.needed(name).into_iter();
    let convolutions = needed.filter(|(_, node)| CONVOLUTIONS.contains(&node.op));
    let inputs = convolutions.filter_map(|(scope, node)| Some((scope, *node.inputs.first()?)));
    inputs.filter_map(|place| fed(&mut search, place)).collect()
}

/// Operations whose kernels end the process over fewer dimensions.
const CONVOLUTIONS: [&[u8]; 3] = [b"Conv2D", b"DepthwiseConv2dNative", b"Conv3D"];

/// Operations that keep how many dimensions there are, and change how many elements.
const PADS: [&[u8]; 3] = [b"Pad", b"PadV2", b"MirrorPad"];

/// The input of the graph that has no more dimensions than this tensor.
fn fed<'b>(search: &mut Search<'_, 'b>, mut place: Place<'b>) -> Option<String> {
    loop {
        if search.is_tired() {
            return None;
        }
        let node = match search.origin(place)? {
            Origin::Same(same) => {
                place = same;
                continue;
            }
            Origin::Node(node) => node,
        };
        let scope = place.0;
        if node.op == b"Placeholder" && scope == 0 {
            return Some(node.output());
        }
        place.1 = match node.tensors()[..] {
            [first] if ELEMENTWISE.contains(&node.op) => first,
            [first, ..] if PADS.contains(&node.op) => first,
            [first, _] if node.op == b"BiasAdd" => first,
            [one, other] if BROADCAST.contains(&node.op) => {
                match [one, other].map(|tensor| is_flat(search, (scope, tensor))) {
                    [false, true] => one,
                    [true, false] => other,
                    _ => return None,
                }
            }
            _ => return None,
        };
    }
}

/// Whether a tensor always has fewer dimensions than a picture.
fn is_flat<'b>(search: &mut Search<'_, 'b>, place: Place<'b>) -> bool {
    search.fixed_shape(place).is_some_and(|shape| shape.len() < DIMENSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::servable::tensorflow::testing::{call, constant, function, graph, node};
    use crate::servable::{Signature, TensorInfo};

    /// What must be a picture for `y:0`, of the inputs `x` and `z`.
    fn found(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>, rank: bool) -> Vec<String> {
        let inputs = [node("x", "Placeholder", &[]), node("z", "Placeholder", &[])];
        let bytes = graph(inputs.into_iter().chain(nodes).collect(), functions);
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
        let graph = Graph::read(&bytes, 0..bytes.len()).unwrap();
        Pictures::of(&graph, &signatures, "y:0").inputs.into_iter().collect()
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
