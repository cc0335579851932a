//! The functions of `include/servable/engine.h`, and nothing else: what they do is decided in
//! `servable_engine::embedded`, what they promise stands in the header.

mod abi;
mod description;
mod tensors;

use std::ffi::{c_char, c_void, CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use servable_engine::embedded::{Event, Lease, Listener, Model, Options};
use servable_engine::status::{Result, Status};

use self::abi::{Call, EngineOptions, EventFn, ServableStatus, Signature};
use self::description::Description;
use self::tensors::Borrowed;

/// `servable_engine_model`.
pub struct EngineModel {
    model: Model,
    tensorflow_version: CString,
}

/// `servable_engine_version`.
pub struct EngineVersion {
    lease: Lease,
    /// Made when it is asked for.
    description: OnceLock<Description>,
}

const ABI: i32 = 1;

#[no_mangle]
pub extern "C" fn servable_engine_abi() -> i32 {
    ABI
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_open(
    path: *const c_char,
    options: *const EngineOptions,
    model: *mut *mut EngineModel,
    status: *mut ServableStatus,
) -> i32 {
    // SAFETY: the caller's pointers are null or what the header says.
    answer(status, || unsafe {
        let model = model.as_mut().ok_or_else(|| is_null("model"))?;
        *model = ptr::null_mut();
        let path = bytes_of(path).ok_or_else(|| is_null("path"))?;
        let options = match options.as_ref() {
            None => Options::default(),
            Some(options) => read_options(options)?,
        };
        let opened = Model::open(&PathBuf::from(OsStr::from_bytes(path)), options)?;
        let tensorflow_version = CString::new(opened.tensorflow_version()).unwrap_or_default();
        *model = Box::into_raw(Box::new(EngineModel { model: opened, tensorflow_version }));
        Ok(())
    })
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_close(model: *mut EngineModel) {
    if !model.is_null() {
        // SAFETY: made by `servable_engine_open`, and closed once.
        let model = unsafe { Box::from_raw(model) };
        drop(catch_unwind(AssertUnwindSafe(|| drop(model))));
    }
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_tensorflow_version(
    model: *const EngineModel,
) -> *const c_char {
    // There is one library in a process, and its text outlives every model.
    static TEXT: OnceLock<CString> = OnceLock::new();
    // SAFETY: null, or an open model.
    let model = unsafe { model.as_ref() };
    model
        .map_or(ptr::null(), |model| TEXT.get_or_init(|| model.tensorflow_version.clone()).as_ptr())
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_acquire(
    model: *const EngineModel,
    version: *mut *mut EngineVersion,
    status: *mut ServableStatus,
) -> i32 {
    // SAFETY: the caller's pointers are null or what the header says.
    answer(status, || unsafe {
        let version = version.as_mut().ok_or_else(|| is_null("version"))?;
        *version = ptr::null_mut();
        let model = model.as_ref().ok_or_else(|| is_null("model"))?;
        let lease = model.model.acquire();
        *version = Box::into_raw(Box::new(EngineVersion { lease, description: OnceLock::new() }));
        Ok(())
    })
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_release(version: *mut EngineVersion) {
    if !version.is_null() {
        // SAFETY: made by `servable_engine_acquire`, and released once.
        let version = unsafe { Box::from_raw(version) };
        drop(catch_unwind(AssertUnwindSafe(|| drop(version))));
    }
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_version_number(version: *const EngineVersion) -> i64 {
    // SAFETY: null, or an acquired version.
    unsafe { version.as_ref() }.map_or(0, |version| version.lease.version().number())
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_signatures(
    version: *const EngineVersion,
    count: *mut usize,
) -> *const Signature {
    // SAFETY: the caller's pointers are null or what the header says.
    let (version, count) = unsafe { (version.as_ref(), count.as_mut()) };
    let all = version.map(|version| {
        let signatures = || Description::of(version.lease.version().signatures());
        version.description.get_or_init(signatures).signatures()
    });
    if let Some(count) = count {
        *count = all.map_or(0, <[Signature]>::len);
    }
    all.map_or(ptr::null(), <[Signature]>::as_ptr)
}

/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn servable_engine_run(
    version: *const EngineVersion,
    call: *const Call,
    status: *mut ServableStatus,
) -> i32 {
    // SAFETY: the caller's pointers are null or what the header says.
    answer(status, || unsafe {
        let version = version.as_ref().ok_or_else(|| is_null("version"))?;
        let call = call.as_ref().ok_or_else(|| is_null("call"))?;
        check_size("servable_engine_call", call.struct_size, size_of::<Call>())?;
        run(version, call)
    })
}

unsafe fn run(version: &EngineVersion, call: &Call) -> Result<()> {
    // SAFETY: arrays of the caller's have the lengths that it gives, and stay until this returns.
    unsafe {
        let signature = optional_text(call.signature, "signature")?.unwrap_or_default();
        let names = slice(call.input_names, call.num_inputs, "input_names")?;
        let tensors = slice(call.inputs, call.num_inputs, "inputs")?;
        let mut inputs = Vec::with_capacity(call.num_inputs);
        for (&name, tensor) in names.iter().zip(tensors) {
            inputs.push((text(name, "a name of input_names")?, Borrowed(tensor)));
        }
        if call.num_outputs == 0 {
            return Err(Status::invalid_argument("num_outputs is 0: no output is asked for"));
        }
        let names = slice(call.output_names, call.num_outputs, "output_names")?;
        let names = names.iter().map(|&name| text(name, "a name of output_names"));
        let wanted = names.map(|name| name.map(str::to_owned)).collect::<Result<Vec<_>>>()?;
        if call.outputs.is_null() {
            return Err(is_null("outputs"));
        }
        let timeout = u64::try_from(call.timeout_ms).ok().filter(|&ms| ms > 0);
        let deadline = timeout.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let results = version.lease.version().predict(signature, inputs, &wanted, deadline)?;
        for (at, result) in results.into_iter().enumerate() {
            call.outputs.add(at).write(tensors::give_away(result));
        }
    }
    Ok(())
}

unsafe fn read_options(options: &EngineOptions) -> Result<Options> {
    check_size("servable_engine_options", options.struct_size, size_of::<EngineOptions>())?;
    // SAFETY: arrays of the caller's have the lengths that it gives, and stay until this returns.
    unsafe {
        let tags = slice(options.tags, options.num_tags, "tags")?;
        let tags = tags.iter().map(|&tag| text(tag, "a tag").map(str::to_owned));
        let config = slice(
            options.session_config.cast::<u8>(),
            options.session_config_size,
            "session_config",
        )?;
        let directory = bytes_of(options.tensorflow_directory).filter(|path| !path.is_empty());
        let not_negative = |value: i64, name: &str| {
            u64::try_from(value)
                .map_err(|_| Status::invalid_argument(format!("{name} is {value}, below 0")))
        };
        let poll = not_negative(options.poll_interval_ms, "poll_interval_ms")?;
        let batch = not_negative(options.max_batch_size, "max_batch_size")?;
        let wait = not_negative(options.batch_timeout_us, "batch_timeout_us")?;
        Ok(Options {
            tensorflow_directory: directory.map(|path| PathBuf::from(OsStr::from_bytes(path))),
            tags: tags.collect::<Result<_>>()?,
            session_config: config.to_vec(),
            poll_interval: (poll > 0).then(|| Duration::from_millis(poll)),
            max_batch_size: batch as usize,
            batch_timeout: Duration::from_micros(wait),
            on_event: options.on_event.map(|on_event| listener(on_event, options.event_context)),
        })
    }
}

fn listener(on_event: EventFn, context: *mut c_void) -> Listener {
    struct Context(*mut c_void);
    // SAFETY: the header says that it is handed to the callback from any thread.
    unsafe impl Send for Context {}
    // SAFETY: as above.
    unsafe impl Sync for Context {}
    impl Context {
        // A method, so that the closure takes the whole and not the pointer in it.
        fn pointer(&self) -> *mut c_void {
            self.0
        }
    }
    let context = Context(context);
    Arc::new(move |version, event| {
        let mut status = ServableStatus::ok();
        let event = match event {
            Event::Loaded => 1,
            Event::Failed(problem) => {
                status.set(problem);
                2
            }
            Event::Unloaded => 3,
        };
        // SAFETY: the caller's function, with the context that came with it.
        unsafe { on_event(context.pointer(), version, event, &raw const status) };
    })
}

/// Do what a function does, and put what became of it into the status.
fn answer(status: *mut ServableStatus, work: impl FnOnce() -> Result<()>) -> i32 {
    let done = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Status::internal("The engine panicked; its message is on stderr")));
    // SAFETY: null, or the caller's.
    let status = unsafe { status.as_mut() };
    match (done, status) {
        (Ok(()), None) => 0,
        (Ok(()), Some(status)) => {
            status.code = 0;
            0
        }
        (Err(problem), status) => {
            if let Some(status) = status {
                status.set(&problem);
            }
            problem.code.number()
        }
    }
}

fn is_null(name: &str) -> Status {
    Status::invalid_argument(format!("{name} is null"))
}

/// A program that was compiled with another header has another idea of what lies where.
fn check_size(name: &str, given: usize, expected: usize) -> Result<()> {
    if given == expected {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "struct_size of {name} is {given} and should be {expected}: set it to sizeof({name}), and \
         compile with the header of this library, whose SERVABLE_ENGINE_ABI is {ABI}"
    )))
}

unsafe fn bytes_of<'c>(text: *const c_char) -> Option<&'c [u8]> {
    // SAFETY: null, or a string of the caller's that ends with a zero.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}

unsafe fn optional_text<'c>(text: *const c_char, name: &str) -> Result<Option<&'c str>> {
    // SAFETY: as there.
    let Some(bytes) = (unsafe { bytes_of(text) }) else { return Ok(None) };
    let utf8 = std::str::from_utf8(bytes);
    utf8.map(Some).map_err(|_| Status::invalid_argument(format!("{name} is not UTF-8")))
}

unsafe fn text<'c>(text: *const c_char, name: &str) -> Result<&'c str> {
    // SAFETY: as there.
    unsafe { optional_text(text, name) }?.ok_or_else(|| is_null(name))
}

unsafe fn slice<'c, T>(start: *const T, len: usize, name: &str) -> Result<&'c [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if start.is_null() {
        return Err(is_null(name));
    }
    // SAFETY: an array of the caller's with that many elements.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}
