//! What is told of models: the state of their versions, and their signatures.

use super::proto_json;
use super::service::Service;
use crate::inference::model_status::{VersionStatus, STATES};
use crate::metrics::Exchange;
use crate::serving_map::{ModelSpec, VersionChoice};
use crate::status::{Result, Status};
use crate::tensor::json::text::write_string;

impl Service {
    /// A label is not looked at: all versions are told of.
    pub(super) fn status(&self, spec: &ModelSpec) -> Result<Vec<u8>> {
        let version = match spec.version {
            VersionChoice::Version(version) => Some(version),
            VersionChoice::Latest | VersionChoice::Label(_) => None,
        };
        Ok(status_body(&self.app.states.get(&spec.name, version)?))
    }

    pub(super) fn metadata(
        &self,
        spec: &ModelSpec,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<u8>> {
        let handle = self.app.map.resolve(spec)?;
        exchange.resolved(&handle.series, "");
        let mut out = b"{\n\"model_spec\":{\n \"name\": ".to_vec();
        write_string(&mut out, spec.name.as_bytes());
        out.extend_from_slice(b",\n \"version\": \"");
        out.extend_from_slice(handle.version.to_string().as_bytes());
        out.extend_from_slice(
            b"\",\n \"signature_name\": \"\"\n}\n,\n\"metadata\": {\"signature_def\": ",
        );
        let map = handle.servable.signature_def_map();
        proto_json::write_message(&mut out, ".tensorflow.serving.SignatureDefMap", map, 0)
            .map_err(|_| Status::internal("The signatures of the model cannot be read."))?;
        out.extend_from_slice(b"\n}\n}\n");
        Ok(out)
    }
}

/// The body that tells what became of versions.
fn status_body(versions: &[VersionStatus]) -> Vec<u8> {
    let mut out = b"{\n \"model_version_status\": [".to_vec();
    for (at, version) in versions.iter().enumerate() {
        let VersionStatus { version, state, code, message } = version;
        let known = STATES.iter().find(|(number, _)| number == state);
        let state = known.map_or("UNKNOWN", |(_, name)| name);
        out.extend_from_slice(if at > 0 { b",\n  {\n" } else { b"\n  {\n" });
        out.extend_from_slice(
            format!(
                "   \"version\": \"{version}\",\n   \"state\": \"{state}\",\n   \"status\": {{\n    \
                 \"error_code\": \"{}\",\n    \"error_message\": ",
                code.name()
            )
            .as_bytes(),
        );
        write_string(&mut out, message.as_bytes());
        out.extend_from_slice(b"\n   }\n  }");
    }
    if !versions.is_empty() {
        out.extend_from_slice(b"\n ");
    }
    out.extend_from_slice(b"]\n}\n");
    out
}
