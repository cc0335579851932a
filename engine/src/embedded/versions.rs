//! Which versions of a model there are, and which of them are worth a try.
//!
//! Names mean what they mean to the server: a child that reads as a number is a version. Whoever
//! copies one into place does not say when it is complete; a version that failed is tried again
//! when its files are others than then, and nobody is changing them any more.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::status::{Result, Status};

const GRAPH_FILES: [&str; 2] = ["saved_model.pb", "saved_model.pbtxt"];

/// A version, and where its files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub number: i64,
    pub path: PathBuf,
}

/// Whether a directory is a SavedModel itself.
pub fn is_saved_model(path: &Path) -> bool {
    GRAPH_FILES.iter().any(|file| path.join(file).exists())
}

/// The versions at `path`, the newest first: itself alone, where it is a SavedModel.
///
/// # Errors
/// NOT_FOUND, or PERMISSION_DENIED, when it cannot be listed.
pub fn list(path: &Path) -> Result<Vec<Found>> {
    if is_saved_model(path) {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(number).unwrap_or_default();
        return Ok(vec![Found { number, path: path.to_owned() }]);
    }
    let children = fs::read_dir(path).map_err(|error| {
        let message = format!("{} cannot be listed: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Status::permission_denied(message),
            _ => Status::not_found(message),
        }
    })?;
    let names = children.flatten().filter_map(|child| child.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    // Of names for the same number the last counts.
    let found: BTreeMap<i64, String> =
        names.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
    let newest_first = found.into_iter().rev().map(|(number, name)| {
        // A link may lead elsewhere while a version is read, and half of one with half of another
        // is none.
        let path = path.join(name);
        Found { number, path: path.canonicalize().unwrap_or(path) }
    });
    Ok(newest_first.collect())
}

/// The number that a name stands for.
fn number(name: &str) -> Option<i64> {
    name.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']).parse().ok()
}

/// What is in a directory, as far as it can be seen without reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    /// What is looked at of a version with more entries.
    const MAX_ENTRIES: usize = 10_000;

    /// Names, sizes and times of everything below `path`; what cannot be read counts as empty.
    pub fn of(path: &Path) -> Self {
        let mut entries: Vec<(PathBuf, u64, i64, i64)> = Vec::new();
        let mut seen = HashSet::new();
        let mut to_see = vec![path.to_owned()];
        while let Some(path) = to_see.pop() {
            if entries.len() >= Self::MAX_ENTRIES {
                break;
            }
            let Ok(file) = fs::metadata(&path) else {
                entries.push((path, 0, -1, -1));
                continue;
            };
            if file.is_dir() && seen.insert((file.dev(), file.ino())) {
                let children = fs::read_dir(&path).into_iter().flatten().flatten();
                to_see.extend(children.map(|child| child.path()));
            }
            entries.push((path, file.size(), file.mtime(), file.mtime_nsec()));
        }
        entries.sort();
        let mut hasher = DefaultHasher::new();
        entries.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The versions that failed: what was in them then, and at the last look.
#[derive(Default)]
pub struct Attempts(HashMap<i64, (Content, Content)>);

impl Attempts {
    /// Whether to try a version with this content, seen now.
    pub fn is_worth(&mut self, number: i64, content: Content) -> bool {
        let Some((tried, seen)) = self.0.get_mut(&number) else { return true };
        let is_stable = *seen == content;
        *seen = content;
        is_stable && *tried != content
    }

    pub fn failed(&mut self, number: i64, content: Content) {
        self.0.insert(number, (content, content));
    }

    pub fn loaded(&mut self, number: i64) {
        self.0.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_read_as_a_number_are_versions() {
        for (name, expected) in [
            ("1", Some(1)),
            ("0012", Some(12)),
            ("-3", Some(-3)),
            ("+7", Some(7)),
            (" 5\n", Some(5)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1a", None),
            ("1.0", None),
            ("", None),
            ("current", None),
        ] {
            assert_eq!(number(name), expected, "{name:?}");
        }
    }

    #[test]
    fn what_failed_is_tried_again_when_it_is_another_and_stays_so() {
        let mut attempts = Attempts::default();
        assert!(attempts.is_worth(1, Content(1)));
        attempts.failed(1, Content(1));

        for (content, expected, what) in [
            (1, false, "the same"),
            (2, false, "being copied"),
            (3, false, "being copied"),
            (3, true, "copied"),
        ] {
            assert_eq!(attempts.is_worth(1, Content(content)), expected, "{what}");
        }
        attempts.failed(1, Content(3));
        assert!(!attempts.is_worth(1, Content(3)));
        attempts.loaded(1);
        assert!(attempts.is_worth(1, Content(3)));
    }

    #[test]
    fn a_directory_shows_when_something_in_it_changes() {
        let root = std::env::temp_dir().join(format!("servable-content-{}", std::process::id()));
        let deep = root.join("variables");
        fs::create_dir_all(&deep).unwrap();
        let mut seen = vec![Content::of(&root)];
        fs::write(deep.join("variables.index"), "1").unwrap();
        seen.push(Content::of(&root));
        fs::write(deep.join("variables.index"), "12").unwrap();
        seen.push(Content::of(&root));
        std::os::unix::fs::symlink(&root, deep.join("loop")).unwrap();
        seen.push(Content::of(&root));
        let again = Content::of(&root);
        fs::remove_dir_all(&root).unwrap();

        assert_eq!(seen.last(), Some(&again));
        let different: HashSet<u64> = seen.iter().map(|content| content.0).collect();
        assert_eq!(different.len(), seen.len());
    }
}
