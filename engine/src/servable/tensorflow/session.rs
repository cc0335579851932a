//! A loaded SavedModel: the session, how its runs are made, and how it ends.

use std::ffi::{c_char, c_void, CStr, CString};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use super::api::{
    c_string, Library, TfBuffer, TfGraph, TfOperation, TfOutput, TfSession, TfTensor,
};
use super::pictures::{self, Pictures};
use super::saved_model::{self, MetaGraph};
use super::shared_threads::SHARED_THREADS;
use super::startup;
use super::tensor::Owned;
use super::widths::Widths;
use crate::servable::cost::{Cost, Stopwatch};
use crate::servable::{RunOptions, Servable, SessionRun, Signatures, DEFAULT_SIGNATURE};
use crate::status::{Result, Status};
use crate::tensor::{Buffer, DType, Shape, Tensor};
use crate::wire::{self, Field, Reader};

/// How to open a SavedModel.
pub struct LoadOptions {
    pub tags: Vec<String>,
    /// Serialized `tensorflow.ConfigProto`.
    pub session_config: Vec<u8>,
    /// Whether graphs that gain nothing from it stay off the runtime's inter-op threads.
    pub inter_op_in_caller: bool,
    /// The runtime that sessions are made in, empty for this process.
    pub session_target: String,
    /// Serialized `tensorflow.RunOptions` of what is run to load the model.
    pub load_run_options: Vec<u8>,
    /// Whether to refuse a model that reads variables which a session does not restore.
    pub refuses_unrestored: bool,
}

/// What is larger holds its weights in the graph itself, of which a session that is ready has two
/// copies more. That is left to those models that are asked.
const MAX_PREPARED_BYTES: usize = 32 << 20;

/// A SavedModel opened by the C API.
pub struct SavedModel {
    library: &'static Library,
    session: *mut TfSession,
    graph: *mut TfGraph,
    meta_graph: MetaGraph,
    inter_op_in_caller: bool,
    /// How many threads it shares with the other sessions.
    inter_op_threads: usize,
    plans: RwLock<HashMap<PlanKey, Arc<Plan>>>,
}

// SAFETY: sessions and graphs of the C API may be used from several threads at once.
unsafe impl Send for SavedModel {}
// SAFETY: as above.
unsafe impl Sync for SavedModel {}

/// Open the SavedModel in `directory`. Blocks for as long as the model takes to load.
///
/// # Errors
/// The runtime's own, or NOT_FOUND when the files of its variables are missing.
pub fn load_saved_model(
    library: &'static Library,
    directory: &Path,
    options: &LoadOptions,
) -> Result<SavedModel> {
    let path = directory.to_str().and_then(c_string);
    let path = path.ok_or_else(|| Status::invalid_argument("The model's path is not UTF-8"))?;
    let tags: Option<Vec<CString>> = options.tags.iter().map(|tag| c_string(tag)).collect();
    let tags = tags.ok_or_else(|| Status::invalid_argument("A tag has a NUL in it"))?;
    let tag_pointers: Vec<*const c_char> = tags.iter().map(|tag| tag.as_ptr()).collect();
    let tag_count = i32::try_from(tags.len()).expect("tags are few");
    let config = &options.session_config;
    let target = c_string(&options.session_target)
        .ok_or_else(|| Status::invalid_argument("The session target has a NUL in it"))?;
    let mut meta_graph = TfBuffer { data: ptr::null(), length: 0, deallocator: None };
    let inter_op_threads = inter_op_threads(config);
    // Restored by the calling thread, which may be one of low priority, and not by those that the
    // runs of other models need, or that are held by runs which do not end.
    let stays_here = options.inter_op_in_caller
        && (saved_model::one_thread_loads(directory)
            || SHARED_THREADS.are_lost(inter_op_threads, Instant::now));
    let mut run_options = options.load_run_options.clone();
    if stays_here && run_options.is_empty() {
        put_calling_thread(&mut run_options);
    }
    let run_options = TfBuffer {
        data: run_options.as_ptr().cast(),
        length: run_options.len(),
        deallocator: None,
    };
    // SAFETY: every pointer is valid for the calls it is passed to, and what is made is either
    // owned by the value returned or deleted here.
    unsafe {
        let session_options = (library.new_session_options)();
        let configured = library.checked(|status| {
            (library.set_config)(session_options, config.as_ptr().cast(), config.len(), status);
        });
        (library.set_target)(session_options, target.as_ptr());
        let graph = (library.new_graph)();
        let session = configured.and_then(|()| {
            library.checked(|status| {
                (library.load_session_from_saved_model)(
                    session_options,
                    &raw const run_options,
                    path.as_ptr(),
                    tag_pointers.as_ptr(),
                    tag_count,
                    graph,
                    &raw mut meta_graph,
                    status,
                )
            })
        });
        (library.delete_session_options)(session_options);
        let session = match session {
            Ok(session) => session,
            Err(status) => {
                (library.delete_graph)(graph);
                return Err(status);
            }
        };
        // From here on the value owns session and graph, and closes them when it is dropped.
        let mut model = SavedModel {
            library,
            session,
            graph,
            meta_graph: MetaGraph::default(),
            inter_op_in_caller: options.inter_op_in_caller,
            inter_op_threads,
            plans: RwLock::default(),
        };
        let bytes = std::slice::from_raw_parts(meta_graph.data.cast::<u8>(), meta_graph.length);
        let read = MetaGraph::read(bytes).and_then(|read| {
            if options.refuses_unrestored {
                read.check_restored(bytes)?;
            }
            Ok(read)
        });
        if let Some(free) = meta_graph.deallocator {
            free(meta_graph.data.cast_mut(), meta_graph.length);
        }
        model.meta_graph = read?;
        model.meta_graph.check_files(directory)?;
        // Elsewhere than in this process, sessions may begin to run what they refuse.
        let is_here = options.session_target.is_empty();
        if is_here && meta_graph.length <= MAX_PREPARED_BYTES {
            model.prepare();
        }
        startup::forget_code(library.version as usize);
        Ok(model)
    }
}

