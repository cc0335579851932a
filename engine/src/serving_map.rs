//! What is served right now: an immutable map that requests read and publishing replaces.
//!
//! A request resolves its model once and holds the version from then on; holding it keeps that
//! version loaded, and no other. Nothing here waits: replacing the map is one pointer swap, and
//! whoever retires a version waits for that version's own handles.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};

use crate::batching::Queues;
use crate::metrics::VersionSeries;
use crate::servable::Servable;
use crate::status::{Result, Status};

/// Which version of a model a request wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VersionChoice {
    #[default]
    Latest,
    Version(i64),
    Label(String),
}

/// Name, version or label, and signature, as requests carry them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec {
    pub name: String,
    pub version: VersionChoice,
    pub signature_name: String,
}

/// One version that is being served; while somebody holds it, it stays loaded.
pub struct ServableHandle {
    pub name: String,
    pub version: i64,
    pub servable: Arc<dyn Servable>,
    /// What was counted of its requests.
    pub series: VersionSeries,
    /// Where its requests wait for one another; `None`: each runs by itself.
    pub batching: Option<Queues>,
    /// Signalled when the last handle is gone. Declared last: by then `servable` was let go.
    _released: ReleaseSignal,
}

impl ServableHandle {
    pub fn new(
        name: String,
        version: i64,
        servable: Arc<dyn Servable>,
        released: &Released,
    ) -> Self {
        Self {
            name,
            version,
            servable,
            series: VersionSeries::default(),
            batching: None,
            _released: ReleaseSignal::new(released),
        }
    }

    /// The same, its requests put into batches.
    #[must_use]
    pub fn batched(mut self, queues: Queues) -> Self {
        self.batching = Some(queues);
        self
    }

    /// The name of a signature that exists, and `""` for any other.
    pub fn known_signature<'n>(&self, name: &'n str) -> &'n str {
        if self.servable.signatures().contains_key(name) {
            name
        } else {
            ""
        }
    }
}

/// Tells whoever retires a servable that no handle of it is left.
#[derive(Clone, Default)]
pub struct Released(Arc<(Mutex<usize>, Condvar)>);

impl Released {
    pub fn in_use(&self) -> bool {
        *self.0 .0.lock() > 0
    }

    /// Wait until no handle is left; false when there still is one after `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let (count, changed) = &*self.0;
        let mut count = count.lock();
        match timeout {
            None => {
                changed.wait_while(&mut count, |count| *count > 0);
                true
            }
            Some(timeout) => {
                !changed.wait_while_for(&mut count, |count| *count > 0, timeout).timed_out()
            }
        }
    }
}

struct ReleaseSignal(Released);

impl ReleaseSignal {
    fn new(released: &Released) -> Self {
        *released.0 .0.lock() += 1;
        Self(released.clone())
    }
}

impl Drop for ReleaseSignal {
    fn drop(&mut self) {
        let (count, changed) = &*self.0 .0;
        *count.lock() -= 1;
        changed.notify_all();
    }
}

/// The versions of one model, and what its labels mean.
#[derive(Default)]
pub struct Model {
    pub versions: BTreeMap<i64, Arc<ServableHandle>>,
    pub labels: HashMap<String, i64>,
}

/// Everything that is served at one moment.
#[derive(Default)]
pub struct Snapshot {
    pub models: HashMap<String, Model>,
}

impl Snapshot {
    /// The version that `spec` means.
    ///
    /// # Errors
    /// Specification 1.3, in its order and with its texts.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Arc<ServableHandle>> {
        let ModelSpec { name, version, .. } = spec;
        if name.is_empty() {
            return Err(Status::invalid_argument("ModelSpec has no name specified."));
        }
        let model = self.models.get(name);
        let specific = |wanted: i64| {
            model.and_then(|model| model.versions.get(&wanted)).cloned().ok_or_else(|| {
                Status::not_found(format!(
                    "Servable not found for request: Specific({name}, {wanted})"
                ))
            })
        };
        match version {
            VersionChoice::Version(wanted) => specific(*wanted),
            VersionChoice::Label(label) => {
                let wanted = model.and_then(|model| model.labels.get(label)).ok_or_else(|| {
                    Status::invalid_argument(format!(
                        "Unrecognized servable version label: {label}"
                    ))
                })?;
                specific(*wanted)
            }
            VersionChoice::Latest => model
                .and_then(|model| model.versions.last_key_value())
                .map(|(_, handle)| handle.clone())
                .ok_or_else(|| {
                    Status::not_found(format!("Servable not found for request: Latest({name})"))
                }),
        }
    }
}

