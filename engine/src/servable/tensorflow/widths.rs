//! Which pictures are too narrow for the pools that they get to.
//!
//! TensorFlow's kernel for `MaxPool` (2.21) divides by the width of its output, and ends the process
//! where that is zero for a picture that is not empty. The width that a pool gets follows from what
//! is fed through convolutions and other pools, so it is worked out from a request before it is run.
//! Nothing is said of a pool whose width depends on more than that.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::graph::Node;
use super::pictures::DIMENSIONS;
use super::walk::{Origin, Place, Search, BROADCAST, ELEMENTWISE};
use crate::protos::tensorflow as pb;

/// How the widths within a graph follow from those of its inputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Widths {
    steps: Vec<Step>,
    pools: Vec<Pool>,
    /// Whether the steps are true of pictures only, and not of what has one dimension more.
    of_pictures: bool,
}

/// Where a width comes from; numbers are those of earlier steps.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// From an input.
    Fed(String),
    /// From one that a window is moved over.
    Windows { of: usize, window: Window },
    /// From one that is made wider.
    Padded { of: usize, by: i64 },
    /// From two that are put together element by element.
    Both(usize, usize),
}

/// What is moved over a picture, from one side to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    width: i64,
    stride: i64,
    /// What is added to both sides together; `None` as much as lets each stride begin inside.
    padding: Option<i64>,
}

/// A window that ends the process over what is too narrow for it.
#[derive(Debug, PartialEq, Eq)]
struct Pool {
    /// The step of the width that it gets.
    of: usize,
    /// The input that this begins with.
    input: String,
    window: Window,
}

/// A picture that would end the process.
#[derive(Debug, PartialEq, Eq)]
pub struct TooNarrow<'w> {
    pub input: &'w str,
    pub window: i64,
    pub got: i64,
}

impl Widths {
    /// Those for the pools that the output `name` needs.
    pub fn of<'b>(search: &mut Search<'_, 'b>, name: &'b str) -> Self {
        let mut work = Work { search, widths: Self::default(), known: HashMap::new() };
        for (scope, node) in work.search.needed(name) {
            if let Some(window) = Window::of_pool(node) {
                work.add(scope, node, window);
            }
        }
        work.widths
    }

    pub fn are_nothing(&self) -> bool {
        self.pools.is_empty()
    }

    /// What is too narrow where inputs are fed that have these shapes.
    pub fn too_narrow<'f>(
        &self,
        shape: impl Fn(&str) -> Option<&'f [i64]>,
    ) -> Option<TooNarrow<'_>> {
        let mut widths: Vec<Option<i64>> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let width = match step {
                Step::Fed(input) => match shape(input) {
                    // Kernels have nothing to do for what is empty.
                    Some(shape) if shape.contains(&0) => return None,
                    Some(shape) if self.of_pictures && shape.len() > DIMENSIONS => None,
                    Some([_, .., width, _]) => Some(*width),
                    _ => None,
                },
                Step::Windows { of, window } => widths[*of].and_then(|width| window.over(width)),
                Step::Padded { of, by } => widths[*of].and_then(|width| width.checked_add(*by)),
                Step::Both(one, other) => match (widths[*one], widths[*other]) {
                    (Some(1), Some(width)) | (Some(width), Some(1)) => Some(width),
                    (one, other) => one.filter(|_| one == other),
                },
            };
            widths.push(width);
        }
        self.pools.iter().find_map(|Pool { of, input, window }| {
            let got = widths[*of].filter(|width| window.is_too_wide_for(*width))?;
            Some(TooNarrow { input, window: window.width, got })
        })
    }
}

impl Window {
    /// How wide what it makes is.
    fn over(self, width: i64) -> Option<i64> {
        let starts = match self.padding {
            None => width,
            Some(padding) => width.checked_add(padding)?.checked_sub(self.width)?.checked_add(1)?,
        };
        // Rounded up; what does not fit at all is refused by TensorFlow.
        let made = starts.checked_add(self.stride - 1)? / self.stride;
        (made > 0).then_some(made)
    }

    /// Whether it is wider by its stride or more, which no run outlives; by less, and the run ends
    /// with an error or with nothing.
    fn is_too_wide_for(self, width: i64) -> bool {
        let fitting = self.width.saturating_sub(self.stride);
        self.padding == Some(0) && width > 0 && width <= fitting
    }