impl Drop for SavedModel {
    fn drop(&mut self) {
        // SAFETY: nobody else holds them; closing first ends what may still run in the background.
        unsafe {
            let closed = self.library.checked(|status| {
                (self.library.close_session)(self.session, status);
            });
            let deleted = self.library.checked(|status| {
                (self.library.delete_session)(self.session, status);
            });
            // Nothing is left to be done about a session that does not close cleanly.
            drop((closed, deleted));
            (self.library.delete_graph)(self.graph);
        }
    }
}

impl Servable for SavedModel {
    fn signatures(&self) -> &Signatures {
        &self.meta_graph.signatures
    }

    fn signature_def_map(&self) -> &Bytes {
        &self.meta_graph.signature_def_map
    }

    fn is_batchable(&self, signature_name: &str) -> bool {
        !self.meta_graph.writing_signatures.contains(signature_name)
    }

    fn may_keep_feeds(&self, signature_name: &str) -> bool {
        self.meta_graph.may_wait || !self.is_batchable(signature_name)
    }

    fn waits_for_nothing(&self) -> bool {
        !self.meta_graph.may_wait
    }

    fn is_bounded(&self) -> bool {
        self.inter_op_in_caller && self.meta_graph.is_bounded
    }

    fn is_quick(&self, feeds: &[(String, Tensor)], fetches: &[String]) -> bool {
        if !self.is_bounded() {
            return false;
        }
        let bytes: usize = feeds.iter().map(|(_, tensor)| tensor.byte_size()).sum();
        if bytes > Cost::SMALL {
            return false;
        }
        let plans = self.plans.read();
        plans.get(&Names { feeds, fetches }).is_some_and(|plan| plan.cost.is_quick())
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        if fetches.is_empty() {
            return Err(Status::invalid_argument(
                "Must specify at least one target to fetch or execute.",
            ));
        }
        let plan = self.plan(&feeds, fetches)?;
        plan.check(&feeds)?;
        let inputs: Vec<Owned> = feeds
            .into_iter()
            .map(|(_, tensor)| Owned::lend(self.library, tensor))
            .collect::<Result<_>>()?;
        let watch = Stopwatch::start(plan.cost.is_quick());
        let outputs = self.run_plan(&plan, &inputs, options);
        drop(inputs);
        let outputs = outputs?;
        plan.cost.record(watch.took());
        outputs.into_iter().map(Owned::into_tensor).collect()
    }

