//! Servables made of others: parts that are asked one after another, and tables in shards.
//!
//! A composite holds no part. Each run finds the versions of all its parts in one snapshot, and
//! holds them until it is done; so a part gets new versions as any model does, and no run sees two
//! versions of one. `platforms/composite.py` reads the file that says what the parts are, and
//! checks that each uses only what stands before it.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde::Deserialize;

use crate::app::App;
use crate::compute::Compute;
use crate::servable::aliases::{declared_shape, fits, gather, Aliases, Call};
use crate::servable::{RunOptions, Servable, Signature, Signatures};
use crate::serving_map::{ModelSpec, ServableHandle, VersionChoice};
use crate::status::{Result, Status};
use crate::tensor::{shape_text, Buffer, DType, Data, StringArray, Strings, Tensor};

/// Runs at a time: they mostly wait for parts, which have threads of their own.
const THREADS: usize = 16;
const MAX_WAITING: usize = 1000;
/// How deep composites may contain each other; one that contains itself goes deeper.
const MAX_DEPTH: usize = 8;

/// What a composite is made of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub parts: Vec<Part>,
    /// Alias of an output to where it comes from.
    pub outputs: BTreeMap<String, String>,
}

/// One step: a model that is asked, or the shards of one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub name: String,
    /// One model; several are shards.
    pub models: Vec<String>,
    pub version: Option<i64>,
    pub label: Option<String>,
    pub signature_name: String,
    /// Alias of the part's input to where it comes from: an input of the composite, or `PART.ALIAS`.
    pub inputs: BTreeMap<String, String>,
    /// The part's outputs that are used later.
    pub outputs: Vec<String>,
    /// The input whose elements say which shard a row is in.
    pub route_by: Option<String>,
}

impl Part {
    fn spec(&self, model: &str) -> ModelSpec {
        let version = match (&self.version, &self.label) {
            (Some(version), _) => VersionChoice::Version(*version),
            (None, Some(label)) => VersionChoice::Label(label.clone()),
            (None, None) => VersionChoice::Latest,
        };
        ModelSpec { name: model.to_owned(), version, signature_name: self.signature_name.clone() }
    }

    fn failed(&self, status: &Status) -> Status {
        Status::new(status.code, format!("Part {}: {}", self.name, status.message))
    }
}

/// A servable that asks others.
pub struct Composite {
    app: Weak<App>,
    recipe: Recipe,
    aliases: Aliases,
    compute: Compute,
}

impl Composite {
    /// # Errors
    /// INVALID_ARGUMENT when the recipe is not one, or the bytes are no `SignatureDefMap`.
    pub fn new(app: &Arc<App>, recipe: &str, signature_def_map: Bytes) -> Result<Self> {
        let recipe: Recipe = serde_json::from_str(recipe)
            .map_err(|error| Status::invalid_argument(format!("The recipe is none: {error}")))?;
        Ok(Self {
            app: Arc::downgrade(app),
            recipe,
            aliases: Aliases::new(signature_def_map)?,
            compute: Compute::bounded(THREADS, MAX_WAITING),
        })
    }

    /// The versions of all parts, from one snapshot.
    fn resolve(&self) -> Result<Vec<Vec<Arc<ServableHandle>>>> {
        let app = self.app.upgrade();
        let app = app.ok_or_else(|| Status::unavailable("The server is stopping"))?;
        let snapshot = app.map.snapshot();
        let of_part = |part: &Part| {
            let handles = part.models.iter().map(|model| snapshot.resolve(&part.spec(model)));
            handles.collect::<Result<Vec<_>>>().map_err(|status| {
                // Whoever asked the composite has asked for something that there is.
                part.failed(&Status::unavailable(status.message))
            })
        };
        self.recipe.parts.iter().map(of_part).collect()
    }

