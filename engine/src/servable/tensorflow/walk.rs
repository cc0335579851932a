//! A graph seen from one of its outputs back, through the functions that it calls.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::graph::{first_bytes, Function, Graph, Node};
use crate::protos::tensorflow as pb;
use crate::wire::{Field, Malformed, Reader};

const CALLS: [&[u8]; 2] = [b"PartitionedCall", b"StatefulPartitionedCall"];

/// Operations whose output has the shape of their one input.
pub const ELEMENTWISE: [&[u8]; 24] = [
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
];

/// Operations on two tensors element by element, of which one may be repeated to be as large as the
/// other.
pub const BROADCAST: [&[u8]; 8] =
    [b"Add", b"AddV2", b"Sub", b"Mul", b"Div", b"RealDiv", b"Maximum", b"Minimum"];

/// Nodes that are looked at for one output; what is larger is not judged.
const MAX_STEPS: usize = 1 << 20;
/// Calls within calls.
const MAX_DEPTH: usize = 64;

/// A tensor, and the scope that its name belongs to.
pub type Place<'b> = (usize, &'b [u8]);

/// A search through one graph and the functions that it calls.
pub struct Search<'g, 'b> {
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
pub enum Origin<'g, 'b> {
    /// An output of a node.
    Node(&'g Node<'b>),
    /// The same as another one, elsewhere.
    Same(Place<'b>),
}

impl<'g, 'b> Search<'g, 'b> {
    pub fn new(graph: &'g Graph<'b>) -> Self {
        let scopes = vec![Scope { call: None, nodes: HashMap::new(), depth: 0 }];
        Self { graph, scopes, entered: HashMap::new(), steps: 0 }
    }

    /// Count a step; whether there were too many.
    pub fn is_tired(&mut self) -> bool {
        self.steps += 1;
        self.steps > MAX_STEPS
    }

    /// The operations that are run whenever the output `name` is fetched; none when there are too
    /// many to look at.
    pub fn needed(&mut self, name: &'b str) -> Vec<(usize, &'g Node<'b>)> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut to_see = vec![(0, name.as_bytes())];
        while let Some(place) = to_see.pop() {
            if self.is_tired() {
                return Vec::new();
            }
            if place.1.starts_with(b"^") || !seen.insert(place) {
                continue;
            }
            match self.origin(place) {
                None => {}
                Some(Origin::Same(place)) => to_see.push(place),
                // Which of its inputs is needed nobody knows.
                Some(Origin::Node(node)) if node.op.ends_with(b"Merge") => {}
                Some(Origin::Node(node)) => {
                    found.push((place.0, node));
                    to_see.extend(node.inputs.iter().map(|input| (place.0, *input)));
                }
            }
        }
        found
    }

    /// The operation that makes a tensor, in its own scope.
    fn node(&self, (scope, tensor): (usize, &[u8])) -> Option<&'g Node<'b>> {
        let name = tensor.split(|&byte| byte == b':').next()?;
        match self.scopes[scope].call {
            None => self.graph.nodes.get(name),
            Some(_) => self.scopes[scope].nodes.get(name).copied(),
        }
    }

    /// Where a tensor comes from.
    pub fn origin(&mut self, (scope, tensor): Place<'b>) -> Option<Origin<'g, 'b>> {
        if let Some(Call { function, node, caller }) = self.scopes[scope].call {
            if let Some(at) = function.inputs.iter().position(|input| *input == tensor) {
                return Some(Origin::Same((caller, node.inputs.get(at)?)));
            }
        }
        let node = self.node((scope, tensor))?;
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
        Some(Origin::Same((inside, returned)))
    }

    /// The sizes of a tensor that no request has a say in: a constant, a variable that is read, or
    /// what is made of these element by element.
    pub fn fixed_shape(&mut self, place: Place<'b>) -> Option<Vec<i64>> {
        self.fixed(place, 0)
    }

