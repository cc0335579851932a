//! What is told of models: which there are, the state of their versions, and their signatures; and
//! how others take their place.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{json, Map, Value};

use super::gzip::Inflation;
use super::head::Head;
use super::media::Media;
use super::predict::not_parsed;
use super::proto_json;
use super::reply::Reply;
use super::service::{Body, Failure, Service};
use crate::frontend::peer::Peer;
use crate::inference::model_status::{VersionStatus, STATES};
use crate::inference::reload;
use crate::metrics::Exchange;
use crate::protos::tensorflow::serving::ReloadConfigRequest;
use crate::serving_map::{ModelSpec, VersionChoice};
use crate::status::{Result, Status};
use crate::tensor::json::text::write_string;

impl Service {
    /// All models that there ever were, with the labels of those that are served.
    pub(super) fn list(&self) -> Vec<u8> {
        let snapshot = self.app.map.snapshot();
        let mut models: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (name, status) in self.app.states.all() {
            models.entry(name).or_default().insert(0, version(&status));
        }
        let list: Vec<Value> = models
            .into_iter()
            .map(|(name, versions)| {
                let labels = snapshot.models.get(&name).map(|model| {
                    let labels = model.labels.iter();
                    labels.map(|(label, version)| (label.clone(), version.to_string().into()))
                });
                let labels: Map<String, Value> = labels.into_iter().flatten().collect();
                json!({"name": name, "version_labels": labels, "model_version_status": versions})
            })
            .collect();
        // A value of strings and lists has a text.
        let mut body = serde_json::to_vec_pretty(&json!({"models": list})).unwrap_or_default();
        body.push(b'\n');
        body
    }

    /// Replace what is served.
    pub(super) async fn reload(
        &self,
        head: &Head,
        peer: Peer,
        body: Body,
    ) -> std::result::Result<Reply, Failure> {
        peer.check_may_administrate(&self.app.options, "config:reload")?;
        if head.is_from_page {
            // Any page that an administrator looks at could ask for it.
            let message = "config:reload is not answered to pages in a browser";
            return Err(Status::permission_denied(message).into());
        }
        let media = body.content;
        let inflation = Inflation::of(&self.app.options);
        let request = self
            .convert(body.is_large(), body.run_options(), move || {
                let bytes = body.read(&inflation)?;
                Ok::<_, Failure>(match media {
                    Media::Protobuf => {
                        ReloadConfigRequest::decode(&*bytes).map_err(|_| not_parsed())?
                    }
                    _ => message_of_json(&bytes)?,
                })
            })
            .await?;
        let response = reload::reload(&self.app, request).await?.encode_to_vec();
        if media == Media::Protobuf {
            return Ok(Reply::new(200, media.content_type(), response));
        }
        let mut out = Vec::new();
        proto_json::write_message(&mut out, RELOAD_RESPONSE, &response, 0)
            .map_err(|_| Status::internal("The answer cannot be written."))?;
        out.push(b'\n');
        Ok(Reply::json(200, out))
    }

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
        let handle = self.app.map.describe(spec)?;
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

const RELOAD_RESPONSE: &str = ".tensorflow.serving.ReloadConfigResponse";

/// The `ReloadConfigRequest` that a JSON document is, by protobuf's own mapping.
fn message_of_json(document: &[u8]) -> Result<ReloadConfigRequest> {
    let wrong = |what: &dyn std::fmt::Display| {
        Status::invalid_argument(format!("The body is no ReloadConfigRequest: {what}"))
    };
    let pool = DescriptorPool::decode(crate::protos::DESCRIPTORS).map_err(|e| wrong(&e))?;
    let kind = pool.get_message_by_name("tensorflow.serving.ReloadConfigRequest");
    let kind = kind.ok_or_else(|| wrong(&"its type is not known"))?;
    let mut reader = serde_json::Deserializer::from_slice(document);
    let message = DynamicMessage::deserialize(kind, &mut reader).map_err(|e| wrong(&e))?;
    reader.end().map_err(|e| wrong(&e))?;
    message.transcode_to().map_err(|e| wrong(&e))
}

fn version(status: &VersionStatus) -> Value {
    let VersionStatus { version, state, code, message } = status;
    json!({
        "version": version.to_string(),
        "state": state_name(*state),
        "status": {"error_code": code.name(), "error_message": message},
    })
}

fn state_name(state: i32) -> &'static str {
    STATES.iter().find(|(number, _)| *number == state).map_or("UNKNOWN", |(_, name)| name)
}

/// The body that tells what became of versions.
fn status_body(versions: &[VersionStatus]) -> Vec<u8> {
    let mut out = b"{\n \"model_version_status\": [".to_vec();
    for (at, version) in versions.iter().enumerate() {
        let VersionStatus { version, state, code, message } = version;
        let state = state_name(*state);
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
