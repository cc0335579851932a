//! What the tests of graphs are made of.

use prost::Message;

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

/// An operation with one attribute more.
pub fn with(mut node: pb::NodeDef, name: &str, value: pb::attr_value::Value) -> pb::NodeDef {
    node.attr.insert(name.to_owned(), pb::AttrValue { value: Some(value) });
    node
}

/// A constant of so many dimensions.
pub fn constant(name: &str, rank: usize) -> pb::NodeDef {
    let dim = vec![pb::tensor_shape_proto::Dim { size: 1, ..Default::default() }; rank];
    let shape = pb::TensorShapeProto { dim, ..Default::default() };
    let tensor = pb::TensorProto { tensor_shape: Some(shape), ..Default::default() };
    with(node(name, "Const", &[]), "value", pb::attr_value::Value::Tensor(tensor))
}

/// A call of a function.
pub fn call(name: &str, function: &str, inputs: &[&str]) -> pb::NodeDef {
    let function = pb::NameAttrList { name: function.to_owned(), ..Default::default() };
    let node = node(name, "StatefulPartitionedCall", inputs);
    with(node, "f", pb::attr_value::Value::Func(function))
}

/// A function of two inputs, `a` and `b`.
pub fn function(name: &str, nodes: Vec<pb::NodeDef>, returns: &[&str]) -> pb::FunctionDef {
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

/// The bytes of a graph.
pub fn graph(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>) -> Vec<u8> {
    let library = pb::FunctionDefLibrary { function: functions, ..Default::default() };
    let graph = pb::GraphDef { node: nodes, library: Some(library), ..Default::default() };
    graph.encode_to_vec()
}
