//! The functions of the C API that are used, found in the library of an installed TensorFlow.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::Path;
use std::sync::OnceLock;

use libloading::Library as Dynamic;

use crate::status::{Code, Result, Status};

macro_rules! opaque {
    ($($name:ident),*) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}
opaque!(TfStatus, TfTensor, TfSession, TfSessionOptions, TfGraph, TfOperation, TfOpLibrary);

/// `TF_Output`: one output of an operation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TfOutput {
    pub operation: *mut TfOperation,
    pub index: c_int,
}

// SAFETY: an output is a name for a place in a graph; the graph outlives it and is not changed.
unsafe impl Send for TfOutput {}
// SAFETY: as above.
unsafe impl Sync for TfOutput {}

/// `TF_Buffer`: bytes and how to free them.
#[repr(C)]
pub struct TfBuffer {
    pub data: *const c_void,
    pub length: usize,
    pub deallocator: Option<unsafe extern "C" fn(*mut c_void, usize)>,
}

pub type Deallocator = unsafe extern "C" fn(*mut c_void, usize, *mut c_void);

macro_rules! library {
    ($($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The opened library.
        pub struct Library {
            $(pub $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Kept open for as long as the process lives.
            _dynamic: Dynamic,
        }

        impl Library {
            fn from(dynamic: Dynamic) -> std::result::Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the signatures are those of TensorFlow's C API, which is stable.
                    $($field: unsafe {
                        *dynamic.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            $symbol.to_bytes_with_nul(),
                        )?
                    },)*
                    _dynamic: dynamic,
                })
            }
        }
    };
}

library! {
    version = c"TF_Version": fn() -> *const c_char;
    new_status = c"TF_NewStatus": fn() -> *mut TfStatus;
    delete_status = c"TF_DeleteStatus": fn(*mut TfStatus);
    get_code = c"TF_GetCode": fn(*const TfStatus) -> c_int;
    message = c"TF_Message": fn(*const TfStatus) -> *const c_char;
    new_session_options = c"TF_NewSessionOptions": fn() -> *mut TfSessionOptions;
    delete_session_options = c"TF_DeleteSessionOptions": fn(*mut TfSessionOptions);
    set_config = c"TF_SetConfig":
        fn(*mut TfSessionOptions, *const c_void, usize, *mut TfStatus);
    set_target = c"TF_SetTarget": fn(*mut TfSessionOptions, *const c_char);
    load_op_library = c"TF_LoadLibrary": fn(*const c_char, *mut TfStatus) -> *mut TfOpLibrary;
    new_graph = c"TF_NewGraph": fn() -> *mut TfGraph;
    delete_graph = c"TF_DeleteGraph": fn(*mut TfGraph);
    load_session_from_saved_model = c"TF_LoadSessionFromSavedModel": fn(
        *const TfSessionOptions, *const TfBuffer, *const c_char, *const *const c_char, c_int,
        *mut TfGraph, *mut TfBuffer, *mut TfStatus,
    ) -> *mut TfSession;
    close_session = c"TF_CloseSession": fn(*mut TfSession, *mut TfStatus);
    delete_session = c"TF_DeleteSession": fn(*mut TfSession, *mut TfStatus);
    session_run = c"TF_SessionRun": fn(
        *mut TfSession, *const TfBuffer,
        *const TfOutput, *const *mut TfTensor, c_int,
        *const TfOutput, *mut *mut TfTensor, c_int,
        *const *const TfOperation, c_int, *mut TfBuffer, *mut TfStatus,
    );
    operation_by_name = c"TF_GraphOperationByName":
        fn(*mut TfGraph, *const c_char) -> *mut TfOperation;
    operation_num_outputs = c"TF_OperationNumOutputs": fn(*mut TfOperation) -> c_int;
    operation_type = c"TF_OperationOpType": fn(*mut TfOperation) -> *const c_char;
    new_tensor = c"TF_NewTensor": fn(
        c_int, *const i64, c_int, *mut c_void, usize, Deallocator, *mut c_void,
    ) -> *mut TfTensor;
    delete_tensor = c"TF_DeleteTensor": fn(*mut TfTensor);
    tensor_type = c"TF_TensorType": fn(*const TfTensor) -> c_int;
    num_dims = c"TF_NumDims": fn(*const TfTensor) -> c_int;
    dim = c"TF_Dim": fn(*const TfTensor, c_int) -> i64;
    tensor_data = c"TF_TensorData": fn(*const TfTensor) -> *mut c_void;
    tensor_byte_size = c"TF_TensorByteSize": fn(*const TfTensor) -> usize;
    string_init = c"TF_StringInit": fn(*mut c_void);
    string_copy = c"TF_StringCopy": fn(*mut c_void, *const c_char, usize);
    string_data = c"TF_StringGetDataPointer": fn(*const c_void) -> *const c_char;
    string_size = c"TF_StringGetSize": fn(*const c_void) -> usize;
    string_dealloc = c"TF_StringDealloc": fn(*mut c_void);
}