    fn answer(&self, call: &Call, options: RunOptions) -> Result<HashMap<String, Arc<Tensor>>> {
        let handles = self.resolve()?;
        let mut tensors: HashMap<String, Arc<Tensor>> = HashMap::new();
        for (alias, tensor) in &call.inputs {
            tensors.insert((*alias).to_owned(), Arc::new(tensor.try_copied()?));
        }
        for (part, handles) in self.recipe.parts.iter().zip(&handles) {
            let mut inputs = BTreeMap::new();
            for (alias, source) in &part.inputs {
                let tensor = tensors.get(source).ok_or_else(|| missing(part, source))?;
                inputs.insert(alias.as_str(), tensor.clone());
            }
            let outputs = match (&part.route_by, handles.as_slice()) {
                (Some(route_by), shards) => ask_shards(part, shards, route_by, &inputs, options),
                (None, [handle]) => ask(part, handle, &inputs, options),
                (None, _) => Err(Status::internal("has several models and no route")),
            };
            let outputs = outputs.map_err(|status| part.failed(&status))?;
            for (alias, tensor) in part.outputs.iter().zip(outputs) {
                tensors.insert(format!("{}.{alias}", part.name), Arc::new(tensor));
            }
        }
        Ok(tensors)
    }

    fn output(
        &self,
        signature: &Signature,
        alias: &str,
        tensors: &HashMap<String, Arc<Tensor>>,
    ) -> Result<Tensor> {
        let source = self.recipe.outputs.get(alias);
        let tensor = source.and_then(|source| tensors.get(source));
        let tensor =
            tensor.ok_or_else(|| Status::internal(format!("Output {alias} is not made")))?;
        if let Some(info) = signature.outputs.get(alias) {
            if DType::from_number(info.dtype) != Some(tensor.dtype()) || !fits(info, tensor.shape())
            {
                return Err(Status::internal(format!(
                    "Output {alias} is {}{} from {}; the composite declares {}{}",
                    tensor.dtype().short_name(),
                    shape_text(tensor.shape()),
                    source.map_or("", String::as_str),
                    DType::from_number(info.dtype).map_or("no type", DType::short_name),
                    declared_shape(info)
                )));
            }
        }
        Ok(shared(tensor))
    }
}

impl Servable for Composite {
    fn signatures(&self) -> &Signatures {
        self.aliases.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.aliases.signature_def_map()
    }

    fn compute(&self) -> Option<&Compute> {
        Some(&self.compute)
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let _depth = Depth::enter()?;
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for call in self.aliases.calls(&feeds, fetches)? {
            let signature = &self.aliases.signatures()[call.signature_name];
            let tensors = self.answer(&call, options)?;
            for (at, alias) in &call.outputs {
                results[*at] = Some(self.output(signature, alias, &tensors)?);
            }
        }
        gather(results)
    }
}

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One composite more on this thread.
struct Depth;

impl Depth {
    fn enter() -> Result<Self> {
        DEPTH.with(|depth| {
            if depth.get() >= MAX_DEPTH {
                return Err(Status::failed_precondition(format!(
                    "composites contain each other more than {MAX_DEPTH} deep; one of them may \
                     contain itself"
                )));
            }
            depth.set(depth.get() + 1);
            Ok(Self)
        })
    }

