//! `tensorflow.serving.ModelService`.

use bytes::Bytes;
use prost::Message as _;

use super::service::{Call, Method, Table};
use crate::app::App;
use crate::inference::serialized::unparsable;
use crate::inference::{reload, spec};
use crate::metrics::{Method as Counted, Protocol};
use crate::protos::tensorflow::serving::{
    GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus, ReloadConfigRequest,
    StatusProto,
};
use crate::serving_map::VersionChoice;
use crate::status::{code, Result, Status};
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

async fn reload(app: &App, message: Bytes, call: Call) -> Result<Message> {
    call.peer.check_may_administrate(&app.options, "HandleReloadConfigRequest")?;
    let request = ReloadConfigRequest::decode(message).map_err(|_| unparsable())?;
    reload::reload(app, request).await.map(|response| Message::from(&response))
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
    use crate::frontend::peer::Peer;
    use crate::status::Code;

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
