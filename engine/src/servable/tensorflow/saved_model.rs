//! What is read of a SavedModel's MetaGraphDef: its signatures, and what it needs to be whole.
//!
//! Graphs may have hundreds of megabytes, so the bytes are walked in place and only the
//! signatures become messages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use super::graph::Graph;
use super::pictures::Pictures;
use super::restored::unrestored_variables;
use super::writes::writing_signatures;
use crate::servable::{signature_def, Signatures};
use crate::status::{Result, Status};
use crate::wire::{self, Field, Malformed, Reader};

/// The parts of a MetaGraphDef that serving needs.
#[derive(Default)]
pub struct MetaGraph {
    pub signatures: Signatures,
    /// Serialized `SignatureDefMap`.
    pub signature_def_map: Bytes,
    pub has_variables: bool,
    /// Names of its files in the directory `assets`.
    pub assets: Vec<String>,
    /// Whether a run is bounded by the sizes of what is fed: nothing in the graph repeats, waits,
    /// or makes more elements than it gets.
    pub is_bounded: bool,
    /// Whether an operation may wait for what another run does, and hand tensors over to it.
    pub may_wait: bool,
    /// Whether an operation ends the process when its input has another rank than it was made for.
    pub trusts_ranks: bool,
    /// For tensors that are outputs, what is wanted of pictures that are fed.
    pub pictures: BTreeMap<String, Pictures>,
    /// Names of the signatures that change what outlives a run.
    pub writing_signatures: BTreeSet<String>,
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
        let mut assets = Vec::new();
        let mut is_bounded = true;
        let mut waits = false;
        let mut trusts_ranks = false;
        let mut each = |op: &[u8]| {
            has_variables |= VARIABLES.contains(&op);
            is_bounded &= !may_take_long(op);
            waits |= may_wait(op);
            trusts_ranks |= trusts_rank(op);
        };
        let mut graph = 0..0;
        let mut reader = Reader::new(bytes);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                // graph_def
                (2, Field::Bytes(range)) => {
                    each_operation(bytes, range.clone(), &mut each)?;
                    graph = range;
                }
                // signature_def: its entries are those of SignatureDefMap.signature_def
                (5, Field::Bytes(range)) => wire::put_bytes(&mut map, 1, &bytes[range]),
                // asset_file_def
                (6, Field::Bytes(range)) => assets.extend(asset(bytes, range)?),
                _ => {}
            }
        }
        let signature_def_map = Bytes::from(map);
        let Some(signatures) = signature_def::signatures(&signature_def_map) else {
            return Ok(None);
        };
        let graph = Graph::read(bytes, graph)?;
        let writing_signatures = writing_signatures(&graph, &signatures);
        let outputs = signatures.values().filter(|_| trusts_ranks).flat_map(|one| &one.outputs);
        let outputs: BTreeSet<&String> = outputs.map(|(_, info)| &info.name).collect();
        let pictures = outputs
            .into_iter()
            .map(|name| (name.clone(), Pictures::of(&graph, &signatures, name)))
            .filter(|(_, pictures)| !pictures.are_nothing())
            .collect();
        Ok(Some(Self {
            signatures,
            signature_def_map,
            has_variables,
            assets,
            is_bounded,
            may_wait: waits,
            trusts_ranks,
            pictures,
            writing_signatures,
        }))
    }

    /// Check that what the signatures read is restored by a session; `bytes` are those that this
    /// was read from.
    ///
    /// # Errors
    /// FAILED_PRECONDITION.
    pub fn check_restored(&self, bytes: &[u8]) -> Result<()> {
        let unrestored = unrestored_variables(bytes, &self.signatures).unwrap_or_default();
        let Some(first) = unrestored.first() else { return Ok(()) };
        Err(Status::failed_precondition(format!(
            "The SavedModel does not restore {} of its variables, such as {first}, when it is \
             served; export it again by model.export(path), instead of \
             tf.saved_model.save(model, path)",
            unrestored.len()
        )))
    }

    /// Check that the files which the graph needs beside it are there. The loader says OK to a model
    /// without its variables, or without assets that only requests read, and those fail.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn check_files(&self, directory: &Path) -> Result<()> {
        let missing = |what: &str, file: &str| {
            Err(Status::not_found(format!(
                "The SavedModel has {what}, but no file {file}; the copy may be incomplete"
            )))
        };
        let index = "variables/variables.index";
        if self.has_variables && !directory.join(index).is_file() {
            return missing("variables", index);
        }
        let assets = directory.join("assets");
        match self.assets.iter().find(|name| !assets.join(name).exists()) {
            Some(name) => missing("assets", &format!("assets/{name}")),
            None => Ok(()),
        }
    }
}