    /// That of an operation which ends the process where it is too wide.
    fn of_pool(node: &Node) -> Option<Self> {
        const POOLS: [&[u8]; 2] = [b"MaxPool", b"MaxPool3D"];
        let window = if POOLS.contains(&node.op) { Self::of(node, None) } else { None };
        window.filter(|window| window.padding == Some(0))
    }

    /// That of an operation on pictures whose channels are last; `filter` is what it convolves with.
    fn of(node: &Node, filter: Option<&[i64]>) -> Option<Self> {
        let layout = Attribute::of(node, b"data_format").map_or(Vec::new(), Attribute::text);
        if !matches!(&layout[..], b"" | b"NHWC" | b"NDHWC") {
            return None;
        }
        let size = match filter {
            Some([.., width, _, _]) => *width,
            Some(_) => return None,
            None => Attribute::of(node, b"ksize")?.before_last(1)?,
        };
        let dilation = match Attribute::of(node, b"dilations") {
            Some(dilations) => dilations.before_last(1)?,
            None => 1,
        };
        let padding = match &Attribute::of(node, b"padding")?.text()[..] {
            b"SAME" => None,
            b"VALID" => Some(0),
            b"EXPLICIT" => {
                let pads = Attribute::of(node, b"explicit_paddings")?.numbers();
                let [.., before, after, _, _] = pads[..] else { return None };
                Some(before.checked_add(after)?)
            }
            _ => return None,
        };
        let stride = Attribute::of(node, b"strides")?.before_last(1)?;
        let width = size.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        (stride > 0 && width > 0).then_some(Self { width, stride, padding })
    }
}

/// The widths of one output, while they are found.
struct Work<'s, 'g, 'b> {
    search: &'s mut Search<'g, 'b>,
    widths: Widths,
    /// The steps of tensors, `None` where nothing is known.
    known: HashMap<Place<'b>, Option<usize>>,
}