    fn run_session(&self, run: SessionRun) -> Result<(Vec<Tensor>, Vec<u8>)> {
        let library = self.library;
        let plan = self.plan(&run.feeds, &run.fetches)?;
        plan.check(&run.feeds)?;
        let (feeds, fetches) = (&plan.feeds, &plan.fetches);
        let targets =
            run.targets.iter().map(|name| self.target(name)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<Owned> = run
            .feeds
            .into_iter()
            .map(|(_, tensor)| Owned::lend(library, tensor))
            .collect::<Result<_>>()?;
        let pointers: Vec<*mut TfTensor> = inputs.iter().map(Owned::as_ptr).collect();
        let mut outputs: Vec<*mut TfTensor> = vec![ptr::null_mut(); fetches.len()];
        let options = TfBuffer {
            data: run.options.as_ptr().cast::<c_void>(),
            length: run.options.len(),
            deallocator: None,
        };
        let mut metadata = TfBuffer { data: ptr::null(), length: 0, deallocator: None };
        let count = |len: usize| {
            i32::try_from(len).map_err(|_| Status::invalid_argument("Too many tensors"))
        };
        let counts = (count(pointers.len())?, count(fetches.len())?, count(targets.len())?);
        let result = library.checked(|status| {
            // SAFETY: as in `run_plan`; the metadata is a buffer of ours without data.
            unsafe {
                (library.session_run)(
                    self.session,
                    &raw const options,
                    feeds.as_ptr(),
                    pointers.as_ptr(),
                    counts.0,
                    fetches.as_ptr(),
                    outputs.as_mut_ptr(),
                    counts.1,
                    targets.as_ptr(),
                    counts.2,
                    &raw mut metadata,
                    status,
                );
            }
        });
        let outputs: Vec<Owned> = outputs
            .into_iter()
            .filter(|output| !output.is_null())
            // SAFETY: made by the run for its caller.
            .map(|output| unsafe { Owned::take(library, output) })
            .collect();
        let mut bytes = Vec::new();
        if !metadata.data.is_null() {
            // SAFETY: the run filled the buffer in, and says how it is freed.
            unsafe {
                let data = metadata.data.cast::<u8>();
                bytes.extend_from_slice(std::slice::from_raw_parts(data, metadata.length));
                if let Some(free) = metadata.deallocator {
                    free(metadata.data.cast_mut(), metadata.length);
                }
            }
        }
        result?;
        if outputs.len() != fetches.len() {
            return Err(Status::internal("The session gave back fewer tensors than were fetched"));
        }
        let tensors = outputs.into_iter().map(Owned::into_tensor).collect::<Result<_>>()?;
        Ok((tensors, bytes))
    }
}

impl SavedModel {
    fn target(&self, name: &str) -> Result<*const TfOperation> {
        let operation_name = name.rsplit_once(':').map_or(name, |(operation, _)| operation);
        let operation = c_string(operation_name).map_or(ptr::null_mut(), |name| {
            // SAFETY: the graph lives as long as `self`.
            unsafe { (self.library.operation_by_name)(self.graph, name.as_ptr()) }
        });
        if operation.is_null() {
            let message = format!("Target {name} was not found in the Graph");
            return Err(Status::invalid_argument(message));
        }
        Ok(operation)
    }
}

/// Names of the feeds, and of the fetches.
struct PlanKey {
    feeds: Vec<String>,
    fetches: Vec<String>,
}

/// The same of a request, before anything is copied.
struct Names<'r> {
    feeds: &'r [(String, Tensor)],
    fetches: &'r [String],
}

fn hash_names<'n, H: Hasher>(
    feeds: impl ExactSizeIterator<Item = &'n String>,
    fetches: &[String],
    state: &mut H,
) {
    feeds.len().hash(state);
    feeds.for_each(|name| name.hash(state));
    fetches.hash(state);
}

impl Hash for PlanKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_names(self.feeds.iter(), &self.fetches, state);
    }
}

impl Hash for Names<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_names(self.feeds.iter().map(|(name, _)| name), self.fetches, state);
    }
}

impl PartialEq for PlanKey {
    fn eq(&self, other: &Self) -> bool {
        self.feeds == other.feeds && self.fetches == other.fetches
    }
}

impl Eq for PlanKey {}

impl Equivalent<PlanKey> for Names<'_> {
    fn equivalent(&self, key: &PlanKey) -> bool {
        self.feeds.iter().map(|(name, _)| name).eq(&key.feeds) && self.fetches == key.fetches
    }
}

