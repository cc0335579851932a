//! The files of one log: TFRecord framing, names, and when the next file begins.
//!
//! A file has the suffix `.part` for as long as it is written to; what has not is whole, and is not
//! touched again. A record is written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::seconds_since_1970;

/// How much is kept where.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A file that has as much is finished.
    pub file_bytes: u64,
    /// A file that is as old is finished.
    pub file_age: Duration,
    /// What may wait to be written.
    pub queue_bytes: usize,
}

/// Distinguishes the files of this process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The files that have one prefix.
pub struct Files {
    prefix: String,
    limits: Limits,
    open: Option<Open>,
}

/// The file that is written to.
struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    due_at: Option<Instant>,
}

impl Files {
    pub fn new(prefix: &str, limits: Limits) -> Self {
        Self { prefix: prefix.to_owned(), limits, open: None }
    }

    /// Append framed records to the file that is open, or to a new one.
    ///
    /// # Errors
    /// What the file system says; then none of `records` is in a file.
    pub fn append(&mut self, records: &[u8], now: Instant) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(self.create(now)?);
        }
        let open = self.open.as_mut().expect("just made");
        if let Err(error) = open.file.write_all(records) {
            let taken_back = open.file.set_len(open.bytes);
            if taken_back.and_then(|()| open.file.seek(SeekFrom::Start(open.bytes))).is_err() {
                // It ends in the middle of a record, and stays a part for good.
                self.open = None;
            }
            return Err(error);
        }
        open.bytes += records.len() as u64;
        Ok(())
    }

    /// When the open file has to be finished at the latest.
    pub fn due_at(&self) -> Option<Instant> {
        self.open.as_ref()?.due_at
    }

    /// Finish the open file if it is full, or old.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish_if_due(&mut self, now: Instant) -> io::Result<()> {
        let is_due = self.open.as_ref().is_some_and(|open| {
            open.bytes >= self.limits.file_bytes || open.due_at.is_some_and(|due_at| due_at <= now)
        });
        if is_due {
            self.finish()
        } else {
            Ok(())
        }
    }

    /// Finish the open file, if there is one.
    ///
    /// # Errors
    /// What the file system says; the file then keeps its suffix.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        open.file.sync_data()?;
        std::fs::rename(&open.path, open.path.with_extension(""))
    }

    fn create(&self, now: Instant) -> io::Result<Open> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (seconds, process) = (seconds_since_1970(), std::process::id());
        let path =
            PathBuf::from(format!("{}-{seconds}-{process}-{number}.tfrecord.part", self.prefix));
        // Requests are nobody else's business.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Open { file, path, bytes: 0, due_at: now.checked_add(self.limits.file_age) })
    }
}

/// Append what `write` writes as one record: length, data, and a checksum of each.
pub fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    const HEADER: usize = 12;
    let start = out.len();
    out.resize(start + HEADER, 0);
    write(out);
    let length = ((out.len() - start - HEADER) as u64).to_le_bytes();
    out[start..start + 8].copy_from_slice(&length);
    out[start + 8..start + HEADER].copy_from_slice(&masked_crc32c(&length).to_le_bytes());
    let checksum = masked_crc32c(&out[start + HEADER..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_file_is_finished() {
        let folder = std::env::temp_dir().join(format!("old-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let limits = Limits { file_bytes: 100, file_age: Duration::from_secs(60), queue_bytes: 0 };
        let mut files = Files::new(folder.join("log").to_str().unwrap(), limits);
        let began = Instant::now();
        let extensions = || {
            let entries = std::fs::read_dir(&folder).unwrap();
            entries.map(|e| e.unwrap().path().extension().unwrap().to_owned()).collect::<Vec<_>>()
        };

        files.append(b"record", began).unwrap();
        files.finish_if_due(began + Duration::from_secs(59)).unwrap();
        assert_eq!(extensions(), ["part"]);
        files.finish_if_due(began + Duration::from_secs(60)).unwrap();
        assert_eq!(extensions(), ["tfrecord"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_record_stands_between_its_length_and_checksums() {
        let mut out = b"before".to_vec();
        frame(&mut out, |out| out.extend_from_slice(b"abc"));

        // What TensorFlow's TFRecordWriter writes.
        let framed = b"\x03\0\0\0\0\0\0\0\x0d\xc4\x03\xe6abc";
        assert_eq!(out[6..6 + 8], framed[..8]);
        assert_eq!(out[6 + 12..6 + 15], *b"abc");
        assert_eq!(out.len(), 6 + 12 + 3 + 4);
    }
}
