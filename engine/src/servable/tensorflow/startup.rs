//! What the start of TensorFlow leaves resident, and nobody needs again.
//!
//! Before the first model is loaded the library registers thousands of operations and kernels. The
//! code for that is a third of what an idle server holds; unmapped once, what is needed later is
//! mapped again as it is called, without being read again.

use std::ops::Range;
use std::sync::Once;

static FIRST_LOAD: Once = Once::new();

/// Take the code of the library that has a function at `address`, and of the libraries beside it,
/// out of resident memory; only the first call does so.
pub fn forget_code(address: usize) {
    FIRST_LOAD.call_once(|| {
        #[cfg(target_os = "linux")]
        for code in std::fs::read_to_string("/proc/self/maps")
            .iter()
            .flat_map(|maps| code_beside(maps, address))
        {
            // SAFETY: code is mapped from a file and never written, so that every page of it comes
            // back as it was.
            unsafe {
                libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED);
            }
        }
    });
}

/// The mappings of code from files in the directory of the file that is mapped at `address`.
fn code_beside(maps: &str, address: usize) -> Vec<Range<usize>> {
    let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    let own = mappings.iter().find(|mapping| mapping.range.contains(&address));
    let Some(own) = own.filter(|own| !own.directory.is_empty()) else { return Vec::new() };
    let beside = mappings.iter().filter(|mapping| mapping.directory == own.directory);
    beside.filter(|mapping| mapping.is_code).map(|mapping| mapping.range.clone()).collect()
}

struct Mapping<'m> {
    range: Range<usize>,
    is_code: bool,
    /// Of the file; empty when there is none.
    directory: &'m str,
}

impl<'m> Mapping<'m> {
    /// A line of `/proc/PID/maps`: addresses, rights, offset, device, inode, and the file.
    fn parse(line: &'m str) -> Option<Self> {
        let (addresses, rest) = line.split_once(' ')?;
        let (start, end) = addresses.split_once('-')?;
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        let directory = rest.find('/').and_then(|at| rest[at..].rsplit_once('/'));
        Some(Self {
            range: hexadecimal(start)?..hexadecimal(end)?,
            is_code: rest.starts_with("r-xp "),
            directory: directory.map_or("", |(directory, _)| directory),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
        1000-2000 r--p 00000000 fe:00 7 /a b/tf/libx_cc.so.2\n\
        2000-4000 r-xp 00001000 fe:00 7 /a b/tf/libx_cc.so.2\n\
        4000-5000 r--p 00003000 fe:00 7 /a b/tf/libx_cc.so.2\n\
        5000-6000 rw-p 00004000 fe:00 7 /a b/tf/libx_cc.so.2\n\
        7000-8000 r-xp 00000000 fe:00 8 /a b/tf/libx_framework.so.2\n\
        8000-9000 r-xp 00000000 fe:00 9 /a b/libpython3.so\n\
        9000-a000 rw-p 00000000 00:00 0 [heap]\n\
        a000-b000 r-xp 00000000 00:00 0\n\
        nonsense\n";

    #[test]
    fn only_code_of_the_library_and_those_beside_it_is_forgotten() {
        for (address, expected) in [
            (0x2abc, &[0x2000..0x4000, 0x7000..0x8000][..]),
            (0x7000, &[0x2000..0x4000, 0x7000..0x8000]),
            (0x8001, std::slice::from_ref(&(0x8000..0x9000))),
            (0x9001, &[]),
            (0xa001, &[]),
            (0xf000, &[]),
        ] {
            assert_eq!(code_beside(MAPS, address), expected, "{address:x}");
        }
    }

    #[test]
    fn what_is_forgotten_still_runs() {
        for _ in 0..2 {
            forget_code(only_code as *const () as usize);
        }
        only_code();
    }

    fn only_code() {
        only_code_of_the_library_and_those_beside_it_is_forgotten();
    }
}