    fn fixed(&mut self, mut place: Place<'b>, depth: usize) -> Option<Vec<i64>> {
        const READ: [&[u8]; 2] = [b"Identity", b"ReadVariableOp"];
        const VARIABLES: [&[u8]; 3] = [b"VarHandleOp", b"VariableV2", b"Variable"];
        let node = loop {
            if self.is_tired() {
                return None;
            }
            match self.origin(place)? {
                Origin::Same(same) => place = same,
                Origin::Node(node) if READ.contains(&node.op) => place.1 = node.inputs.first()?,
                Origin::Node(node) => break node,
            }
        };
        if VARIABLES.contains(&node.op) {
            return declared_shape(node);
        }
        if node.op == b"Const" {
            return shape(node.attribute(b"value")).ok();
        }
        let is_elementwise = ELEMENTWISE.contains(&node.op) || BROADCAST.contains(&node.op);
        let is_in_front = node.op == b"ExpandDims";
        if !is_elementwise && !is_in_front || depth == MAX_DEPTH {
            return None;
        }
        let mut shapes = Vec::new();
        for tensor in node.tensors() {
            shapes.push(self.fixed((place.0, tensor), depth + 1));
        }
        match (is_in_front, &mut shapes[..]) {
            (true, [Some(shape), _]) => {
                let axis = self.numbers((place.0, node.tensors()[1]))?;
                (axis[..] == [0]).then(|| [&[1], &shape[..]].concat())
            }
            (false, [shape]) => shape.take(),
            (false, [Some(one), Some(other)]) => broadcast(one, other),
            _ => None,
        }
    }

    /// The few whole numbers in a constant.
    pub fn numbers(&mut self, mut place: Place<'b>) -> Option<Vec<i64>> {
        const MAX_BYTES: usize = 1024;
        loop {
            match self.origin(place)? {
                Origin::Same(_) if self.is_tired() => return None,
                Origin::Same(same) => place = same,
                Origin::Node(node) => {
                    let value = node.attribute(b"value");
                    let is_small = node.op == b"Const" && value.len() <= MAX_BYTES;
                    return if is_small { elements(value) } else { None };
                }
            }
        }
    }
}

/// The sizes that a variable is declared with.
fn declared_shape(node: &Node) -> Option<Vec<i64>> {
    let value = pb::AttrValue::decode(node.attribute(b"shape")).ok()?.value?;
    let pb::attr_value::Value::Shape(shape) = value else { return None };
    let is_known = !shape.unknown_rank && shape.dim.iter().all(|dim| dim.size >= 0);
    is_known.then(|| shape.dim.iter().map(|dim| dim.size).collect())
}

/// The sizes of what is made of two tensors element by element.
fn broadcast(one: &[i64], other: &[i64]) -> Option<Vec<i64>> {
    let (long, short) = if one.len() < other.len() { (other, one) } else { (one, other) };
    let mut sizes = long.to_vec();
    for (size, &other) in sizes.iter_mut().rev().zip(short.iter().rev()) {
        match (*size, other) {
            (size, other) if size == other => {}
            (_, 1) => {}
            (1, other) => *size = other,
            _ => return None,
        }
    }
    Some(sizes)
}

/// The sizes of the tensor in an `AttrValue`, whose elements may be many.
fn shape(value: &[u8]) -> Result<Vec<i64>, Malformed> {
    let tensor = first_bytes(value, 0..value.len(), 8)?.ok_or(Malformed)?;
    let shape = first_bytes(tensor, 0..tensor.len(), 2)?.unwrap_or_default();
    let mut sizes = Vec::new();
    let mut reader = Reader::new(shape);
    while let Some((number, field)) = reader.next()? {
        if let (2, Field::Bytes(range)) = (number, field) {
            let dim = pb::tensor_shape_proto::Dim::decode(&shape[range]);
            sizes.push(dim.map_err(|_| Malformed)?.size);
        }
    }
    Ok(sizes)
}

/// The elements of the tensor of whole numbers in an `AttrValue`; the last one that is said is
/// repeated.
fn elements(value: &[u8]) -> Option<Vec<i64>> {
    const INT32: i32 = 3;
    const INT64: i32 = 9;
    let value = pb::AttrValue::decode(value).ok()?.value?;
    let pb::attr_value::Value::Tensor(tensor) = value else { return None };
    let content = &tensor.tensor_content;
    let (fields, bytes): (Vec<i64>, Vec<i64>) = match tensor.dtype {
        INT32 => (
            tensor.int_val.iter().copied().map(i64::from).collect(),
            content
                .chunks_exact(4)
                .map(|n| i64::from(i32::from_le_bytes(n.try_into().unwrap_or_default())))
                .collect(),
        ),
        INT64 => (
            tensor.int64_val.clone(),
            content
                .chunks_exact(8)
                .map(|n| i64::from_le_bytes(n.try_into().unwrap_or_default()))
                .collect(),
        ),
        _ => return None,
    };
    let shape = tensor.tensor_shape.unwrap_or_default();
    let mut sizes = shape.dim.iter().map(|dim| usize::try_from(dim.size).ok());
    let count = sizes.try_fold(1_usize, |count, size| count.checked_mul(size?))?;
    let mut elements = if bytes.is_empty() { fields } else { bytes };
    let last = *elements.last()?;
    // Paddings of pictures are few.
    elements.resize(count.min(16), last);
    Some(elements)
}
