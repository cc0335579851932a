//! A library that is opened, and closed so that nothing else is.
//!
//! What a library needs is loaded with it, and would be closed with it where nobody else needs it.
//! Some of that does not bear it: OpenMP's runtime has threads that wait inside it for as long as
//! the process lives. So all but the library itself stays.

use std::path::{Path, PathBuf};

use libloading::os::unix::{self, RTLD_LOCAL, RTLD_NOW};

use crate::status::{Result, Status};

pub struct Library {
    /// `None` once it is closed.
    inner: Option<unix::Library>,
    /// Where it is, with the libraries that belong to it, and other versions beside it.
    copies: PathBuf,
}

impl Library {
    /// Open the library at `path`, whose directory has nothing but what belongs to it, and stands
    /// among the directories of others.
    ///
    /// # Errors
    /// FAILED_PRECONDITION with what the dynamic linker says.
    ///
    /// # Safety
    /// Its initialisers may run, and its file stays as it is.
    pub unsafe fn open(path: &Path) -> Result<Self> {
        // Missing symbols are found now, and not by a request; what the library defines is seen
        // by nobody else.
        // SAFETY: the caller's word.
        let opened = unsafe { unix::Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let opened = opened.map_err(|error| {
            let text = error.to_string();
            let prefix = format!("{}: ", path.display());
            let text = text.strip_prefix(&prefix).unwrap_or(&text);
            Status::failed_precondition(format!("servable.so cannot be opened: {text}"))
        })?;
        let copies = path.parent().and_then(Path::parent).unwrap_or(path);
        Ok(Self { inner: Some(opened), copies: copies.to_owned() })
    }

    /// The object that it defines under a name, `None` when there is none.
    ///
    /// # Safety
    /// That object is a `T`.
    pub unsafe fn find<T>(&self, name: &[u8]) -> Option<*const T> {
        // SAFETY: the caller's word.
        let symbol = unsafe { self.inner.as_ref()?.get::<*const T>(name) };
        symbol.ok().map(|symbol| *symbol)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        keep_all_but(&self.copies);
        self.inner.take();
    }
}

/// Keep whatever is loaded now until the process ends, other than what is below `copies`.
#[cfg(target_os = "linux")]
fn keep_all_but(copies: &Path) {
    use std::ffi::{c_int, c_void, CStr, CString};

    unsafe extern "C" fn collect(
        object: *mut libc::dl_phdr_info,
        _: libc::size_t,
        names: *mut c_void,
    ) -> c_int {
        // SAFETY: the vector is that of the call below, and the name is there during this one.
        unsafe {
            if !(*object).dlpi_name.is_null() {
                let names = &mut *names.cast::<Vec<CString>>();
                names.push(CStr::from_ptr((*object).dlpi_name).to_owned());
            }
        }
        0
    }

    let mut names: Vec<CString> = Vec::new();
    // SAFETY: the function takes a pointer to that vector.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut names).cast()) };
    for name in names {
        let is_own = name.to_str().is_ok_and(|name| Path::new(name).starts_with(copies));
        if is_own || name.is_empty() {
            continue;
        }
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: nothing is loaded, and what is loaded already only gets another flag.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), flags);
            if !handle.is_null() {
                libc::dlclose(handle);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_all_but(_: &Path) {}
