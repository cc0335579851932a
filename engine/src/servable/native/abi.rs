//! `include/servable/servable.h` and `tensor.h`, field by field; what they mean is told there.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

use crate::status::{Code, Result, Status};

/// The version that this module is a copy of.
pub const ABI: u32 = 1;
/// What a library exports.
pub const ENTRY: &[u8] = b"servable_entry\0";

pub const CLASSIFY: i32 = 1;
pub const REGRESS: i32 = 2;
pub const NEVER_WAITS: u32 = 1;

#[repr(C)]
pub struct Text {
    pub data: *const u8,
    pub size: usize,
}

pub type Release = unsafe extern "C" fn(context: *mut c_void);

#[repr(C)]
pub struct RawTensor {
    pub dtype: i32,
    pub rank: i32,
    pub dims: *const i64,
    pub data: *const c_void,
    pub size: usize,
    pub release: Option<Release>,
    pub context: *mut c_void,
}

impl RawTensor {
    pub const EMPTY: Self = Self {
        dtype: 0,
        rank: 0,
        dims: std::ptr::null(),
        data: std::ptr::null(),
        size: 0,
        release: None,
        context: std::ptr::null_mut(),
    };
}

const MESSAGE_SIZE: usize = 1024;

/// A status that somebody else fills in; the text is only looked at after a failure.
#[repr(C)]
pub struct RawStatus {
    code: i32,
    message: [MaybeUninit<u8>; MESSAGE_SIZE],
}

impl RawStatus {
    pub fn new() -> Self {
        let mut message = [const { MaybeUninit::uninit() }; MESSAGE_SIZE];
        message[0].write(0);
        Self { code: 0, message }
    }

    /// What a function says that has returned `code`; one without a text is said to be the failure
    /// of `what`.
    ///
    /// # Safety
    /// Nobody but a function that keeps to the header has written to the status.
    pub unsafe fn check(&self, code: i32, what: &str) -> Result<()> {
        if code == Code::Ok.number() {
            return Ok(());
        }
        let mut message = Vec::new();
        for byte in &self.message {
            // SAFETY: `new` wrote the first byte, and whoever writes more ends it with a zero.
            match unsafe { byte.assume_init() } {
                0 => break,
                byte => message.push(byte),
            }
        }
        let message = String::from_utf8_lossy(&message).into_owned();
        let message = if message.is_empty() { format!("{what} failed") } else { message };
        Err(Status::new(Code::from_number(code), message))
    }
}

/// An instance is whatever its library makes of it.
#[repr(C)]
pub struct Opaque {
    _data: [u8; 0],
}

#[repr(C)]
pub struct RawLoadOptions {
    pub struct_size: usize,
    pub directory: *const c_char,
    pub model_name: *const c_char,
    pub model_version: i64,
}

#[repr(C)]
pub struct RawTensorSpec {
    pub name: *const c_char,
    pub dtype: i32,
    pub rank: i32,
    pub dims: *const i64,
}

#[repr(C)]
pub struct RawSignature {
    pub name: *const c_char,
    pub inputs: *const RawTensorSpec,
    pub num_inputs: usize,
    pub outputs: *const RawTensorSpec,
    pub num_outputs: usize,
    pub method: i32,
}

#[repr(C)]
pub struct RawDescription {
    pub struct_size: usize,
    pub signatures: *const RawSignature,
    pub num_signatures: usize,
    pub threads: u32,
    pub flags: u32,
}

#[repr(C)]
pub struct RawRun {
    pub struct_size: usize,
    pub signature: usize,
    pub inputs: *const RawTensor,
    pub num_inputs: usize,
    pub wanted: *const u8,
    pub outputs: *mut RawTensor,
    pub num_outputs: usize,
    pub timeout_ns: i64,
}

pub type Load = unsafe extern "C" fn(
    options: *const RawLoadOptions,
    instance: *mut *mut Opaque,
    status: *mut RawStatus,
) -> i32;
pub type Describe = unsafe extern "C" fn(
    instance: *mut Opaque,
    description: *mut *const RawDescription,
    status: *mut RawStatus,
) -> i32;
pub type Run =
    unsafe extern "C" fn(instance: *mut Opaque, run: *const RawRun, status: *mut RawStatus) -> i32;
pub type Unload = unsafe extern "C" fn(instance: *mut Opaque);

/// The first two fields of a library of whatever version.
#[repr(C)]
pub struct RawHead {
    pub abi: u32,
    pub struct_size: u32,
}

#[repr(C)]
pub struct RawLibrary {
    pub head: RawHead,
    pub load: Option<Load>,
    pub describe: Option<Describe>,
    pub run: Option<Run>,
    pub unload: Option<Unload>,
}