/// Feeds and fetches, found in the graph.
struct Plan {
    feeds: Vec<TfOutput>,
    fetches: Vec<TfOutput>,
    /// What feeds have to look like, one for each, where others could end the process.
    declared: Vec<Declared>,
    /// What pictures have to be wide enough for.
    widths: Vec<Arc<Widths>>,
    cost: Cost,
}

impl Plan {
    /// Check what would end the process.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when something is no picture where one is wanted, or too narrow.
    fn check(&self, feeds: &[(String, Tensor)]) -> Result<()> {
        for (declared, (_, tensor)) in self.declared.iter().zip(feeds) {
            declared.check(tensor)?;
        }
        let fed = |name: &str| feeds.iter().position(|(feed, _)| is_tensor(feed, name));
        let shape = |name: &str| Some(feeds[fed(name)?].1.shape());
        let Some(found) = self.widths.iter().find_map(|widths| widths.too_narrow(shape)) else {
            return Ok(());
        };
        let (window, width) = (found.window, found.got);
        let alias = fed(found.input).map_or(found.input, |at| &self.declared[at].alias);
        Err(Status::invalid_argument(format!(
            "input {alias} is too narrow: the model pools {window} columns of it into one where \
             {width} would be left; got shape {:?}",
            shape(found.input).unwrap_or_default()
        )))
    }
}

/// An input by its signature.
struct Declared {
    alias: String,
    /// `None` when its rank is not known.
    shape: Option<Shape>,
    /// Whether it reaches a convolution as it is.
    is_picture: bool,
}

impl Declared {
    /// # Errors
    /// INVALID_ARGUMENT when `tensor` is no picture where one is wanted.
    fn check(&self, tensor: &Tensor) -> Result<()> {
        let got = tensor.shape();
        let Some(wanted) = self.wanted(got) else { return Ok(()) };
        Err(Status::invalid_argument(format!("input {} {wanted}; got shape {got:?}", self.alias)))
    }

    /// What a tensor of this shape is not.
    fn wanted(&self, got: &[i64]) -> Option<String> {
        if self.is_picture && got.len() < pictures::DIMENSIONS {
            let dimensions = pictures::DIMENSIONS;
            return Some(format!("must have {dimensions} dimensions, as convolutions take them"));
        }
        let declared = self.shape.as_ref().filter(|shape| shape.len() >= PICTURE_RANK)?;
        let rank = declared.len();
        (got.len() != rank).then(|| {
            format!("must have {rank} dimensions, as the signature's shape {declared:?} has")
        })
    }
}

/// Whether `name`, which may leave out that it is the first output, means this tensor.
fn is_tensor(name: &str, tensor: &str) -> bool {
    name == tensor || tensor.strip_suffix(":0") == Some(name)
}

/// Dimensions of a row of samples, the least that a convolution takes: smaller inputs are for other
/// operations, which are asked themselves.
const PICTURE_RANK: usize = 3;

/// Plans kept; requests can ask for more combinations of outputs than are worth keeping.
const MAX_PLANS: usize = 512;

impl SavedModel {
    /// Have the session make ready what runs of the default signature need, or of the only one, for
    /// which otherwise the first request waits: the graph is pruned, optimised, and its kernels made.
    ///
    /// A session does so before it looks at what it is fed. It is fed what is of a type that models
    /// do not take, so that it refuses, and nothing is run.
    fn prepare(&self) {
        const NOBODY_TAKES: DType = DType::QUInt16;
        let signatures = &self.meta_graph.signatures;
        let mut others = signatures.values().filter(|signature| !signature.inputs.is_empty());
        let only = || others.next().filter(|_| others.next().is_none());
        let Some(signature) = signatures.get(DEFAULT_SIGNATURE).or_else(only) else { return };
        let inputs = || signature.inputs.values();
        if signature.outputs.is_empty()
            || signature.inputs.is_empty()
            || inputs().any(|info| info.dtype == NOBODY_TAKES.number())
        {
            return;
        }
        let refused =
            || Tensor::dense(NOBODY_TAKES, Shape::new(), Buffer::zeroed(size_of::<u16>()));
        let feeds: Vec<_> = inputs().map(|info| (info.name.clone(), refused())).collect();
        let fetches: Vec<_> = signature.outputs.values().map(|info| info.name.clone()).collect();
        let Ok(plan) = self.plan(&feeds, &fetches) else { return };
        let lent = feeds.into_iter().map(|(_, tensor)| Owned::lend(self.library, tensor));
        if let Ok(lent) = lent.collect::<Result<Vec<_>>>() {
            // It is refused, whatever else is wrong with it.
            drop(self.run_plan(&plan, &lent, RunOptions::default()));
        }
    }