/// Operations whose values a checkpoint holds.
const VARIABLES: [&[u8]; 4] = [b"VarHandleOp", b"VariableV2", b"Variable", b"AutoReloadVariable"];

/// Whether an operation may repeat others, wait for something, or make more elements than it
/// gets. Names are matched in part, so that all variants count; one too many only costs speed.
fn may_take_long(op: &[u8]) -> bool {
    const REPEATS: [&[u8]; 6] = [b"While", b"Iteration", b"Loop", b"Map", b"Scan", b"Xla"];
    const GROWS: [&[u8]; 9] = [
        b"Range",
        b"Fill",
        b"Tile",
        b"BroadcastTo",
        b"OneHot",
        b"Repeat",
        b"Decode",
        b"LinSpace",
        b"ToDense",
    ];
    op == b"For" || contains_any(op, &REPEATS) || contains_any(op, &GROWS) || may_wait(op)
}

/// Whether an operation's kernels may end the process over an input of another rank: what works on
/// pictures does so in TensorFlow 2.21 with oneDNN (failed checks, as that in `tensor_format.h`).
/// Names are matched in part; one too many only refuses what would fail.
fn trusts_rank(op: &[u8]) -> bool {
    const PICTURES: [&[u8]; 4] = [b"Conv", b"Pool", b"BatchNorm", b"LRN"];
    contains_any(op, &PICTURES)
}

/// Whether an operation may wait for what another one does; names are matched in part here, too.
fn may_wait(op: &[u8]) -> bool {
    const WAITS: [&[u8]; 12] = [
        b"PyFunc",
        b"Queue",
        b"Barrier",
        b"Stage",
        b"Recv",
        b"Send",
        b"Collective",
        b"Iterator",
        b"Dataset",
        b"Remote",
        b"ReadFile",
        b"Mutex",
    ];
    contains_any(op, &WAITS)
}

fn contains_any(op: &[u8], parts: &[&[u8]]) -> bool {
    parts.iter().any(|part| memchr::memmem::find(op, part).is_some())
}

/// Whether the graphs of the SavedModel in `directory` can be initialised by one thread: nothing in
/// them waits for something else. False also when that is not plain to see.
pub fn one_thread_loads(directory: &Path) -> bool {
    let path = directory.join("saved_model.pb");
    // What is larger holds its values itself and has little to restore.
    let is_small = path.metadata().is_ok_and(|file| file.len() <= 64 << 20);
    is_small && std::fs::read(path).is_ok_and(|bytes| none_waits(&bytes).unwrap_or(false))
}

/// Read bytes as either of the two messages here.
#[cfg(any(test, feature = "fuzzing"))]
pub fn try_bytes(input: &[u8]) {
    let _ = MetaGraph::read(input).is_ok();
    let _ = none_waits(input).is_ok();
}

fn none_waits(saved_model: &[u8]) -> std::result::Result<bool, Malformed> {
    let mut none_waits = true;
    let mut reader = Reader::new(saved_model);
    while let Some((number, field)) = reader.next()? {
        // meta_graphs
        let (2, Field::Bytes(range)) = (number, field) else { continue };
        let mut meta_graph = Reader::within(saved_model, range);
        while let Some((number, field)) = meta_graph.next()? {
            // graph_def
            let (2, Field::Bytes(range)) = (number, field) else { continue };
            each_operation(saved_model, range, &mut |op| none_waits &= !may_wait(op))?;
        }
    }
    Ok(none_waits)
}

