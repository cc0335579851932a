//! What the memory of the GPUs of this machine is used for, as NVIDIA's library tells it.
//!
//! Where there is no such library there is no GPU that TensorFlow could use, and nothing is shown.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

use crate::metrics::text::Page;

const TOTAL: &str = "servable_gpu_memory_total_bytes";
const USED: &str = "servable_gpu_memory_used_bytes";
const SUCCESS: c_int = 0;

pub fn write(page: &mut Page) {
    let devices = NVML.get_or_init(Nvml::open).as_ref().map(Nvml::devices).unwrap_or_default();
    if devices.is_empty() {
        return;
    }
    page.declare(TOTAL, "gauge", Some("Memory of each GPU of this machine."));
    for (device, memory) in devices.iter().enumerate() {
        page.sample(TOTAL, &[("device", &device.to_string())], memory.total);
    }
    page.declare(USED, "gauge", Some("Memory of each GPU that is in use, by whomever."));
    for (device, memory) in devices.iter().enumerate() {
        page.sample(USED, &[("device", &device.to_string())], memory.used);
    }
}

static NVML: OnceLock<Option<Nvml>> = OnceLock::new();

/// `nvmlMemory_v2_t`, in bytes. The first version of it counts what the driver keeps for itself
/// as used.
#[repr(C)]
#[derive(Clone, Copy)]
struct Memory {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

impl Default for Memory {
    fn default() -> Self {
        let version = size_of::<Self>() as c_uint | 2 << 24;
        Self { version, total: 0, reserved: 0, free: 0, used: 0 }
    }
}

/// The functions of NVIDIA's management library that are used.
struct Nvml {
    count: unsafe extern "C" fn(*mut c_uint) -> c_int,
    handle: unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int,
    memory: unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int,
    /// Kept open for as long as the process lives.
    _library: Library,
}

impl Nvml {
    fn open() -> Option<Self> {
        // SAFETY: the initialisers of the driver's library, and functions by their signatures in
        // its stable interface.
        unsafe {
            let library = Library::new("libnvidia-ml.so.1").ok()?;
            let init = *library
                .get::<unsafe extern "C" fn() -> c_int>(c"nvmlInit_v2".to_bytes_with_nul())
                .ok()?;
            if init() != SUCCESS {
                return None;
            }
            Some(Self {
                count: *library.get(c"nvmlDeviceGetCount_v2".to_bytes_with_nul()).ok()?,
                handle: *library.get(c"nvmlDeviceGetHandleByIndex_v2".to_bytes_with_nul()).ok()?,
                memory: *library.get(c"nvmlDeviceGetMemoryInfo_v2".to_bytes_with_nul()).ok()?,
                _library: library,
            })
        }
    }

    /// The memory of each device that tells of it.
    fn devices(&self) -> Vec<Memory> {
        let mut count = 0;
        // SAFETY: the library was initialised, and the pointers are to what it fills in.
        if unsafe { (self.count)(&raw mut count) } != SUCCESS {
            return Vec::new();
        }
        (0..count).filter_map(|index| self.device(index)).collect()
    }

    fn device(&self, index: c_uint) -> Option<Memory> {
        let mut handle = std::ptr::null_mut();
        let mut memory = Memory::default();
        // SAFETY: as above; the handle is used only if the library made it.
        unsafe {
            if (self.handle)(index, &raw mut handle) != SUCCESS {
                return None;
            }
            ((self.memory)(handle, &raw mut memory) == SUCCESS).then_some(memory)
        }
    }
}