    fn current() -> usize {
        DEPTH.with(Cell::get)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

type Inputs<'i> = BTreeMap<&'i str, Arc<Tensor>>;

/// The outputs of a part, in the order in which it names them.
fn ask(
    part: &Part,
    handle: &ServableHandle,
    inputs: &Inputs,
    options: RunOptions,
) -> Result<Vec<Tensor>> {
    let signature = handle.servable.signatures().get(&part.signature_name).ok_or_else(|| {
        Status::failed_precondition(format!(
            "Serving signature key \"{}\" not found.",
            part.signature_name
        ))
    })?;
    let mut feeds = Vec::with_capacity(inputs.len());
    for (alias, tensor) in inputs {
        let info = signature.inputs.get(*alias).ok_or_else(|| {
            Status::failed_precondition(format!("model {} has no input {alias}", handle.name))
        })?;
        feeds.push((info.name.clone(), shared(tensor)));
    }
    let missing = signature.inputs.keys().find(|alias| {
        !inputs.contains_key(alias.as_str()) && !signature.defaults.contains_key(*alias)
    });
    if let Some(missing) = missing {
        return Err(Status::failed_precondition(format!(
            "model {} needs an input {missing}",
            handle.name
        )));
    }
    let mut fetches = Vec::with_capacity(part.outputs.len());
    for alias in &part.outputs {
        let info = signature.outputs.get(alias).ok_or_else(|| {
            Status::failed_precondition(format!("model {} has no output {alias}", handle.name))
        })?;
        fetches.push(info.name.clone());
    }
    handle.servable.run(feeds, &fetches, options)
}

/// Ask each shard for the rows that are in it, and put the answers into the order of the request.
fn ask_shards(
    part: &Part,
    shards: &[Arc<ServableHandle>],
    route_by: &str,
    inputs: &Inputs,
    options: RunOptions,
) -> Result<Vec<Tensor>> {
    let keys = inputs.get(route_by);
    let keys = keys.ok_or_else(|| Status::internal(format!("has no input {route_by}")))?;
    let [count] = *keys.shape() else {
        return Err(Status::invalid_argument(format!(
            "rows are routed by a vector, and {route_by} has shape {}",
            shape_text(keys.shape())
        )));
    };
    for (alias, tensor) in inputs {
        if tensor.shape().first() != Some(&count) {
            return Err(Status::invalid_argument(format!(
                "{alias} has shape {} beside {count} rows of {route_by}",
                shape_text(tensor.shape())
            )));
        }
    }
    let mut rows: Vec<Vec<usize>> = shards.iter().map(|_| Vec::new()).collect();
    for row in 0..keys.num_elements() {
        rows[shard_of(element(keys, row), shards.len())].push(row);
    }
    // Without a row the first one still says what the outputs look like.
    let asked: Vec<usize> = match count {
        0 => vec![0],
        _ => (0..shards.len()).filter(|&shard| !rows[shard].is_empty()).collect(),
    };
    let depth = Depth::current();
    let ask_one = |shard: usize| {
        let inputs = inputs
            .iter()
            .map(|(alias, tensor)| Ok((*alias, Arc::new(take(tensor, &rows[shard])?))));
        let outputs = inputs
            .collect::<Result<Inputs>>()
            .and_then(|inputs| ask(part, &shards[shard], &inputs, options));
        outputs.map_err(|status| {
            Status::new(status.code, format!("shard {}: {}", shards[shard].name, status.message))
        })
    };
    let answers: Vec<Result<Vec<Tensor>>> = match asked.as_slice() {
        [only] => vec![ask_one(*only)],
        asked => std::thread::scope(|scope| {
            let threads: Vec<_> = asked
                .iter()
                .map(|&shard| {
                    let ask_one = &ask_one;
                    scope.spawn(move || {
                        DEPTH.with(|own| own.set(depth));
                        ask_one(shard)
                    })
                })
                .collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|done| done.unwrap_or_else(|_| Err(Status::internal("panicked")))).collect()
        }),
    };
    let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
    let order: Vec<&[usize]> = asked.iter().map(|&shard| rows[shard].as_slice()).collect();
    (0..part.outputs.len())
        .map(|at| {
            let pieces: Vec<&Tensor> = answers.iter().map(|outputs| &outputs[at]).collect();
            let merged = merge(&pieces, &order, keys.num_elements())?;
            merged.ok_or_else(|| Status::internal(format!("shards differ in {}", part.outputs[at])))
        })
        .collect()
}

/// The shard of a key: the remainder of the CRC-32 of its bytes, as `zlib.crc32` has it.
fn shard_of(key: &[u8], shards: usize) -> usize {
    let mut crc = flate2::Crc::new();
    crc.update(key);
    crc.sum() as usize % shards
}

fn element(tensor: &Tensor, at: usize) -> &[u8] {
    match tensor.data() {
        Data::Strings(strings) => strings.get(at),
        Data::Dense(buffer) => {
            let size = tensor.dtype().size().unwrap_or_default();
            &buffer.as_slice()[at * size..(at + 1) * size]
        }
    }
}

/// Some rows of a tensor.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for them.
fn take(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let width = tensor.num_elements() / (shape[0].max(1) as usize);
    shape[0] = rows.len() as i64;
    match tensor.data() {
        Data::Strings(strings) => {
            let taken = rows.iter().flat_map(|row| row * width..(row + 1) * width);
            let taken = Strings::try_copies(taken.map(|at| strings.get(at)))?;
            Ok(Tensor::strings(shape, taken))
        }
        Data::Dense(buffer) => {
            let bytes = width * tensor.dtype().size().unwrap_or_default();
            let mut taken = Buffer::try_zeroed(rows.len() * bytes)?;
            if bytes > 0 {
                let targets = taken.as_mut_slice().chunks_exact_mut(bytes);
                for (target, row) in targets.zip(rows) {
                    target.copy_from_slice(&buffer.as_slice()[row * bytes..(row + 1) * bytes]);
                }
            }
            Ok(Tensor::dense(tensor.dtype(), shape, taken))
        }
    }
}

/// Rows of several tensors in the order that `rows` gives them; `None` when they do not go
/// together.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for them.
fn merge(pieces: &[&Tensor], rows: &[&[usize]], count: usize) -> Result<Option<Tensor>> {
    let Some(first) = pieces.first() else { return Ok(None) };
    let Some(row_shape) = first.shape().get(1..) else { return Ok(None) };
    let fit = pieces.iter().zip(rows).all(|(piece, rows)| {
        piece.dtype() == first.dtype()
            && piece.shape().get(1..) == Some(row_shape)
            && piece.shape()[0] == rows.len() as i64
    });
    if !fit {
        return Ok(None);
    }
    let mut places = vec![(0, 0); count];
    for (piece, rows) in rows.iter().enumerate() {
        for (at, row) in rows.iter().enumerate() {
            places[*row] = (piece, at);
        }
    }
    let shape = [&[count as i64], row_shape].concat();
    let Some(width) = crate::tensor::num_elements(row_shape) else { return Ok(None) };
    let Some(size) = first.dtype().size() else {
        let merged = places.iter().flat_map(|&(piece, row)| {
            let strings = pieces[piece].as_strings();
            (row * width..(row + 1) * width).filter_map(move |at| Some(strings?.get(at)))
        });
        return Ok(Some(Tensor::strings(shape, Strings::try_copies(merged)?)));
    };
    let bytes = width * size;
    let mut merged = Buffer::try_zeroed(count * bytes)?;
    if bytes > 0 {
        let targets = merged.as_mut_slice().chunks_exact_mut(bytes);
        for (target, (piece, row)) in targets.zip(places) {
            let Some(source) = pieces[piece].buffer() else { return Ok(None) };
            let source = source.as_slice();
            target.copy_from_slice(&source[row * bytes..(row + 1) * bytes]);
        }
    }
    Ok(Some(Tensor::dense(first.dtype(), shape, merged)))
}

fn missing(part: &Part, source: &str) -> Status {
    Status::internal(format!("Part {}: nothing gives {source}", part.name))
}

/// A tensor of the same elements, which live as long as either.
fn shared(tensor: &Arc<Tensor>) -> Tensor {
    let shape = tensor.shape().to_vec();
    match tensor.data() {
        Data::Dense(buffer) => {
            let bytes = buffer.as_slice();
            let owner = Box::new(tensor.clone());
            // SAFETY: the owner keeps the buffer, which nobody writes to behind an `Arc`.
            let buffer = unsafe { Buffer::foreign(bytes.as_ptr(), bytes.len(), owner) };
            Tensor::dense(tensor.dtype(), shape, buffer)
        }
        Data::Strings(_) => {
            Tensor::strings(shape, Strings::Foreign(Box::new(SharedStrings(tensor.clone()))))
        }
    }
}

struct SharedStrings(Arc<Tensor>);

impl StringArray for SharedStrings {
    fn len(&self) -> usize {
        self.0.as_strings().map_or(0, Strings::len)
    }