/// Call `each` with the name of every operation of the `GraphDef` at `range`, those in the bodies
/// of its functions among them.
fn each_operation(
    bytes: &[u8],
    range: Range<usize>,
    each: &mut impl FnMut(&[u8]),
) -> std::result::Result<(), Malformed> {
    let mut graph = Reader::within(bytes, range);
    while let Some((number, field)) = graph.next()? {
        match (number, field) {
            // node
            (1, Field::Bytes(range)) => operation(bytes, range, each)?,
            // library
            (2, Field::Bytes(range)) => {
                let mut library = Reader::within(bytes, range);
                while let Some((number, field)) = library.next()? {
                    let (1, Field::Bytes(range)) = (number, field) else { continue };
                    let mut function = Reader::within(bytes, range);
                    while let Some((number, field)) = function.next()? {
                        // node_def
                        if let (3, Field::Bytes(range)) = (number, field) {
                            operation(bytes, range, each)?;
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The file name in the `AssetFileDef` at `range`.
fn asset(bytes: &[u8], range: Range<usize>) -> std::result::Result<Option<String>, Malformed> {
    let mut definition = Reader::within(bytes, range);
    let mut name = None;
    while let Some((number, field)) = definition.next()? {
        if let (2, Field::Bytes(range)) = (number, field) {
            name = Some(String::from_utf8_lossy(&bytes[range]).into_owned());
        }
    }
    Ok(name)
}

/// Call `each` with the operation of the `NodeDef` at `range`.
fn operation(
    bytes: &[u8],
    range: Range<usize>,
    each: &mut impl FnMut(&[u8]),
) -> std::result::Result<(), Malformed> {
    let mut node = Reader::within(bytes, range);
    while let Some((number, field)) = node.next()? {
        if let (2, Field::Bytes(op)) = (number, field) {
            each(&bytes[op]);
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use prost::Message;

    #[test]
    fn signatures_and_the_nature_of_the_graph_are_read_from_a_meta_graph() {
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
        for (op, in_function, has_variables, is_bounded, may_wait, trusts_ranks) in [
            ("Add", "Mul", false, true, false, false),
            ("VarHandleOp", "Add", true, true, false, false),
            ("VariableV2", "Add", true, true, false, false),
            ("StatelessWhile", "Add", false, false, false, false),
            ("Add", "EagerPyFunc", false, false, true, false),
            ("Stage", "Add", false, false, true, false),
            ("Fill", "Add", false, false, false, false),
            ("Conv2D", "Add", false, true, false, true),
            ("Add", "_FusedDepthwiseConv2dNative", false, true, false, true),
        ] {
            let function =
                pb::FunctionDef { node_def: vec![node(in_function)], ..Default::default() };
            let library = pb::FunctionDefLibrary { function: vec![function], ..Default::default() };
            let graph =
                pb::GraphDef { node: vec![node(op)], library: Some(library), ..Default::default() };
            let meta_graph = pb::MetaGraphDef {
                graph_def: Some(graph),
                signature_def: [("serving_default".to_owned(), def.clone())].into(),
                ..Default::default()
            };

            let read = MetaGraph::read(&meta_graph.encode_to_vec()).unwrap();

            assert_eq!(read.has_variables, has_variables, "{op} {in_function}");
            assert_eq!(read.is_bounded, is_bounded, "{op} {in_function}");
            assert_eq!(read.may_wait, may_wait, "{op} {in_function}");
            assert_eq!(read.trusts_ranks, trusts_ranks, "{op} {in_function}");
            assert_eq!(read.signatures["serving_default"].inputs["x"].name, "x:0");
        }
        assert!(MetaGraph::read(b"\x0a\xff").is_err());
    }

    #[test]
    fn what_the_graph_needs_beside_it_has_to_be_there() {
        let directory = std::env::temp_dir().join(format!("needs-{}", std::process::id()));
        let write = |name: &str| {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        let asset =
            |name: &str| pb::AssetFileDef { filename: name.to_owned(), ..Default::default() };
        let meta_graph = pb::MetaGraphDef {
            graph_def: Some(pb::GraphDef {
                node: vec![pb::NodeDef { op: "VarHandleOp".to_owned(), ..Default::default() }],
                ..Default::default()
            }),
            asset_file_def: vec![asset("words.txt"), asset("more.txt")],
            ..Default::default()
        };
        let read = MetaGraph::read(&meta_graph.encode_to_vec()).unwrap();

        for file in ["variables/variables.index", "assets/words.txt", "assets/more.txt"] {
            let error = read.check_files(&directory).unwrap_err().to_string();
            assert!(error.contains(&format!("but no file {file}; the copy may be")), "{error}");
            write(file);
        }
        assert!(read.check_files(&directory).is_ok());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn one_thread_loads_what_has_nothing_that_waits() {
        let meta_graph = |op: &str| pb::MetaGraphDef {
            graph_def: Some(pb::GraphDef {
                node: vec![pb::NodeDef { op: op.to_owned(), ..Default::default() }],
                ..Default::default()
            }),
            ..Default::default()
        };
        for (ops, expected) in [
            (&[][..], true),
            (&["RestoreV2", "While"], true),
            (&["Add", "QueueDequeueV2"], false),
            (&["EagerPyFunc"], false),
        ] {
            let saved_model = pb::SavedModel {
                meta_graphs: ops.iter().copied().map(meta_graph).collect(),
                ..Default::default()
            };
            assert_eq!(none_waits(&saved_model.encode_to_vec()).ok(), Some(expected), "{ops:?}");
        }
        assert!(none_waits(b"\x12\xff").is_err());
        assert!(!one_thread_loads(Path::new("there is none")));
    }
}
