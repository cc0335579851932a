//! The structs of `tensor.h` and `engine.h`.

use std::ffi::{c_char, c_void};

use servable_engine::status::Status;

pub const MESSAGE_SIZE: usize = 1024;

#[repr(C)]
pub struct ServableString {
    pub data: *const c_char,
    pub size: usize,
}

#[repr(C)]
pub struct ServableTensor {
    pub dtype: i32,
    pub rank: i32,
    pub dims: *const i64,
    pub data: *const c_void,
    pub size: usize,
    pub release: Option<unsafe extern "C" fn(*mut c_void)>,
    pub context: *mut c_void,
}

#[repr(C)]
pub struct ServableStatus {
    pub code: i32,
    pub message: [u8; MESSAGE_SIZE],
}

impl ServableStatus {
    pub fn ok() -> Self {
        Self { code: 0, message: [0; MESSAGE_SIZE] }
    }

    /// Code and text, which is cut between two characters if it is too long.
    pub fn set(&mut self, status: &Status) {
        let text = status.message.as_ref();
        let mut len = text.len().min(MESSAGE_SIZE - 1);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.code = status.code.number();
        self.message[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.message[len] = 0;
    }
}

pub type EventFn = unsafe extern "C" fn(*mut c_void, i64, i32, *const ServableStatus);

#[repr(C)]
pub struct EngineOptions {
    pub struct_size: usize,
    pub tensorflow_directory: *const c_char,
    pub tags: *const *const c_char,
    pub num_tags: usize,
    pub session_config: *const c_void,
    pub session_config_size: usize,
    pub poll_interval_ms: i64,
    pub max_batch_size: i64,
    pub batch_timeout_us: i64,
    pub on_event: Option<EventFn>,
    pub event_context: *mut c_void,
}

#[repr(C)]
pub struct TensorSpec {
    pub name: *const c_char,
    pub dtype: i32,
    pub rank: i32,
    pub dims: *const i64,
}

#[repr(C)]
pub struct Signature {
    pub name: *const c_char,
    pub method_name: *const c_char,
    pub inputs: *const TensorSpec,
    pub num_inputs: usize,
    pub outputs: *const TensorSpec,
    pub num_outputs: usize,
}

#[repr(C)]
pub struct Call {
    pub struct_size: usize,
    pub signature: *const c_char,
    pub input_names: *const *const c_char,
    pub inputs: *const ServableTensor,
    pub num_inputs: usize,
    pub output_names: *const *const c_char,
    pub outputs: *mut ServableTensor,
    pub num_outputs: usize,
    pub timeout_ms: i64,
}