    fn plan(&self, feeds: &[(String, Tensor)], fetches: &[String]) -> Result<Arc<Plan>> {
        if let Some(plan) = self.plans.read().get(&Names { feeds, fetches }) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan {
            feeds: feeds.iter().map(|(name, _)| self.find(name)).collect::<Result<_>>()?,
            fetches: fetches.iter().map(|name| self.find(name)).collect::<Result<_>>()?,
            declared: if self.meta_graph.trusts_ranks {
                feeds.iter().map(|(name, _)| self.declared(name, fetches)).collect()
            } else {
                Vec::new()
            },
            widths: self.pictures(fetches).map(|pictures| pictures.widths.clone()).collect(),
            cost: Cost::default(),
        });
        let mut plans = self.plans.write();
        if plans.len() < MAX_PLANS {
            let feeds = feeds.iter().map(|(name, _)| name.clone()).collect();
            plans.insert(PlanKey { feeds, fetches: fetches.to_vec() }, plan.clone());
        }
        Ok(plan)
    }

    /// What is wanted of pictures by those who want `fetches`.
    fn pictures<'a>(&'a self, fetches: &'a [String]) -> impl Iterator<Item = &'a Pictures> {
        let pictures = &self.meta_graph.pictures;
        fetches
            .iter()
            .filter_map(|fetch| pictures.get(fetch).or_else(|| pictures.get(&format!("{fetch}:0"))))
    }

    /// What the first signature that has it says of the input `name`, and the graph for `fetches`.
    fn declared(&self, name: &str, fetches: &[String]) -> Declared {
        let is_picture = self
            .pictures(fetches)
            .any(|pictures| pictures.inputs.iter().any(|input| is_tensor(name, input)));
        let inputs = self.meta_graph.signatures.values().flat_map(|signature| &signature.inputs);
        match inputs.into_iter().find(|(_, info)| is_tensor(name, &info.name)) {
            Some((alias, info)) => {
                Declared { alias: alias.clone(), shape: info.shape.clone(), is_picture }
            }
            None => Declared { alias: name.to_owned(), shape: None, is_picture },
        }
    }

    /// The output that `name` (`operation:index`, or `operation` for the first) means.
    fn find(&self, name: &str) -> Result<TfOutput> {
        let (operation_name, index) = match name.rsplit_once(':') {
            Some((operation, index)) => match index.parse::<i32>() {
                Ok(index) => (operation, index),
                Err(_) => (name, 0),
            },
            None => (name, 0),
        };
        let library = self.library;
        let operation = c_string(operation_name).map_or(ptr::null_mut(), |name| {
            // SAFETY: the graph lives as long as `self`.
            unsafe { (library.operation_by_name)(self.graph, name.as_ptr()) }
        });
        if operation.is_null() {
            return Err(Status::invalid_argument(format!(
                "Tensor {name}, specified in either feed_devices or fetch_devices was not found \
                 in the Graph"
            )));
        }
        // SAFETY: an operation of this graph.
        let (outputs, kind) = unsafe {
            let kind = CStr::from_ptr((library.operation_type)(operation));
            ((library.operation_num_outputs)(operation), kind.to_string_lossy().into_owned())
        };
        if !(0..outputs).contains(&index) {
            return Err(Status::out_of_range(format!(
                "Node '{operation_name}' (type: '{kind}', num of outputs: {outputs}) does not \
                 have output {index}"
            )));
        }
        Ok(TfOutput { operation, index })
    }

    fn run_plan(&self, plan: &Plan, inputs: &[Owned], options: RunOptions) -> Result<Vec<Owned>> {
        let library = self.library;
        let stays_here = self.stays_here(plan, options);
        let run_options = run_options(stays_here, options)?;
        let _going = (!stays_here).then(|| SHARED_THREADS.begin(options.deadline));
        let run_options = TfBuffer {
            data: run_options.as_ptr().cast::<c_void>(),
            length: run_options.len(),
            deallocator: None,
        };
        let inputs: Vec<*mut TfTensor> = inputs.iter().map(Owned::as_ptr).collect();
        let mut outputs: Vec<*mut TfTensor> = vec![ptr::null_mut(); plan.fetches.len()];
        let count = |len: usize| i32::try_from(len).expect("signatures have few tensors");
        let result = library.checked(|status| {
            // SAFETY: the arrays have the lengths given, and the session is open until `self` is
            // dropped. The run takes references of its own to the inputs.
            unsafe {
                (library.session_run)(
                    self.session,
                    &raw const run_options,
                    plan.feeds.as_ptr(),
                    inputs.as_ptr(),
                    count(inputs.len()),
                    plan.fetches.as_ptr(),
                    outputs.as_mut_ptr(),
                    count(outputs.len()),
                    ptr::null(),
                    0,
                    ptr::null_mut(),
                    status,
                );
            }
        });
        let outputs: Vec<Owned> = outputs
            .into_iter()
            .filter(|output| !output.is_null())
            // SAFETY: made by the run for its caller.
            .map(|output| unsafe { Owned::take(library, output) })
            .collect();
        result?;
        if outputs.len() != plan.fetches.len() {
            return Err(Status::unknown("Predict internal error"));
        }
        Ok(outputs)
    }

    /// Whether all of a run happens in the calling thread.
    fn stays_here(&self, plan: &Plan, options: RunOptions) -> bool {
        if !self.inter_op_in_caller {
            return false;
        }
        // A run there cannot be timed out: one that may go on for ever had better be.
        let may_stay = self.meta_graph.is_bounded || options.deadline.is_none();
        if may_stay {
            plan.cost.is_short() || SHARED_THREADS.are_taken(self.inter_op_threads)
        } else {
            SHARED_THREADS.are_lost(self.inter_op_threads, Instant::now)
        }
    }
}

