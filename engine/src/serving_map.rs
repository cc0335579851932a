//! What is served right now: an immutable map that requests read and publishing replaces.
//!
//! A request resolves its model once and holds the version from then on; holding it keeps that
//! version loaded, and no other. Nothing here waits: replacing the map is one pointer swap, and
//! whoever retires a version waits for that version's own handles.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
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
    /// The version that gets copies of its requests.
    shadow: ShadowSlot,
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
            shadow: ShadowSlot::default(),
            _released: ReleaseSignal::new(released),
        }
    }

    /// The same, its requests put into batches.
    #[must_use]
    pub fn batched(mut self, queues: Queues) -> Self {
        self.batching = Some(queues);
        self
    }

    /// The version to send a copy of this request to, when its turn has come.
    pub fn shadow_turn(&self) -> Option<Arc<Shadow>> {
        // All that a version without a shadow is asked.
        if !self.shadow.is_set.load(Ordering::Relaxed) {
            return None;
        }
        self.shadow.shadow.load_full().filter(|shadow| shadow.share.takes_next())
    }

    fn set_shadow(&self, shadow: Option<Shadow>) {
        self.shadow.is_set.store(shadow.is_some(), Ordering::Relaxed);
        self.shadow.shadow.store(shadow.map(Arc::new));
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

/// Where copies of requests go.
pub struct Shadow {
    pub target: Arc<ServableHandle>,
    /// How far apart equal numbers may be, as a part of the larger one.
    pub tolerance: f64,
    share: Arc<Share>,
}

#[derive(Default)]
struct ShadowSlot {
    is_set: AtomicBool,
    shadow: ArcSwapOption<Shadow>,
}

/// A part of many things, taken evenly: of any hundred in a row about that many are.
#[derive(Debug)]
pub struct Share {
    /// Of 2³².
    part: u64,
    turns: AtomicU64,
}

impl Share {
    const WHOLE: u64 = 1 << 32;

    /// `part` is from 0 to 1.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn new(part: f64) -> Self {
        Self { part: (part * Self::WHOLE as f64) as u64, turns: AtomicU64::new(1) }
    }

    pub fn takes_next(&self) -> bool {
        // Multiples of the golden ratio spread over the whole range without clustering.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        turn.wrapping_mul(GOLDEN) >> 32 < self.part
    }
}

/// How the requests for a model that name neither version nor label are divided.
#[derive(Clone, Debug)]
pub struct Route {
    /// Answers them.
    pub stable: i64,
    /// Gets a share of them, or of copies of all that `stable` answers.
    pub candidate: i64,
    /// From 0 to 1.
    pub part: f64,
    /// For copies: how far apart equal numbers may be.
    pub shadow_tolerance: Option<f64>,
    share: Arc<Share>,
}

impl Route {
    pub fn new(stable: i64, candidate: i64, part: f64, shadow_tolerance: Option<f64>) -> Self {
        Self { stable, candidate, part, shadow_tolerance, share: Arc::new(Share::new(part)) }
    }

