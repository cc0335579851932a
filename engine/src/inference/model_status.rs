//! What became of every version that was ever seen, as GetModelStatus tells it.

use std::collections::{BTreeMap, HashMap};

use parking_lot::RwLock;

use crate::status::{Code, Result, Status};

/// `ModelVersionStatus`: state is its number on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionStatus {
    pub version: i64,
    pub state: i32,
    pub code: Code,
    pub message: String,
}

/// Name and wire number of the states of a version.
pub const STATES: [(i32, &str); 6] = [
    (0, "UNKNOWN"),
    (10, "START"),
    (20, "LOADING"),
    (30, "AVAILABLE"),
    (40, "UNLOADING"),
    (50, "END"),
];

const AVAILABLE: i32 = 30;

/// The last state of every version, by model; versions are never forgotten.
#[derive(Default)]
pub struct VersionStates(RwLock<HashMap<String, BTreeMap<i64, VersionStatus>>>);

impl VersionStates {
    pub fn set(&self, model: &str, status: VersionStatus) {
        let mut models = self.0.write();
        models.entry(model.to_owned()).or_default().insert(status.version, status);
    }

    /// Whether any version of the model is AVAILABLE.
    pub fn is_available(&self, model: &str) -> bool {
        let models = self.0.read();
        models.get(model).is_some_and(|versions| versions.values().any(|v| v.state == AVAILABLE))
    }

    /// Every version that ever was, sorted.
    pub fn all(&self) -> Vec<(String, VersionStatus)> {
        let models = self.0.read();
        let mut all: Vec<_> = models
            .iter()
            .flat_map(|(model, versions)| versions.values().map(|v| (model.clone(), v.clone())))
            .collect();
        drop(models);
        all.sort_by(|one, other| (&one.0, one.1.version).cmp(&(&other.0, other.1.version)));
        all
    }

    /// The status of one version, or of all, newest first.
    ///
    /// # Errors
    /// NOT_FOUND when there never was such a version or model.
    pub fn get(&self, model: &str, version: Option<i64>) -> Result<Vec<VersionStatus>> {
        let models = self.0.read();
        let versions = models.get(model);
        match version {
            Some(version) => {
                let status = versions.and_then(|versions| versions.get(&version)).cloned();
                status.map(|status| vec![status]).ok_or_else(|| {
                    Status::not_found(format!("Could not find version {version} of model {model}"))
                })
            }
            None => match versions {
                Some(versions) => Ok(versions.values().rev().cloned().collect()),
                None => {
                    Err(Status::not_found(format!("Could not find any versions of model {model}")))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_newest_first_and_unknown_ones_are_not_found() {
        let states = VersionStates::default();
        let status =
            |version| VersionStatus { version, state: 30, code: Code::Ok, message: String::new() };
        states.set("m", status(2));
        states.set("m", status(10));

        let all: Vec<i64> = states.get("m", None).unwrap().iter().map(|s| s.version).collect();
        assert_eq!(all, [10, 2]);
        assert_eq!(states.get("m", Some(2)).unwrap(), [status(2)]);
        assert_eq!(
            states.get("m", Some(9)).unwrap_err(),
            Status::not_found("Could not find version 9 of model m")
        );
        assert_eq!(
            states.get("n", None).unwrap_err(),
            Status::not_found("Could not find any versions of model n")
        );
    }
}