    fn get(&self, index: usize) -> &[u8] {
        self.0.as_strings().map_or(&[], |strings| strings.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int32s(shape: &[i64], values: &[u32]) -> Tensor {
        let mut buffer = Buffer::zeroed(size_of_val(values));
        buffer.elements_mut().copy_from_slice(values);
        Tensor::dense(DType::Int32, shape.to_vec(), buffer)
    }

    fn strings(values: &[&str]) -> Tensor {
        Tensor::strings(vec![values.len() as i64], values.iter().collect())
    }

    #[test]
    fn rows_that_were_taken_apart_come_together_again() {
        let whole = int32s(&[4, 2], &[0, 1, 10, 11, 20, 21, 30, 31]);
        let rows = [vec![3, 0], vec![1, 2]];
        let pieces = rows.each_ref().map(|rows| take(&whole, rows).unwrap());
        assert_eq!(pieces[0].buffer().unwrap().elements::<u32>(), [30, 31, 0, 1]);

        let order = rows.each_ref().map(Vec::as_slice);
        let merged = merge(&pieces.each_ref(), &order, 4).unwrap().unwrap();

        assert_eq!(merged.shape(), [4, 2]);
        assert_eq!(merged.buffer().unwrap().as_slice(), whole.buffer().unwrap().as_slice());
    }

    #[test]
    fn texts_that_were_taken_apart_come_together_again() {
        let whole = strings(&["a", "b", "c"]);
        let rows = [vec![2], vec![0, 1]];
        let pieces = rows.each_ref().map(|rows| take(&whole, rows).unwrap());

        let order = rows.each_ref().map(Vec::as_slice);
        let merged = merge(&pieces.each_ref(), &order, 3).unwrap().unwrap();

        let texts: Vec<_> = merged.as_strings().unwrap().iter().collect();
        assert_eq!(texts, [b"a", b"b", b"c"]);
    }

    #[test]
    fn pieces_that_differ_do_not_go_together() {
        let one = int32s(&[1, 2], &[0, 1]);
        for other in [int32s(&[1, 1], &[0]), int32s(&[2, 2], &[0; 4]), strings(&["a"])] {
            let merged = merge(&[&one, &other], &[&[0], &[1]], 2).unwrap();
            assert!(merged.is_none(), "{other:?}");
        }
    }

    #[test]
    fn rows_there_is_no_memory_for_are_refused() {
        // Nobody touches it; so many of them are more than addresses there are.
        let wide = Tensor::dense(DType::UInt8, vec![1, 1 << 28], Buffer::zeroed(1 << 28));
        let count = 1 << 20;
        let no_memory = Status::no_memory(1 << 48);
        assert_eq!(take(&wide, &vec![0; count]).map(drop), Err(no_memory.clone()));

        let rows: Vec<usize> = (0..count).collect();
        let order: Vec<&[usize]> = rows.chunks(1).collect();
        assert_eq!(merge(&vec![&wide; count], &order, count).map(drop), Err(no_memory));
    }

    #[test]
    fn a_key_is_in_the_shard_that_anybody_can_compute() {
        // zlib.crc32(b"123456789") is the check value that every table of CRCs has.
        assert_eq!(shard_of(b"123456789", 1 << 31), 0x4BF4_3926);
    }

    #[test]
    fn shared_tensors_outlive_what_they_are_shared_of() {
        let tensors = [Arc::new(int32s(&[1], &[7])), Arc::new(strings(&["x"]))];
        let [number, text] = tensors.each_ref().map(shared);
        drop(tensors);

        assert_eq!(number.buffer().unwrap().elements::<u32>(), [7]);
        assert_eq!(text.as_strings().unwrap().get(0), b"x");
    }

    #[test]
    fn composites_nest_to_a_bound() {
        let held: Vec<_> = (0..MAX_DEPTH).map(|_| Depth::enter().unwrap()).collect();
        assert!(Depth::enter().is_err());
        drop(held);
        assert!(Depth::enter().is_ok());
    }
}
