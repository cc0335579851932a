//! One loaded version of a native library: opened, called, unloaded and closed, in this order.

use std::ffi::CString;
use std::path::Path;
use std::ptr;

use super::abi::{
    self, Describe, Opaque, RawDescription, RawHead, RawLibrary, RawLoadOptions, RawRun, RawStatus,
    Run, Unload,
};
use super::library::Library;
use crate::status::{Result, Status};

/// What is to be loaded.
pub struct Version<'a> {
    pub directory: &'a Path,
    pub model_name: &'a str,
    pub number: i64,
}

/// An instance and the library that it is of. Dropped, it is unloaded, and then closed.
pub struct Instance {
    /// What the library knows it by.
    handle: *mut Opaque,
    describe: Describe,
    run: Run,
    unload: Unload,
    /// Last, so that it is closed after `unload` has returned; `None`: it is part of the program.
    _library: Option<Library>,
}

// SAFETY: the header says that whatever thread may call, and that runs may be concurrent; nothing
// else is called through a shared reference once the instance is in use.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: loaded once and unloaded once; runs and outputs hold the instance, so that there
        // are none any more.
        unsafe { (self.unload)(self.handle) }
    }
}

impl Instance {
    /// Open a library and have it load a version. Blocks.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when it is no library of this ABI, or what `load` says.
    ///
    /// # Safety
    /// The library keeps to `servable.h`, and its file stays as it is.
    pub unsafe fn open(path: &Path, version: &Version) -> Result<Self> {
        // SAFETY: its initialisers are as trusted as what it does later.
        let library = unsafe { Library::open(path) }?;
        // SAFETY: the caller says that the symbol is what the header declares.
        let entry = unsafe { library.find::<RawLibrary>(abi::ENTRY) };
        let entry = entry.ok_or_else(|| {
            Status::failed_precondition(
                "servable.so exports no servable_entry, which SERVABLE_EXPORT defines",
            )
        })?;
        // SAFETY: as above.
        unsafe { Self::load(entry, Some(library), version) }
    }

    /// As [`Instance::open`], by the table of a library that is open already.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// `entry` points to a table that keeps to `servable.h`, for as long as `library` is open.
    pub unsafe fn load(
        entry: *const RawLibrary,
        library: Option<Library>,
        version: &Version,
    ) -> Result<Self> {
        // SAFETY: the first two fields are there in every version.
        let head = unsafe { &*entry.cast::<RawHead>() };
        if head.abi != abi::ABI {
            return Err(Status::failed_precondition(format!(
                "servable.so is of ABI {}; this server runs those of ABI {}",
                head.abi,
                abi::ABI
            )));
        }
        if (head.struct_size as usize) < size_of::<RawLibrary>() {
            return Err(Status::failed_precondition(format!(
                "The servable_entry of servable.so has {} bytes; {} were expected",
                head.struct_size,
                size_of::<RawLibrary>()
            )));
        }
        // SAFETY: of this ABI, and large enough.
        let table = unsafe { &*entry };
        let lacks = |name| {
            Status::failed_precondition(format!(
                "The servable_entry of servable.so has no {name} function"
            ))
        };
        let load = table.load.ok_or_else(|| lacks("load"))?;
        let describe = table.describe.ok_or_else(|| lacks("describe"))?;
        let run = table.run.ok_or_else(|| lacks("run"))?;
        let unload = table.unload.ok_or_else(|| lacks("unload"))?;

        let directory = CString::new(version.directory.as_os_str().as_encoded_bytes());
        let (Ok(directory), Ok(name)) = (directory, CString::new(version.model_name)) else {
            return Err(Status::invalid_argument("The model's path or name has a NUL in it"));
        };
        let options = RawLoadOptions {
            struct_size: size_of::<RawLoadOptions>(),
            directory: directory.as_ptr(),
            model_name: name.as_ptr(),
            model_version: version.number,
        };
        let (mut instance, mut status) = (ptr::null_mut(), RawStatus::new());
        // SAFETY: the arguments are there until it returns.
        unsafe {
            let code = load(&raw const options, &raw mut instance, &raw mut status);
            status.check(code, "Loading the servable")?;
        }
        if instance.is_null() {
            return Err(Status::internal("The servable's load function gave no instance"));
        }
        Ok(Self { handle: instance, describe, run, unload, _library: library })
    }

    /// What the instance offers; it belongs to the instance. Called once, before the first run.
    ///
    /// # Errors
    /// What the function says, or INTERNAL when it gives nothing.
    pub fn describe(&self) -> Result<&RawDescription> {
        let (mut description, mut status) = (ptr::null(), RawStatus::new());
        // SAFETY: the instance is loaded, and what is returned stays as long as it does.
        let description: *const RawDescription = unsafe {
            let code = (self.describe)(self.handle, &raw mut description, &raw mut status);
            status.check(code, "Describing the servable")?;
            description
        };
        // SAFETY: the size is there in every version, and is looked at before anything else.
        let size = unsafe { description.cast::<usize>().as_ref() };
        if size.is_none_or(|&size| size < size_of::<RawDescription>()) {
            return Err(Status::internal("The servable's describe function gave no description"));
        }
        // SAFETY: it was checked that all of it is there.
        Ok(unsafe { &*description })
    }

    /// Run a signature.
    ///
    /// # Errors
    /// What the function says; then there are no outputs.
    ///
    /// # Safety
    /// What `run` points to is as `servable.h` describes it, and stays until this returns.
    pub unsafe fn run(&self, run: &RawRun) -> Result<()> {
        let mut status = RawStatus::new();
        // SAFETY: the caller's word, and the instance is loaded.
        unsafe {
            let code = (self.run)(self.handle, run, &raw mut status);
            status.check(code, "The servable")
        }
    }
}
