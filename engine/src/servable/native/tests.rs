//! A servable made of functions of these tests: who owns what, and for how long.

use std::ffi::{c_void, CStr};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::abi::{Opaque, RawDescription, RawHead, RawLibrary, RawLoadOptions, RawStatus};
use super::*;
use crate::status::Code;
use crate::tensor::{Buffer, DType, Data};

/// What happened to one instance, which is a pointer to this.
#[derive(Default)]
struct Seen {
    inputs: Mutex<Vec<usize>>,
    timeouts: Mutex<Vec<i64>>,
    released: AtomicUsize,
    unloaded: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

static ELEMENTS: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
static FOUR: [i64; 1] = [4];
static THREE: [i64; 1] = [3];
static ANY: [i64; 1] = [-1];
const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
const NAMES: [&CStr; 3] = [c"x", c"y", c"z"];

struct Static<T>(T);
// SAFETY: what the pointers in it lead to is static and never changes.
unsafe impl<T> Sync for Static<T> {}

const fn spec(name: &'static CStr, dtype: DType) -> abi::RawTensorSpec {
    abi::RawTensorSpec { name: name.as_ptr(), dtype: dtype as i32, rank: 1, dims: ANY.as_ptr() }
}

static INPUTS: Static<[abi::RawTensorSpec; 2]> =
    Static([spec(NAMES[1], DType::String), spec(NAMES[0], DType::Float)]);
static OUTPUTS: Static<[abi::RawTensorSpec; 2]> =
    Static([spec(NAMES[2], DType::Float), spec(NAMES[1], DType::Float)]);

const fn signature(name: &'static CStr) -> abi::RawSignature {
    abi::RawSignature {
        name: name.as_ptr(),
        inputs: INPUTS.0.as_ptr(),
        num_inputs: 2,
        outputs: OUTPUTS.0.as_ptr(),
        num_outputs: 2,
        method: 0,
    }
}

static SIGNATURES: Static<[abi::RawSignature; 3]> =
    Static([signature(c"good"), signature(c"short"), signature(c"misaligned")]);
const fn description(threads: u32, flags: u32) -> RawDescription {
    RawDescription {
        struct_size: size_of::<RawDescription>(),
        signatures: SIGNATURES.0.as_ptr(),
        num_signatures: 3,
        threads,
        flags,
    }
}
static QUICK: Static<RawDescription> = Static(description(0, abi::NEVER_WAITS));
static ALONE: Static<RawDescription> = Static(description(1, 0));

/// The instance is the address that the test has put into the name of the model.
unsafe extern "C" fn load(
    options: *const RawLoadOptions,
    instance: *mut *mut Opaque,
    _: *mut RawStatus,
) -> i32 {
    // SAFETY: as `servable.h` says, here as in all of these.
    unsafe {
        let name = CStr::from_ptr((*options).model_name).to_str().unwrap();
        *instance = ptr::with_exposed_provenance_mut(name.parse().unwrap());
    }
    0
}

unsafe extern "C" fn describe_quick(
    _: *mut Opaque,
    description: *mut *const RawDescription,
    _: *mut RawStatus,
) -> i32 {
    unsafe { *description = &raw const QUICK.0 };
    0
}

unsafe extern "C" fn describe_alone(
    _: *mut Opaque,
    description: *mut *const RawDescription,
    _: *mut RawStatus,
) -> i32 {
    unsafe { *description = &raw const ALONE.0 };
    0
}

unsafe extern "C" fn release(context: *mut c_void) {
    unsafe { &*context.cast::<Seen>() }.released.fetch_add(1, Ordering::SeqCst);
}

unsafe extern "C" fn run(instance: *mut Opaque, run: *const RawRun, _: *mut RawStatus) -> i32 {
    let (seen, run) = unsafe { (&*instance.cast::<Seen>(), &*run) };
    let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_running.fetch_max(running, Ordering::SeqCst);
    std::thread::yield_now();
    seen.timeouts.lock().push(run.timeout_ns);
    let inputs = unsafe { std::slice::from_raw_parts(run.inputs, run.num_inputs) };
    let texts = unsafe { std::slice::from_raw_parts(inputs[0].data.cast::<abi::Text>(), 1) };
    *seen.inputs.lock() = vec![texts[0].data.addr(), inputs[1].data.addr()];
    let outputs = unsafe { std::slice::from_raw_parts_mut(run.outputs, run.num_outputs) };
    for output in &mut *outputs {
        *output = RawTensor {
            dtype: DType::Float as i32,
            rank: 1,
            dims: FOUR.as_ptr(),
            data: ELEMENTS.as_ptr().cast(),
            size: size_of_val(&ELEMENTS),
            release: Some(release),
            context: instance.cast(),
        };
    }
    match run.signature {
        1 => outputs[0].dims = THREE.as_ptr(),
        2 => {
            outputs[0].data = outputs[0].data.wrapping_byte_add(1);
            (outputs[0].dims, outputs[0].size) = (THREE.as_ptr(), 12);
        }
        _ => (),
    }
    seen.running.fetch_sub(1, Ordering::SeqCst);
    0
}

unsafe extern "C" fn unload(instance: *mut Opaque) {
    unsafe { &*instance.cast::<Seen>() }.unloaded.fetch_add(1, Ordering::SeqCst);
}

fn library(describe: abi::Describe) -> RawLibrary {
    RawLibrary {
        head: RawHead { abi: abi::ABI, struct_size: size_of::<RawLibrary>() as u32 },
        load: Some(load),
        describe: Some(describe),
        run: Some(run),
        unload: Some(unload),
    }
}

fn native(seen: &Seen, describe: abi::Describe) -> Native {
    let name = ptr::from_ref(seen).expose_provenance().to_string();
    let version = Version { directory: Path::new("/"), model_name: &name, number: 1 };
    let library = library(describe);
    // SAFETY: the functions of these tests keep to the header, and are there for good.
    unsafe { Native::new(Instance::load(&raw const library, None, &version).unwrap()).unwrap() }
}

/// Feeds and fetches of one signature.
fn request(
    native: &Native,
    signature: &str,
    outputs: &[&str],
) -> (Vec<(String, Tensor)>, Vec<String>) {
    let signature = &native.signatures()[signature];
    let x = Tensor::dense(DType::Float, vec![2], Buffer::zeroed(8));
    let y = Tensor::strings(vec![1], ["a text"].into_iter().collect());
    let name = |alias: &str| signature.inputs[alias].name.clone();
    let feeds = vec![(name("x"), x), (name("y"), y)];
    let fetches = outputs.iter().map(|alias| signature.outputs[*alias].name.clone()).collect();
    (feeds, fetches)
}

fn ask(native: &Native, signature: &str, outputs: &[&str]) -> Result<Vec<Tensor>> {
    let (feeds, fetches) = request(native, signature, outputs);
    native.run(feeds, &fetches, RunOptions::default())
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

#[test]
fn elements_are_copied_neither_on_the_way_in_nor_out() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);
    let (feeds, fetches) = request(&native, "good", &["y"]);
    let lent: Vec<usize> = feeds
        .iter()
        .rev()
        .map(|(_, tensor)| match tensor.data() {
            Data::Dense(buffer) => buffer.as_slice().as_ptr().addr(),
            Data::Strings(strings) => strings.get(0).as_ptr().addr(),
        })
        .collect();