/// Serialized `tensorflow.RunOptions`.
fn run_options(stays_here: bool, options: RunOptions) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(16);
    if stays_here {
        put_calling_thread(&mut bytes);
    } else if let Some(deadline) = options.deadline {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            return Err(Status::deadline_exceeded("The deadline passed before the run began"));
        }
        // timeout_in_ms
        wire::put_tag(&mut bytes, 2, wire::VARINT);
        wire::put_varint(&mut bytes, u64::try_from(left).unwrap_or(u64::MAX >> 1));
    }
    Ok(bytes)
}

/// How many threads run operations of all sessions, by a serialized `tensorflow.ConfigProto`.
fn inter_op_threads(config: &[u8]) -> usize {
    let mut reader = Reader::new(config);
    let mut threads = 0;
    while let Ok(Some((number, field))) = reader.next() {
        // inter_op_parallelism_threads
        if let (5, Field::Varint(value)) = (number, field) {
            // What is negative has more bits than that.
            threads = i32::try_from(value).map_or(0, |value| value as usize);
        }
    }
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    if threads > 0 {
        threads
    } else {
        cores()
    }
}

/// Put into serialized `RunOptions` that all happens in the calling thread.
fn put_calling_thread(options: &mut Vec<u8>) {
    // inter_op_thread_pool
    wire::put_tag(options, 3, wire::VARINT);
    wire::put_varint(options, u64::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_share_as_many_threads_as_their_config_says_or_cores_there_are() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for (config, expected) in [
            (&b""[..], cores),
            (b"\x28\x07", 7),
            (b"\x10\x01\x28\x03\x38\x01", 3),
            (b"\x28\x00", cores),
            (b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", cores),
            (b"\x28", cores),
        ] {
            assert_eq!(inter_op_threads(config), expected, "{config:?}");
        }
    }

    #[test]
    fn names_of_a_request_find_the_plan_made_for_them() {
        let tensor = || Tensor::strings(vec![0], Vec::<&str>::new().iter().collect());
        let mut plans = HashMap::new();
        let key = PlanKey { feeds: vec!["x:0".into()], fetches: vec!["y:0".into()] };
        plans.insert(key, 1);

        let found = |feed: &str, fetch: &str| {
            let feeds = [(feed.to_owned(), tensor())];
            plans.get(&Names { feeds: &feeds, fetches: &[fetch.to_owned()] }).copied()
        };
        assert_eq!(found("x:0", "y:0"), Some(1));
        assert_eq!(found("y:0", "x:0"), None);
    }
}
