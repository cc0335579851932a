//! The files of one log: TFRecord framing, names, when the next file begins, and which ones go.
//!
//! A file has the suffix `.part` for as long as it is written to; what has not is whole, and is not
//! touched again but to remove it. A record is written whole or not at all. What was left by who
//! was killed is finished by the next who writes such a log.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{leftovers, seconds_since_1970};

/// How much is kept where.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A file that has as much is finished.
    pub file_bytes: u64,
    /// A file that is as old is finished.
    pub file_age: Duration,
    /// Finished files of one prefix that are kept; 0 keeps all.
    pub max_files: usize,
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
                // It ends in the middle of a record, and stays a part until the next start.
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

    /// Finish the open file if it is full, or old; which that was.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish_if_due(&mut self, now: Instant) -> io::Result<Option<PathBuf>> {
        let is_due = self.open.as_ref().is_some_and(|open| {
            open.bytes >= self.limits.file_bytes || open.due_at.is_some_and(|due_at| due_at <= now)
        });
        if is_due {
            self.finish()
        } else {
            Ok(None)
        }
    }

    /// Finish the open file, if there is one; which that was.
    ///
    /// # Errors
    /// What the file system says; the file then keeps its suffix.
    pub fn finish(&mut self) -> io::Result<Option<PathBuf>> {
        let Some(open) = self.open.take() else { return Ok(None) };
        open.file.sync_data()?;
        let finished = open.path.with_extension("");
        std::fs::rename(&open.path, &finished)?;
        Ok(Some(finished))
    }

    /// Remove the oldest finished files, whichever process wrote them, so that as many as the
    /// limits say are left. The one `just_finished` stays, even if clocks have gone back since the
    /// others.
    ///
    /// # Errors
    /// What the file system says, once all has been tried.
    pub fn remove_oldest(&self, just_finished: &Path) -> io::Result<()> {
        let Some(most_others) = self.limits.max_files.checked_sub(1) else { return Ok(()) };
        let folder = folder_of(just_finished);
        let mut others = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(age) = name.to_str().and_then(|name| self.age(name)) else { continue };
            if Some(name.as_os_str()) != just_finished.file_name() && entry.file_type()?.is_file() {
                others.push((age, entry.path()));
            }
        }
        others.sort_unstable();
        let surplus = others.len().saturating_sub(most_others);
        let removed = others[..surplus].iter().map(|(_, path)| match std::fs::remove_file(path) {
            // Somebody else keeps the folder tidy, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        });
        removed.fold(Ok(()), Result::and)
    }

    /// Finish the files that somebody who was killed has left; the last one of them.
    ///
    /// # Errors
    /// What the file system says, once all has been tried.
    pub fn finish_leftovers(&self) -> io::Result<Option<PathBuf>> {
        let entries = match std::fs::read_dir(folder_of(Path::new(&self.prefix))) {
            // Who writes will tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        let mut last = Ok(None);
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let finished = name.to_str().and_then(|name| name.strip_suffix(".part"));
            let Some(finished) = finished.filter(|name| self.age(name).is_some()) else { continue };
            if !entry.file_type()?.is_file() {
                continue;
            }
            match leftovers::finish(&entry.path(), entry.path().with_file_name(finished)) {
                Ok(None) => {}
                // Somebody else who starts does so, too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                finished => last = last.and(finished),
            }
        }
        last
    }

    /// The numbers in the name of a finished file of this log, which tell how old it is; `None` for
    /// every other file, that of a log whose prefix begins like this one's among them.
    fn age(&self, name: &str) -> Option<[u64; 3]> {
        let prefix = self.prefix.rsplit('/').next()?;
        let written = name.strip_prefix(prefix)?.strip_suffix(FINISHED)?;
        let numbers = written.strip_prefix('-')?.split('-').map(|number| number.parse().ok());
        let numbers: [u64; 3] = numbers.collect::<Option<Vec<_>>>()?.try_into().ok()?;
        // As we write them: without signs and zeros in front.
        (suffix(numbers) == written).then_some(numbers)
    }

    fn create(&self, now: Instant) -> io::Result<Open> {
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let suffix = suffix([seconds_since_1970(), std::process::id().into(), number]);
            let path = PathBuf::from(format!("{}{suffix}{FINISHED}.part", self.prefix));
            // Requests are nobody else's business.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            if leftovers::lock_new(&file)? {
                let due_at = now.checked_add(self.limits.file_age);
                return Ok(Open { file, path, bytes: 0, due_at });
            }
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What the name of a finished file ends with.
const FINISHED: &str = ".tfrecord";

/// What stands between prefix and end: seconds since 1970, process, and number of the file in it.
fn suffix([seconds, process, number]: [u64; 3]) -> String {
    format!("-{seconds}-{process}-{number}")
}

/// Bytes before the data of a record.
pub const HEADER: usize = 12;

/// Append what `write` writes as one record: length, data, and a checksum of each.
pub fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    write(out);
    let length = ((out.len() - start - HEADER) as u64).to_le_bytes();
    out[start..start + 8].copy_from_slice(&length);
    out[start + 8..start + HEADER].copy_from_slice(&masked_crc32c(&length).to_le_bytes());
    let checksum = masked_crc32c(&out[start + HEADER..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The checksum of a record's parts.
pub fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_file_is_finished() {
        let folder = std::env::temp_dir().join(format!("old-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let limits = Limits {
            file_bytes: 100,
            file_age: Duration::from_secs(60),
            max_files: 0,
            queue_bytes: 0,
        };
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

    /// What is left in a folder with `names` once `finished` is there, too.
    fn kept(test: &str, max_files: usize, finished: &str, names: &[&str]) -> Vec<String> {
        let folder = std::env::temp_dir().join(format!("kept-{test}-{}", std::process::id()));
        // A folder is none of our files, whatever its name.
        std::fs::create_dir_all(folder.join("log-2-2-2.tfrecord")).unwrap();
        let limits = Limits { file_bytes: 1, file_age: Duration::MAX, max_files, queue_bytes: 0 };
        for name in names.iter().chain([&finished]) {
            std::fs::write(folder.join(name), "record").unwrap();
        }
        let files = Files::new(folder.join("log").to_str().unwrap(), limits);
        files.remove_oldest(&folder.join(finished)).unwrap();
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        let entries = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut left: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        left.sort();
        std::fs::remove_dir_all(&folder).unwrap();
        left
    }

    #[test]
    fn the_oldest_finished_files_go_when_there_are_too_many() {
        let names = ["log-9-9-9.tfrecord", "log-10-1-0.tfrecord", "log-10-1-10.tfrecord"];
        let newest = "log-11-1-11.tfrecord";

        // By time, and within a second by number: not as text.
        assert_eq!(
            kept("three", 3, newest, &names),
            ["log-10-1-0.tfrecord", "log-10-1-10.tfrecord", newest]
        );
        assert_eq!(kept("two", 2, newest, &names), ["log-10-1-10.tfrecord", newest]);
        assert_eq!(kept("one", 1, newest, &names), [newest]);
        assert_eq!(kept("all", 0, newest, &names).len(), 4);
        assert_eq!(kept("few", 9, newest, &names).len(), 4);
        // A clock that went back does not cost what was finished just now.
        let early = "log-8-1-12.tfrecord";
        assert_eq!(kept("back", 2, early, &names), ["log-10-1-10.tfrecord", early]);
    }

    #[test]
    fn files_that_are_written_to_or_are_not_ours_stay() {
        let not_ours = [
            "log-1-1-1.tfrecord.part",
            "log-1-1-1.tfrecord.gz",
            "log-1-1.tfrecord",
            "log-1-1-1-1.tfrecord", // of a log with the prefix "log-1"
            "log-+1-1-1.tfrecord",
            "log-01-1-1.tfrecord",
            "log-1-1-kept.tfrecord",
            "log.tfrecord",
            "log1-1-1-1.tfrecord",
            "catalog-1-1-1.tfrecord",
        ];
        let mut expected: Vec<_> = not_ours.iter().map(ToString::to_string).collect();
        expected.push("log-9-1-1.tfrecord".to_owned());
        expected.sort();

        assert_eq!(kept("others", 1, "log-9-1-1.tfrecord", &not_ours), expected);
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