/// The current snapshot.
#[derive(Default)]
pub struct ServingMap(ArcSwap<Snapshot>);

impl ServingMap {
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }

    /// See [`Snapshot::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Arc<ServableHandle>> {
        self.0.load().resolve(spec)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servable::{RunOptions, Signatures};
    use crate::tensor::Tensor;
    use bytes::Bytes;

    struct Nothing(Signatures, Bytes);

    impl Servable for Nothing {
        fn signatures(&self) -> &Signatures {
            &self.0
        }
        fn signature_def_map(&self) -> &Bytes {
            &self.1
        }
        fn run(
            &self,
            _: Vec<(String, Tensor)>,
            _: &[String],
            _: RunOptions,
        ) -> Result<Vec<Tensor>> {
            Ok(vec![])
        }
    }

    fn snapshot(versions: &[i64], labels: &[(&str, i64)], released: &Released) -> Snapshot {
        let handle = |version| {
            let servable = Arc::new(Nothing(Signatures::new(), Bytes::new()));
            Arc::new(ServableHandle::new("m".into(), version, servable, released))
        };
        let model = Model {
            versions: versions.iter().map(|&version| (version, handle(version))).collect(),
            labels: labels.iter().map(|&(label, version)| (label.into(), version)).collect(),
        };
        Snapshot { models: [("m".to_owned(), model)].into() }
    }

    fn resolve(name: &str, version: VersionChoice) -> std::result::Result<i64, String> {
        let map = ServingMap::default();
        map.publish(snapshot(&[1, 3], &[("stable", 1), ("gone", 2)], &Released::default()));
        let spec = ModelSpec { name: name.into(), version, signature_name: String::new() };
        map.resolve(&spec).map(|handle| handle.version).map_err(|status| status.to_string())
    }

    #[test]
    fn a_model_spec_resolves_as_specified() {
        use VersionChoice::{Label, Latest, Version};
        let label = |label: &str| Label(label.to_owned());

        assert_eq!(resolve("m", Latest), Ok(3));
        assert_eq!(resolve("m", Version(1)), Ok(1));
        assert_eq!(resolve("m", label("stable")), Ok(1));
        for (name, version, expected) in [
            ("", Latest, "INVALID_ARGUMENT: ModelSpec has no name specified."),
            ("n", Latest, "NOT_FOUND: Servable not found for request: Latest(n)"),
            ("m", Version(0), "NOT_FOUND: Servable not found for request: Specific(m, 0)"),
            ("m", label("gone"), "NOT_FOUND: Servable not found for request: Specific(m, 2)"),
            ("m", label("?"), "INVALID_ARGUMENT: Unrecognized servable version label: ?"),
            ("n", label("?"), "INVALID_ARGUMENT: Unrecognized servable version label: ?"),
        ] {
            assert_eq!(resolve(name, version), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_version_is_released_when_its_last_handle_is_gone_and_not_before() {
        let (one, other) = (Released::default(), Released::default());
        let map = ServingMap::default();
        map.publish(snapshot(&[1], &[], &one));
        let spec = ModelSpec { name: "m".into(), ..ModelSpec::default() };
        let held = map.resolve(&spec).unwrap();
        map.publish(snapshot(&[2], &[], &other));

        assert!(!one.wait(Some(Duration::ZERO)));
        drop(held);
        assert!(one.wait(Some(Duration::ZERO)));
        assert!(other.in_use());
    }
}