/// How the width of a tensor follows from that of others.
enum Rule<'b> {
    Same(Place<'b>),
    Fed(String),
    Windows(Place<'b>, Window),
    Padded(Place<'b>, i64),
    Both(Place<'b>, Place<'b>),
}

impl<'b> Work<'_, '_, 'b> {
    fn add(&mut self, scope: usize, node: &Node<'b>, window: Window) {
        let Some(input) = node.inputs.first() else { return };
        let Some(of) = self.step((scope, input)) else { return };
        let mut first = of;
        let input = loop {
            match &self.widths.steps[first] {
                Step::Fed(input) => break input.clone(),
                Step::Windows { of, .. } | Step::Padded { of, .. } | Step::Both(of, _) => {
                    first = *of;
                }
            }
        };
        let pool = Pool { of, input, window };
        if !self.widths.pools.contains(&pool) {
            self.widths.pools.push(pool);
        }
    }

    /// The step of a tensor's width.
    fn step(&mut self, place: Place<'b>) -> Option<usize> {
        let mut open = HashSet::new();
        let mut to_do = vec![place];
        while let Some(&place) = to_do.last() {
            if self.known.contains_key(&place) {
                to_do.pop();
                continue;
            }
            let rule = self.rule(place);
            let needs = match rule {
                Some(Rule::Same(of) | Rule::Windows(of, _) | Rule::Padded(of, _)) => vec![of],
                Some(Rule::Both(one, other)) => vec![one, other],
                Some(Rule::Fed(_)) | None => vec![],
            };
            let unknown = needs.into_iter().filter(|place| !self.known.contains_key(place));
            let before = to_do.len();
            if open.insert(place) {
                to_do.extend(unknown);
                if to_do.len() > before {
                    continue;
                }
            }
            let step = rule.and_then(|rule| self.follow(rule));
            self.known.insert(place, step);
        }
        self.known.get(&place).copied().flatten()
    }

    /// The step that a rule asks for, when all that it needs has one.
    fn follow(&mut self, rule: Rule<'b>) -> Option<usize> {
        let known = |place| self.known.get(&place).copied().flatten();
        let step = match rule {
            Rule::Same(of) => return known(of),
            Rule::Fed(input) => Step::Fed(input),
            Rule::Windows(of, window) => Step::Windows { of: known(of)?, window },
            Rule::Padded(of, by) => Step::Padded { of: known(of)?, by },
            Rule::Both(one, other) => Step::Both(known(one)?, known(other)?),
        };
        self.widths.steps.push(step);
        Some(self.widths.steps.len() - 1)
    }

    fn rule(&mut self, place: Place<'b>) -> Option<Rule<'b>> {
        if self.search.is_tired() {
            return None;
        }
        let node = match self.search.origin(place)? {
            Origin::Same(same) => return Some(Rule::Same(same)),
            Origin::Node(node) => node,
        };
        let scope = place.0;
        if node.op == b"Placeholder" {
            return (scope == 0).then(|| Rule::Fed(node.output()));
        }
        let tensors = node.tensors();
        let first = (scope, *tensors.first()?);
        let second = tensors.get(1).map(|tensor| (scope, *tensor));
        match node.op {
            b"Pad" | b"PadV2" | b"MirrorPad" => {
                let pads = self.search.numbers(second?)?;
                let [.., before, after, _, _] = pads[..] else { return None };
                Some(Rule::Padded(first, before.checked_add(after)?))
            }
            b"Conv2D" | b"DepthwiseConv2dNative" | b"Conv3D" => {
                let filter = self.search.fixed_shape(second?)?;
                Some(Rule::Windows(first, Window::of(node, Some(&filter))?))
            }
            b"MaxPool" | b"AvgPool" | b"MaxPool3D" | b"AvgPool3D" => {
                Some(Rule::Windows(first, Window::of(node, None)?))
            }
            b"FusedBatchNorm" | b"FusedBatchNormV2" | b"FusedBatchNormV3" => {
                Some(Rule::Same(first))
            }
            // Rows of samples become pictures one high, and rows again.
            b"ExpandDims" => {
                let axis = self.search.numbers(second?)?;
                matches!(axis[..], [1 | -3]).then_some(Rule::Same(first))
            }
            b"Squeeze" => {
                let axes = Attribute::of(node, b"squeeze_dims")?.numbers();
                matches!(axes[..], [1 | -3]).then_some(Rule::Same(first))
            }
            // All of them are as wide, where channels are put side by side.
            b"ConcatV2" => {
                let axis = self.search.numbers((scope, tensors.last()?))?;
                self.widths.of_pictures |= axis[..] == [3];
                matches!(axis[..], [3 | -1]).then_some(Rule::Same(first))
            }
            op if BROADCAST.contains(&op) => {
                let second = second?;
                match [first, second].map(|place| self.is_for_channels(place)) {
                    [false, false] => Some(Rule::Both(first, second)),
                    [false, true] => Some(Rule::Same(first)),
                    [true, false] => Some(Rule::Same(second)),
                    [true, true] => None,
                }
            }
            b"BiasAdd" => Some(Rule::Same(first)),
            op => ELEMENTWISE.contains(&op).then_some(Rule::Same(first)),
        }
    }

    /// Whether a tensor has one number, or one for each channel, whatever is asked.
    fn is_for_channels(&mut self, place: Place<'b>) -> bool {
        let shape = self.search.fixed_shape(place);
        shape.is_some_and(|shape| shape.iter().rev().skip(1).all(|&size| size == 1))
    }
}

/// The value of an attribute.
struct Attribute(pb::attr_value::Value);

impl Attribute {
    fn of(node: &Node, name: &[u8]) -> Option<Self> {
        pb::AttrValue::decode(node.attribute(name)).ok()?.value.map(Self)
    }

    fn text(self) -> Vec<u8> {
        match self.0 {
            pb::attr_value::Value::S(text) => text.to_vec(),
            _ => Vec::new(),
        }
    }

    fn numbers(self) -> Vec<i64> {
        match self.0 {
            pb::attr_value::Value::List(list) => list.i,
            _ => Vec::new(),
        }
    }

    /// The number that stands before so many others at the end.
    fn before_last(self, after: usize) -> Option<i64> {
        self.numbers().into_iter().rev().nth(after)
    }
}

#[cfg(test)]
mod tests {
    use pb::attr_value::{ListValue, Value};

    use super::*;
    use crate::servable::tensorflow::graph::Graph;
    use crate::servable::tensorflow::testing::{call, constant, function, graph, node, with};

    fn numbers(i: &[i64]) -> Value {
        Value::List(ListValue { i: i.to_vec(), ..Default::default() })
    }

    /// An operation that moves a window over pictures.
    fn windows(node: pb::NodeDef, size: i64, stride: i64, padding: &str) -> pb::NodeDef {
        let node = with(node, "ksize", numbers(&[1, size, size, 1]));
        let node = with(node, "strides", numbers(&[1, stride, stride, 1]));
        with(node, "padding", Value::S(padding.to_owned().into()))
    }

    fn pool(name: &str, input: &str, size: i64, stride: i64) -> pb::NodeDef {
        windows(node(name, "MaxPool", &[input]), size, stride, "VALID")
    }

    /// A convolution with the variable or constant `filter`, which [`filter`] declares.
    fn conv(name: &str, input: &str, stride: i64, padding: &str) -> pb::NodeDef {
        windows(node(name, "Conv2D", &[input, "filter"]), 0, stride, padding)
    }

    fn filter(width: i64) -> Vec<pb::NodeDef> {
        let dim = [width, width, 3, 4]
            .map(|size| pb::tensor_shape_proto::Dim { size, ..Default::default() });
        let shape = pb::TensorShapeProto { dim: dim.into(), ..Default::default() };
        let variable = with(node("variable", "VarHandleOp", &[]), "shape", Value::Shape(shape));
        vec![variable, node("filter", "ReadVariableOp", &["variable"])]
    }

    /// A constant of these numbers.
    fn whole(name: &str, int_val: &[i32]) -> pb::NodeDef {
        let size = int_val.len().try_into().unwrap();
        let dim = vec![pb::tensor_shape_proto::Dim { size, ..Default::default() }];
        let tensor = pb::TensorProto {
            dtype: 3,
            tensor_shape: Some(pb::TensorShapeProto { dim, ..Default::default() }),
            int_val: int_val.to_vec(),
            ..Default::default()
        };
        with(node(name, "Const", &[]), "value", Value::Tensor(tensor))
    }

    /// The widths of pictures four high that are too narrow for `y:0`, with what a pool would get.
    fn too_narrow(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>) -> Vec<(i64, i64)> {
        let inputs = [node("x", "Placeholder", &[]), node("z", "Placeholder", &[])];
        let bytes = graph(inputs.into_iter().chain(nodes).collect(), functions);
        let graph = Graph::read(&bytes, 0..bytes.len()).unwrap();
        let widths = Widths::of(&mut Search::new(&graph), "y:0");
        let got = |width: i64| {
            let shape = [1, 4, width, 3];
            let found = widths.too_narrow(|name| (name == "x:0").then_some(&shape[..]))?;
            assert_eq!(found.input, "x:0");
            Some((width, found.got))
        };
        (0..12).filter_map(got).collect()
    }

    #[test]
    fn what_ends_the_process_is_too_narrow_and_nothing_else() {
        for (case, nodes, expected) in [
            ("a pool", vec![pool("y", "x", 3, 1)], vec![(1, 1), (2, 2)]),
            ("one that moves further", vec![pool("y", "x", 3, 2)], vec![(1, 1)]),
            ("one that leaves nothing out", vec![pool("y", "x", 2, 2)], vec![]),
            ("one that pads", vec![windows(node("y", "MaxPool", &["x"]), 3, 1, "SAME")], vec![]),
            ("one of means", vec![windows(node("y", "AvgPool", &["x"]), 3, 1, "VALID")], vec![]),
            (
                "one whose channels are first",
                vec![with(pool("y", "x", 3, 1), "data_format", Value::S("NCHW".into()))],
                vec![],
            ),
            (
                "one after another",
                vec![pool("a", "x", 2, 2), pool("y", "a", 2, 1)],
                vec![(2, 1), (3, 1)],
            ),
            (
                "one that nothing needs",
                vec![pool("a", "x", 3, 1), node("y", "Relu", &["x"])],
                vec![],
            ),
            (
                "what is convolved and reduced",
                [
                    filter(3),
                    vec![
                        conv("c", "x", 2, "VALID"),
                        node("r", "Relu", &["c"]),
                        pool("y", "r", 2, 1),
                    ],
                ]
                .concat(),
                vec![(3, 1), (4, 1)],
            ),
            (
                "what is convolved and padded for it",
                [filter(3), vec![conv("c", "x", 4, "SAME"), pool("y", "c", 2, 1)]].concat(),
                vec![(1, 1), (2, 1), (3, 1), (4, 1)],
            ),
        ] {
            assert_eq!(too_narrow(nodes, vec![]), expected, "{case}");
        }
    }

    #[test]
    fn widths_are_followed_as_far_as_they_are_known() {
        let side_by_side = |axis: i32| {
            vec![
                pool("a", "x", 2, 2),
                whole("axis", &[axis]),
                node("both", "ConcatV2", &["a", "a", "axis"]),
                pool("y", "both", 2, 1),
            ]
        };
        for (case, nodes, expected) in [
            (
                "what is padded to the right",
                vec![
                    whole("pads", &[0, 0, 1, 1, 0, 3, 0, 0]),
                    node("p", "Pad", &["x", "pads"]),
                    pool("y", "p", 5, 1),
                ],
                vec![(1, 4)],
            ),
            (
                "what is scaled by variables",
                [
                    filter(1),
                    vec![
                        constant("scale", 1),
                        node("root", "Rsqrt", &["scale"]),
                        node("scaled", "Mul", &["x", "root"]),
                        pool("y", "scaled", 2, 1),
                    ],
                ]
                .concat(),
                vec![(1, 1)],
            ),
            (
                "what goes two ways and comes together",
                vec![
                    node("a", "Relu", &["x"]),
                    node("sum", "AddV2", &["a", "x"]),
                    pool("y", "sum", 2, 1),
                ],
                vec![(1, 1)],
            ),
            (
                "what is put together with what may be wider",
                vec![node("sum", "AddV2", &["x", "z"]), pool("y", "sum", 2, 1)],
                vec![],
            ),
            ("channels side by side", side_by_side(-1), vec![(2, 1), (3, 1)]),
            ("channels of pictures side by side", side_by_side(3), vec![(2, 1), (3, 1)]),
            ("pictures side by side", side_by_side(2), vec![]),
            (
                "what becomes another picture",
                vec![node("r", "Reshape", &["x"]), pool("y", "r", 2, 1)],
                vec![],
            ),
            (
                "a graph that goes round",
                vec![
                    node("a", "AddV2", &["b", "x"]),
                    node("b", "Relu", &["a"]),
                    pool("y", "b", 2, 1),
                ],
                vec![],
            ),
        ] {
            assert_eq!(too_narrow(nodes, vec![]), expected, "{case}");
        }
    }

    #[test]
    fn functions_are_looked_into_where_they_are_called() {
        let body = vec![pool("p", "b", 2, 1)];
        let inner = function("inner", body, &["p:output:0"]);

        assert_eq!(
            too_narrow(vec![call("y", "inner", &["z", "x"])], vec![inner.clone()]),
            [(1, 1)]
        );
        assert!(too_narrow(vec![call("y", "inner", &["x", "z"])], vec![inner]).is_empty());
    }

    #[test]
    fn rows_of_samples_are_pictures_one_high_and_what_is_empty_needs_no_width() {
        let nodes = vec![
            node("x", "Placeholder", &[]),
            whole("axis", &[1]),
            node("pictures", "ExpandDims", &["x", "axis"]),
            pool("p", "pictures", 3, 2),
            with(node("y", "Squeeze", &["p"]), "squeeze_dims", numbers(&[1])),
        ];
        let bytes = graph(nodes, vec![]);
        let graph = Graph::read(&bytes, 0..bytes.len()).unwrap();
        let widths = Widths::of(&mut Search::new(&graph), "y:0");
        let got = |shape: &[i64]| widths.too_narrow(|_| Some(shape)).map(|found| found.got);

        assert_eq!(got(&[2, 1, 3]), Some(1));
        assert_eq!(got(&[2, 2, 3]), None);
        assert_eq!([&[0, 1, 3][..], &[2, 1, 0], &[], &[7]].map(got), [None; 4]);
        assert!(!widths.are_nothing());
        assert_eq!(widths.too_narrow(|_| None), None);
    }
}
