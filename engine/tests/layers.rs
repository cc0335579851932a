//! The layers of the crate, checked over its `use` lines: each module names only those below it.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder or file of `src`, and the modules of the crate it may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("status.rs", &[]),
    ("wire.rs", &[]),
    ("memory.rs", &["status"]),
    ("promptness.rs", &[]),
    ("turns.rs", &[]),
    ("admission.rs", &["status", "memory", "promptness"]),
    ("abandoned.rs", &["status"]),
    ("access.rs", &["status"]),
    ("tensor", &["status", "tensor", "wire", "protos"]),
    ("servable", &["status", "tensor", "wire", "protos", "turns", "compute", "servable"]),
    ("metrics", &["status", "metrics"]),
    ("request_log", &["status", "wire", "metrics", "request_log"]),
    (
        "batching",
        &[
            "status",
            "tensor",
            "servable",
            "metrics",
            "turns",
            "compute",
            "abandoned",
            "promptness",
            "batching",
        ],
    ),
    ("serving_map.rs", &["status", "tensor", "servable", "serving_map", "metrics", "batching"]),
    ("shadow.rs", &["status", "tensor", "servable", "serving_map", "metrics"]),
    ("compute.rs", &["status", "turns"]),
    ("composite.rs", &["status", "tensor", "compute", "servable", "serving_map", "app"]),
    (
        "inference",
        &[
            "status",
            "tensor",
            "wire",
            "protos",
            "servable",
            "serving_map",
            "metrics",
            "request_log",
            "admission",
            "turns",
            "app",
            "inference",
        ],
    ),
    (
        "embedded",
        &[
            "status",
            "tensor",
            "servable",
            "compute",
            "metrics",
            "batching",
            "inference",
            "embedded",
        ],
    ),
    (
        "frontend",
        &[
            "access",
            "status",
            "memory",
            "turns",
            "tensor",
            "wire",
            "protos",
            "servable",
            "serving_map",
            "app",
            "inference",
            "metrics",
            "request_log",
            "admission",
            "batching",
            "frontend",
        ],
    ),
];

fn sources(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.to_owned());
    }
}

/// What a file names with `crate::`, outside its tests.
fn named(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let after = code.match_indices("crate::").map(|(at, found)| &code[at + found.len()..]);
    after
        .map(|rest| {
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        })
        .filter(|name| name.chars().next().is_some_and(char::is_lowercase))
        .collect()
}

#[test]
fn modules_name_only_those_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (layer, allowed) in LAYERS {
        let mut files = Vec::new();
        sources(&src.join(layer), &mut files);
        assert!(!files.is_empty(), "{layer} is not there any more");
        for file in files {
            for name in named(&fs::read_to_string(&file).unwrap()) {
                let fine = allowed.contains(&name.as_str());
                assert!(fine, "{} names {name}, which is not below {layer}", file.display());
            }
        }
    }
}

#[test]
fn no_front_end_knows_a_runtime() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/frontend");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for runtime in ["servable::tensorflow", "servable::python"] {
            assert!(!text.contains(runtime), "{} knows {runtime}", file.display());
        }
    }
}
