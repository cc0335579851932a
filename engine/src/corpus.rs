//! The inputs in `tests/corpora`, for the tests of parsers.

use std::fs;
use std::path::Path;

/// Cuts and replaced bytes tried for one file; longer files are sampled evenly.
const PLACES: usize = 64;
/// What a byte is replaced by.
const BYTES: [u8; 6] = [0, b'0', b'"', b'{', 0x7f, 0xff];

/// Give a parser every input of a corpus: as it is, cut short, and with one byte replaced.
///
/// # Panics
/// When there is no such corpus.
pub fn each(corpus: &str, mut parse: impl FnMut(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora").join(corpus);
    let entries = fs::read_dir(&directory).expect("a corpus of that name");
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{corpus} is empty");
    for file in files {
        let input = fs::read(&file).unwrap();
        parse(&input);
        for at in (0..input.len()).step_by(input.len().div_ceil(PLACES).max(1)) {
            parse(&input[..at]);
            let mut changed = input.clone();
            for byte in BYTES {
                changed[at] = byte;
                parse(&changed);
            }
        }
    }
}