static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();

/// Names of the library, the first that is there counts.
const FILES: [&str; 4] = [
    "libtensorflow_cc.so.2",
    "libtensorflow_cc.2.dylib",
    "libtensorflow.so.2",
    "libtensorflow.2.dylib",
];

/// Whether there is a library in `directory`.
pub fn has_library(directory: &Path) -> bool {
    FILES.iter().any(|file| directory.join(file).exists())
}

/// Open the library in `directory`; later calls return what the first one opened.
///
/// # Errors
/// FAILED_PRECONDITION when there is none, or it lacks a function.
pub fn load_library(directory: &Path) -> Result<&'static Library> {
    let opened = LIBRARY.get_or_init(|| {
        let file = FILES.iter().map(|file| directory.join(file)).find(|path| path.exists());
        let file = file.ok_or_else(|| "no TensorFlow library was found".to_owned())?;
        open(&file).and_then(Library::from).map_err(|error| error.to_string())
    });
    opened.as_ref().map_err(|error| {
        Status::failed_precondition(format!("TensorFlow's library cannot be used: {error}"))
    })
}

/// Open a library of TensorFlow's.
fn open(file: &Path) -> std::result::Result<Dynamic, libloading::Error> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if has_symbol(PROTOBUF) && !SANITIZERS.iter().any(|name| has_symbol(name)) {
        use libloading::os::unix::{Library as Unix, RTLD_LOCAL, RTLD_NOW};
        let flags = RTLD_NOW | RTLD_LOCAL | libc::RTLD_DEEPBIND;
        // SAFETY: as below.
        return unsafe { Unix::open(Some(file), flags) }.map(Dynamic::from);
    }
    // SAFETY: the initialisers of TensorFlow's library are what importing it would run.
    unsafe { Dynamic::new(file) }
}

/// A symbol of every protobuf. A program that has one of its own, as all have that use gRPC, has
/// another than TensorFlow, whose library would call into it instead of itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const PROTOBUF: &CStr = c"_ZTIN6google8protobuf11MessageLiteE";

/// Symbols of those who replace functions of the C library, and must not be gone past.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SANITIZERS: [&CStr; 3] = [c"__asan_init", c"__tsan_init", c"__msan_init"];

/// Whether the program itself has a symbol, or a library that it was linked with.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn has_symbol(name: &CStr) -> bool {
    // SAFETY: a look-up by name in what is loaded.
    !unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }.is_null()
}

impl Library {
    /// The version of the library, such as `2.21.0`.
    pub fn version_text(&self) -> String {
        // SAFETY: a static string.
        unsafe { CStr::from_ptr((self.version)()) }.to_string_lossy().into_owned()
    }

    /// Load operations and kernels of others, for good: what is registered stays registered.
    ///
    /// # Errors
    /// What the runtime or the dynamic linker says.
    pub fn load_op_library(&self, path: &Path) -> Result<()> {
        let path = path.to_str().and_then(c_string);
        let path = path.ok_or_else(|| Status::invalid_argument("The path is not UTF-8"))?;
        self.checked(|status| {
            // SAFETY: the path ends with a NUL. The handle only serves to list the operations.
            unsafe { (self.load_op_library)(path.as_ptr(), status) };
        })
    }

    /// Call a function that reports through a `TF_Status`.
    ///
    /// # Errors
    /// What it reports.
    pub fn checked<T>(&self, call: impl FnOnce(*mut TfStatus) -> T) -> Result<T> {
        // SAFETY: the status is made here, used by one call and deleted here.
        unsafe {
            let status = (self.new_status)();
            let value = call(status);
            let code = Code::from_number((self.get_code)(status));
            let result = if code == Code::Ok {
                Ok(value)
            } else {
                let message = CStr::from_ptr((self.message)(status));
                Err(Status::new(code, message.to_string_lossy().into_owned()))
            };
            (self.delete_status)(status);
            result
        }
    }
}

/// A name for the C API; names with a NUL inside name nothing there.
pub fn c_string(name: &str) -> Option<CString> {
    CString::new(name).ok()
}
