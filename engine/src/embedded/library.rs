//! Where the TensorFlow library is, for a program that does not say so.

use std::env;
use std::ffi::{CStr, OsStr};
use std::path::{Path, PathBuf};

use crate::servable::tensorflow::has_library;
use crate::status::{Result, Status};

/// Names the directory, where no option does.
const VARIABLE: &str = "SERVABLE_TENSORFLOW_DIR";

/// The directory of the library: the one that was asked for, or else the first that has one.
///
/// # Errors
/// FAILED_PRECONDITION, with everything that was tried.
pub fn directory(asked_for: Option<&Path>) -> Result<PathBuf> {
    let named = asked_for.map(|path| (path.to_owned(), "the option tensorflow_directory"));
    let named = named.or_else(|| {
        let path = env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        Some((PathBuf::from(path), VARIABLE))
    });
    if let Some((path, by)) = named {
        if has_library(&path) {
            return Ok(path);
        }
        return Err(Status::failed_precondition(format!(
            "There is no TensorFlow library in {}, which {by} names: it is the directory with \
             libtensorflow_cc.so.2",
            path.display()
        )));
    }
    let candidates = candidates(
        own_directory().as_deref(),
        env::var_os("VIRTUAL_ENV").as_deref(),
        env::var_os("LD_LIBRARY_PATH").as_deref(),
    );
    candidates.iter().find(|path| has_library(path)).cloned().ok_or_else(|| {
        let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        Status::failed_precondition(format!(
            "There is no TensorFlow library: name the directory that has libtensorflow_cc.so.2 by \
             the option tensorflow_directory or in {VARIABLE} (in a Python environment it is \
             site-packages/tensorflow). Tried: {}",
            tried.join(", ")
        ))
    })
}

/// Where a library may be: in the Python environment that this one was installed into, in the one
/// that is active, and where the dynamic linker looks.
fn candidates(
    own: Option<&Path>,
    environment: Option<&OsStr>,
    linker: Option<&OsStr>,
) -> Vec<PathBuf> {
    let beside = own.into_iter().flat_map(Path::ancestors);
    // `own` is the directory `lib` of a prefix, or below it.
    let libraries = beside.take(3).map(Path::to_owned);
    let active = environment.map(|path| Path::new(path).join("lib"));
    let mut found: Vec<PathBuf> =
        libraries.chain(active).flat_map(|library| wheels(&library)).collect();
    found.extend(linker.into_iter().flat_map(env::split_paths).filter(|path| path.is_absolute()));
    found.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    found
}

/// `python3.X/site-packages/tensorflow` below a directory of libraries.
fn wheels(library: &Path) -> Vec<PathBuf> {
    let children = std::fs::read_dir(library).into_iter().flatten().flatten();
    let pythons = children
        .filter(|child| child.file_name().to_str().is_some_and(|name| name.starts_with("python3")));
    let mut found: Vec<PathBuf> =
        pythons.map(|python| python.path().join("site-packages/tensorflow")).collect();
    found.sort();
    found.retain(|path| path.is_dir());
    found
}

/// The directory of the file that this code was loaded from.
fn own_directory() -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    let address = (own_directory as *const ()).cast::<libc::c_void>();
    // SAFETY: the structure is ours, and filled in where the result is not 0; its name is a string
    // of the dynamic linker's that stays for as long as this code.
    let file = unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    let file = PathBuf::from(file.to_str().ok()?).canonicalize().ok()?;
    file.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_found_beside_the_library_and_in_the_active_environment() {
        let root = std::env::temp_dir().join(format!("servable-library-{}", std::process::id()));
        let wheel =
            |prefix: &str| root.join(prefix).join("lib/python3.11/site-packages/tensorflow");
        for prefix in ["own", "active"] {
            std::fs::create_dir_all(wheel(prefix)).unwrap();
        }
        let own = root.join("own/lib");
        let found =
            candidates(Some(&own), Some(root.join("active").as_os_str()), Some("/a:b:/c".as_ref()));
        std::fs::remove_dir_all(&root).unwrap();

        let rest = ["/a", "/c", "/usr/local/lib", "/usr/lib"].map(PathBuf::from);
        assert_eq!(found, [&[wheel("own"), wheel("active")][..], &rest].concat());
    }

    #[test]
    fn a_directory_without_the_library_is_told_of_with_who_named_it() {
        let status = directory(Some(Path::new("/nowhere"))).unwrap_err();

        assert_eq!(status.code, crate::status::Code::FailedPrecondition);
        assert!(status.message.contains("/nowhere, which the option tensorflow_directory names"));
    }
}
