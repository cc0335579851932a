//! `tensorflow.serving.ModelService`.

use bytes::Bytes;
use prost::Message as _;

use super::service::{Method, Table};
use super::unparsable;
use crate::app::App;
use crate::inference::spec;
use crate::protos::tensorflow::serving::{
    GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus, StatusProto,
};
use crate::serving_map::VersionChoice;
use crate::status::{Result, Status};
use crate::wire::Message;

pub struct Models;

impl Table for Models {
    const NAME: &'static str = "tensorflow.serving.ModelService";

    fn method(name: &str) -> Option<Method> {
        Some(match name {
            "GetModelStatus" => |app, message, _| Box::pin(async move { status(&app, message) }),
            _ => return None,
        })
    }
}

fn status(app: &App, message: Bytes) -> Result<Message> {
    let request = GetModelStatusRequest::decode(message).map_err(|_| unparsable())?;
    let requested =
        request.model_spec.ok_or_else(|| Status::invalid_argument("Missing ModelSpec"))?;
    let requested = spec::from_message(requested);
    let version = match requested.version {
        VersionChoice::Version(version) => Some(version),
        VersionChoice::Latest | VersionChoice::Label(_) => None,
    };
    let statuses = app.states.get(&requested.name, version)?;
    let model_version_status = statuses
        .into_iter()
        .map(|status| ModelVersionStatus {
            version: status.version,
            state: status.state,
            status: Some(StatusProto {
                error_code: status.code.number(),
                error_message: status.message,
            }),
        })
        .collect();
    Ok(Message::from(&GetModelStatusResponse { model_version_status }))
}
