//! What a server that was killed has left of a log: files that nobody will finish.
//!
//! A file is locked for as long as it is written to, so that one without a lock is left over,
//! whichever process wrote it. It ends where the last whole record ends; what is behind is the
//! beginning of a record. Where files cannot be locked, nothing is touched.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::{masked_crc32c, HEADER};

/// Lock a file that was just made; false when somebody has found it without a lock, and then it is
/// not to be used.
pub fn lock_new(file: &File) -> io::Result<bool> {
    match lock(file) {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        // No locks are known here; then nobody takes what has none for left over.
        Err(_) => Ok(true),
    }
}

/// Finish a file that is left over; what it is called then. `None` if it is not left over, or has
/// no record and is removed.
///
/// # Errors
/// What the file system says.
pub fn finish(path: &Path, finished: PathBuf) -> io::Result<Option<PathBuf>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if lock(&file).is_err() || finished.exists() {
        return Ok(None);
    }
    let whole = whole_records(BufReader::with_capacity(1 << 20, &file))?;
    if whole == 0 {
        std::fs::remove_file(path)?;
        return Ok(None);
    }
    if whole < file.metadata()?.len() {
        file.set_len(whole)?;
    }
    file.sync_data()?;
    std::fs::rename(path, &finished)?;
    Ok(Some(finished))
}

fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of the records, from the first one on, that are there and sound.
fn whole_records(mut file: impl Read) -> io::Result<u64> {
    let mut whole = 0;
    let mut data = Vec::new();
    loop {
        let mut header = [0; HEADER];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(whole),
            read => read?,
        }
        let (length, sum) = header.split_at(8);
        if masked_crc32c(length).to_le_bytes() != sum {
            return Ok(whole);
        }
        let length = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
        data.clear();
        // What is there, and not what is promised, is made room for.
        file.by_ref().take(length).read_to_end(&mut data)?;
        let mut sum = [0; 4];
        match file.read_exact(&mut sum) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(whole),
            read => read?,
        }
        if data.len() as u64 != length || masked_crc32c(&data).to_le_bytes() != sum {
            return Ok(whole);
        }
        whole += (HEADER + sum.len()) as u64 + length;
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::frame;
    use super::*;

    fn records() -> Vec<u8> {
        let mut records = Vec::new();
        frame(&mut records, |out| out.extend_from_slice(b"one"));
        frame(&mut records, |out| out.extend_from_slice(b"another"));
        records
    }

    #[test]
    fn a_file_ends_where_its_last_whole_record_does() {
        let records = records();
        let first = HEADER + 3 + 4;
        for cut in 0..=records.len() {
            let whole = match cut {
                _ if cut == records.len() => cut,
                _ if cut >= first => first,
                _ => 0,
            };
            assert_eq!(whole_records(&records[..cut]).unwrap(), whole as u64, "cut at {cut}");
        }
        for at in first..records.len() {
            let mut damaged = records.clone();
            damaged[at] ^= 1;
            assert_eq!(whole_records(&*damaged).unwrap(), first as u64, "damaged at {at}");
        }
    }

    #[test]
    fn only_what_nobody_writes_to_is_finished() {
        let folder = std::env::temp_dir().join(format!("leftovers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (part, finished) = (folder.join("log.part"), folder.join("log"));
        let left = |bytes: &[u8]| std::fs::write(&part, bytes).unwrap();

        left(&[&records()[..], b"torn"].concat());
        let writes = File::open(&part).unwrap();
        assert!(lock_new(&writes).unwrap());
        assert_eq!(finish(&part, finished.clone()).unwrap(), None, "somebody writes to it");
        drop(writes);
        assert_eq!(finish(&part, finished.clone()).unwrap(), Some(finished.clone()));
        assert_eq!(std::fs::read(&finished).unwrap(), records());
        assert!(!part.exists());

        left(&records());
        assert_eq!(finish(&part, finished.clone()).unwrap(), None, "another has its name");
        assert!(part.exists());
        std::fs::remove_file(&finished).unwrap();

        left(b"torn");
        let found = File::open(&part).unwrap();
        assert_eq!(finish(&part, finished.clone()).unwrap(), None);
        assert!(!part.exists() && !finished.exists(), "nothing is left of nothing");
        assert!(!lock_new(&found).unwrap(), "who has just made it makes another");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