    /// The same, going on where `before` was, if that was the same.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        let key = |route: &Self| {
            (route.stable, route.candidate, route.part.to_bits(), route.shadow_tolerance.is_some())
        };
        if key(&self) == key(before) {
            self.share = before.share.clone();
        }
        self
    }

    /// The part of the requests that a version answers.
    pub fn part_of(&self, version: i64) -> f64 {
        let part = if self.shadow_tolerance.is_some() { 0.0 } else { self.part };
        if version == self.candidate && version != self.stable {
            part
        } else if version == self.stable {
            1.0 - if self.candidate == self.stable { 0.0 } else { part }
        } else {
            0.0
        }
    }

    fn choose(&self) -> i64 {
        if self.shadow_tolerance.is_none() && self.share.takes_next() {
            self.candidate
        } else {
            self.stable
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
    /// `None`: the latest version answers what names none.
    pub route: Option<Route>,
}

impl Model {
    /// The version for a request that names none.
    fn default_version(&self) -> Option<&Arc<ServableHandle>> {
        let Some(route) = &self.route else { return self.stable_version() };
        self.versions.get(&route.choose()).or_else(|| self.stable_version())
    }

    /// The version to describe to those who name none.
    fn stable_version(&self) -> Option<&Arc<ServableHandle>> {
        match &self.route {
            None => self.versions.last_key_value().map(|(_, handle)| handle),
            Some(route) => self.versions.get(&route.stable),
        }
    }

    /// Have copies made of what the versions answer, as the route says.
    fn set_shadows(&self) {
        for (version, handle) in &self.versions {
            let route = self.route.as_ref().filter(|route| route.stable == *version);
            let shadow = route.and_then(|route| {
                let target = self.versions.get(&route.candidate)?.clone();
                let tolerance = route.shadow_tolerance?;
                Some(Shadow { target, tolerance, share: route.share.clone() })
            });
            handle.set_shadow(shadow);
        }
    }
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
        self.find(spec, Model::default_version)
    }

    /// The version to describe to who asks about `spec`: that takes nobody's turn in a share.
    ///
    /// # Errors
    /// As [`Snapshot::resolve`].
    pub fn describe(&self, spec: &ModelSpec) -> Result<Arc<ServableHandle>> {
        self.find(spec, Model::stable_version)
    }

    fn find(
        &self,
        spec: &ModelSpec,
        default: fn(&Model) -> Option<&Arc<ServableHandle>>,
    ) -> Result<Arc<ServableHandle>> {
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
            VersionChoice::Latest => model.and_then(default).cloned().ok_or_else(|| {
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
        for model in snapshot.models.values() {
            model.set_shadows();
        }
        let before = self.0.swap(Arc::new(snapshot));
        let after = self.snapshot();
        // What left must not keep another version loaded.
        for (name, model) in &before.models {
            let kept = after.models.get(name);
            for (version, handle) in &model.versions {
                let kept = kept.and_then(|kept| kept.versions.get(version));
                if kept.is_none_or(|kept| !Arc::ptr_eq(kept, handle)) {
                    handle.set_shadow(None);
                }
            }
        }
    }

    /// See [`Snapshot::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Arc<ServableHandle>> {
        self.0.load().resolve(spec)
    }

    /// See [`Snapshot::describe`].
    ///
    /// # Errors
    /// As there.
    pub fn describe(&self, spec: &ModelSpec) -> Result<Arc<ServableHandle>> {
        self.0.load().describe(spec)
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
            route: None,
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

    fn routed(versions: &[i64], route: Route) -> ServingMap {
        let mut snapshot = snapshot(versions, &[], &Released::default());
        snapshot.models.get_mut("m").unwrap().route = Some(route);
        let map = ServingMap::default();
        map.publish(snapshot);
        map
    }

    fn answers(map: &ServingMap, count: usize) -> HashMap<i64, usize> {
        let spec = ModelSpec { name: "m".into(), ..ModelSpec::default() };
        let mut answers = HashMap::new();
        for _ in 0..count {
            *answers.entry(map.resolve(&spec).unwrap().version).or_default() += 1;
        }
        answers
    }

    #[test]
    fn a_route_divides_evenly() {
        for (percent, range) in [(0, 0..=0), (1, 9..=11), (10, 99..=101), (100, 1000..=1000)] {
            let map = routed(&[1, 2], Route::new(1, 2, f64::from(percent) / 100.0, None));

            let to_candidate = answers(&map, 1000).get(&2).copied().unwrap_or_default();
            assert!(range.contains(&to_candidate), "{percent} %: {to_candidate}");
        }
        // Nobody's questions take a turn.
        let map = routed(&[1, 2], Route::new(1, 2, 0.5, None));
        let spec = ModelSpec { name: "m".into(), ..ModelSpec::default() };
        for _ in 0..10 {
            assert_eq!(map.describe(&spec).unwrap().version, 1);
        }
        // And not in one go.
        let map = routed(&[1, 2], Route::new(1, 2, 0.1, None));
        for _ in 0..10 {
            let to_candidate = answers(&map, 50).get(&2).copied().unwrap_or_default();
            assert!((3..=7).contains(&to_candidate), "{to_candidate}");
        }
    }

    #[test]
    fn a_share_goes_on_over_snapshots() {
        let route = Route::new(1, 2, 0.5, None);
        route.choose();
        let other = Route::new(1, 3, 0.5, None).after(&route);
        let same = Route::new(1, 2, 0.5, None).after(&route);

        assert!(Arc::ptr_eq(&same.share, &route.share));
        assert!(!Arc::ptr_eq(&other.share, &route.share));
    }

    #[test]
    fn without_the_candidate_the_stable_version_answers_and_without_that_none() {
        let route = || Route::new(1, 2, 1.0, None);

        assert_eq!(answers(&routed(&[1, 3], route()), 10), [(1, 10)].into());
        let map = routed(&[3], route());
        assert!(map.resolve(&ModelSpec { name: "m".into(), ..ModelSpec::default() }).is_err());
        let three = ModelSpec {
            name: "m".into(),
            version: VersionChoice::Version(3),
            ..ModelSpec::default()
        };
        assert!(map.resolve(&three).is_ok());
    }

    #[test]
    fn a_shadow_answers_nothing_and_gets_its_share_of_copies() {
        let map = routed(&[1, 2], Route::new(1, 2, 0.5, Some(0.1)));
        assert_eq!(answers(&map, 100), [(1, 100)].into());

        let spec = ModelSpec { name: "m".into(), ..ModelSpec::default() };
        let stable = map.resolve(&spec).unwrap();
        let turns: Vec<_> = (0..100).filter_map(|_| stable.shadow_turn()).collect();
        assert!((49..=51).contains(&turns.len()), "{}", turns.len());
        assert!(turns.iter().all(|shadow| shadow.target.version == 2));
        drop(turns);

        // Once the route is gone nothing holds the other version.
        let target = Arc::downgrade(&map.snapshot().models["m"].versions[&2]);
        map.publish(snapshot(&[1], &[], &Released::default()));
        assert!(stable.shadow_turn().is_none());
        assert!(target.upgrade().is_none());
    }

    #[test]
    fn parts_add_up() {
        for (route, parts) in [
            (Route::new(1, 2, 0.1, None), [0.9, 0.1]),
            (Route::new(1, 2, 0.1, Some(0.0)), [1.0, 0.0]),
            (Route::new(1, 1, 0.1, None), [1.0, 0.0]),
        ] {
            for (version, part) in [1, 2].into_iter().zip(parts) {
                assert!((route.part_of(version) - part).abs() < 1e-9, "{route:?} {version}");
            }
        }
    }
}