    let outputs = native.run(feeds, &fetches, RunOptions::default()).unwrap();

    assert_eq!(*seen.inputs.lock(), lent);
    assert_eq!(outputs[0].buffer().unwrap().as_slice().as_ptr(), ELEMENTS.as_ptr().cast());
}

#[test]
fn every_output_is_released_once_when_nobody_needs_it_and_then_the_instance_is_unloaded() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);
    let outputs = ask(&native, "good", &["y"]).unwrap();
    // The one that nobody wanted is gone already.
    assert_eq!(count(&seen.released), 1);

    drop(native);
    assert_eq!(outputs[0].buffer().unwrap().elements::<f32>(), ELEMENTS);
    assert_eq!((count(&seen.released), count(&seen.unloaded)), (1, 0));
    drop(outputs);
    assert_eq!((count(&seen.released), count(&seen.unloaded)), (2, 1));
}

#[test]
fn outputs_come_in_the_order_of_the_fetches_and_may_be_fetched_twice() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);

    let outputs = ask(&native, "good", &["y", "z", "y"]).unwrap();

    for output in &outputs {
        assert_eq!(output.buffer().unwrap().elements::<f32>(), ELEMENTS);
    }
    drop(outputs);
    assert_eq!(count(&seen.released), 2);
}

#[test]
fn a_wrong_output_is_told_and_all_are_released() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);

    let refused = ask(&native, "short", &["z", "y"]).unwrap_err();

    let text = "The servable returned an output z of 16 bytes, for shape [3]";
    assert_eq!(refused, Status::internal(text));
    assert_eq!(count(&seen.released), 2);
}

#[test]
fn elements_that_no_type_may_stand_at_are_moved() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);

    let outputs = ask(&native, "misaligned", &["z"]).unwrap();

    assert_eq!(outputs[0].buffer().unwrap().elements::<f32>().len(), 3);
    assert_eq!(count(&seen.released), 2);
}

#[test]
fn runs_are_quick_when_they_were_and_the_servable_waits_for_nothing() {
    let (seen, alone) = (Seen::default(), Seen::default());
    let (quick, waits) = (native(&seen, describe_quick), native(&alone, describe_alone));
    for (native, expected) in [(&quick, true), (&waits, false)] {
        let (feeds, fetches) = request(native, "good", &["y"]);
        assert!(!native.is_quick(&feeds, &fetches));
        native.signatures["good"].cost.record(SECOND / 100_000);
        assert_eq!(native.is_quick(&feeds, &fetches), expected);
        let other = request(native, "short", &["y"]);
        assert!(!native.is_quick(&other.0, &other.1));
    }
}

#[test]
fn a_servable_with_one_thread_is_called_by_one_at_a_time() {
    let seen = Seen::default();
    let native = native(&seen, describe_alone);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    ask(&native, "good", &["y"]).unwrap();
                }
            });
        }
    });

    assert_eq!(count(&seen.most_running), 1);
    assert_eq!(seen.timeouts.lock().len(), 200);
}

#[test]
fn a_deadline_is_told_as_the_time_that_is_left() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);
    for deadline in [None, Some(Instant::now()), Some(Instant::now() + 3600 * SECOND)] {
        let (feeds, fetches) = request(&native, "good", &["y"]);
        let options = RunOptions { deadline, ..RunOptions::default() };
        native.run(feeds, &fetches, options).unwrap();
    }

    let told = seen.timeouts.lock().clone();
    assert_eq!(told[..2], [-1, 0]);
    assert!((1..=3_600_000_000_000).contains(&told[2]));
}
#[test]
fn an_input_that_is_missing_is_told_by_name() {
    let seen = Seen::default();
    let native = native(&seen, describe_quick);
    let (mut feeds, fetches) = request(&native, "good", &["y"]);
    feeds.pop();

    let refused = native.run(feeds, &fetches, RunOptions::default()).unwrap_err();

    assert_eq!(refused, Status::invalid_argument("The input y is missing"));
    assert_eq!(refused.code, Code::InvalidArgument);
}
