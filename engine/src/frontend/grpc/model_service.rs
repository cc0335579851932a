//! `tensorflow.serving.ModelService`.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;

use super::service::{Call, Method, Table};
use crate::app::App;
use crate::inference::serialized::unparsable;
use crate::inference::spec;
use crate::metrics::{Method as Counted, Protocol};
use crate::protos::tensorflow::serving::metric::ValueIncrease;
use crate::protos::tensorflow::serving::{
    model_server_config, GetModelStatusRequest, GetModelStatusResponse, Metric, ModelVersionStatus,
    ReloadConfigRequest, ReloadConfigResponse, StatusProto,
};
use crate::serving_map::VersionChoice;
use crate::status::{code, Code, Result, Status};
use crate::wire::Message;

pub struct Models;

impl Table for Models {
    const NAME: &'static str = "tensorflow.serving.ModelService";

    fn method(name: &str) -> Option<Method> {
        Some(match name {
            "GetModelStatus" => |app, message, _| {
                Box::pin(async move {
                    let exchange = app.metrics.exchange(Counted::GetModelStatus, Protocol::Grpc);
                    let answered = status(&app, message);
                    exchange.finish(code(&answered));
                    answered
                })
            },
            "HandleReloadConfigRequest" => |app, message, call| {
                Box::pin(async move {
                    let counted = Counted::HandleReloadConfigRequest;
                    let exchange = app.metrics.exchange(counted, Protocol::Grpc);
                    let answered = reload(&app, message, call).await;
                    exchange.finish(code(&answered));
                    answered
                })
            },
            _ => return None,
        })
    }
}

/// Replace what is served, by the control plane.
async fn reload(app: &App, message: Bytes, call: Call) -> Result<Message> {
    let trusted = call.peer.is_local || call.peer.is_certified;
    if !trusted && !app.options.allow_remote_administration {
        return Err(Status::permission_denied(
            "HandleReloadConfigRequest is answered to local peers only; \
             start the server with --allow_remote_administration to allow others",
        ));
    }
    let request = ReloadConfigRequest::decode(message).map_err(|_| unparsable())?;
    let config = request.config.unwrap_or_default();
    if !matches!(config.config, Some(model_server_config::Config::ModelConfigList(_))) {
        return Err(Status::invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only \
             ModelConfigList is currently supported",
        ));
    }
    let handler = app.reload.read().clone();
    let handler = handler.ok_or_else(|| {
        Status::failed_precondition("The models of this server are not changed by requests")
    })?;
    let names: BTreeSet<String> = request.metric_names.into_iter().collect();
    let before: Vec<i64> = names.iter().map(|name| app.metrics.first_cell(name)).collect();
    // A reload waits for models to load: it gets a thread of its own, not one that runs requests.
    let status = tokio::task::spawn_blocking(move || handler(config.encode_to_vec())).await;
    let status = status.map_err(|_| Status::internal("The reload failed"))?;
    if status.code != Code::Ok {
        return Err(status);
    }
    let metric = names.into_iter().zip(before).map(|(name, before)| {
        let increase = app.metrics.first_cell(&name) - before;
        Metric { name, value_increase: Some(ValueIncrease::Int64ValueIncrease(increase)) }
    });
    let status = Some(StatusProto::default());
    Ok(Message::from(&ReloadConfigResponse { status, metric: metric.collect() }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Options;
    use crate::frontend::grpc::listener::Peer;

    fn answer(peer: Peer, allow_remote_administration: bool) -> Code {
        let app = App::new(Options { allow_remote_administration, ..Options::default() });
        let call = Call { peer, ..Call::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(reload(&app, Bytes::new(), call));
        answer.err().map_or(Code::Ok, |status| status.code)
    }

    #[test]
    fn models_are_changed_by_peers_that_may_and_by_no_others() {
        let remote = Peer::default();
        let local = Peer { is_local: true, ..remote };
        let certified = Peer { is_certified: true, ..remote };

        assert_eq!(answer(remote, false), Code::PermissionDenied);
        // Whoever gets past that is told that an empty request is none.
        for (peer, allowed) in [(local, false), (certified, false), (remote, true)] {
            assert_eq!(answer(peer, allowed), Code::InvalidArgument, "{peer:?} {allowed}");
        }
    }
}
