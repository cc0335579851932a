//! `tensorflow.serving.PredictionService`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::service::{Answer, Call, Method, Table};
use crate::app::App;
use crate::inference::serialized::examples::{
    ClassificationRequest, MultiInferenceRequest, RegressionRequest,
};
use crate::inference::serialized::predict::PredictRequest;
use crate::inference::serialized::{self, unparsable, Request};
use crate::inference::spec;
use crate::metrics::{Exchange, Method as Counted, Protocol};
use crate::protos::tensorflow::serving::{GetModelMetadataRequest, GetModelMetadataResponse};
use crate::servable::RunOptions;
use crate::status::{code, Result, Status};
use crate::wire::Message;

pub struct Prediction;

impl Table for Prediction {
    const NAME: &'static str = "tensorflow.serving.PredictionService";

    fn method(name: &str) -> Option<Method> {
        Some(match name {
            "Predict" => answer::<PredictRequest>,
            "Classify" => answer::<ClassificationRequest>,
            "Regress" => answer::<RegressionRequest>,
            "MultiInference" => answer::<MultiInferenceRequest>,
            "GetModelMetadata" => {
                |app, message, _| Box::pin(async move { metadata(&app, message) })
            }
            _ => return None,
        })
    }

    fn runs(name: &str) -> bool {
        name != "GetModelMetadata"
    }
}

fn answer<R: Request>(app: Arc<App>, message: Bytes, call: Call) -> Answer {
    let options = RunOptions {
        deadline: call.deadline,
        is_low_priority: call.is_low_priority,
        client: call.peer.client,
    };
    Box::pin(
        async move { serialized::answer::<R>(&app, message, options, call.permit.as_ref()).await },
    )
}

fn metadata(app: &App, message: Bytes) -> Result<Message> {
    let mut exchange = app.metrics.exchange(Counted::GetModelMetadata, Protocol::Grpc);
    let answered = counted_metadata(app, message, &mut exchange);
    exchange.finish(code(&answered));
    answered
}

fn counted_metadata(app: &App, message: Bytes, exchange: &mut Exchange<'_>) -> Result<Message> {
    const SIGNATURE_DEF: &str = "signature_def";
    let request = GetModelMetadataRequest::decode(message).map_err(|_| unparsable())?;
    let requested =
        request.model_spec.ok_or_else(|| Status::invalid_argument("Missing ModelSpec"))?;
    if request.metadata_field.is_empty() {
        return Err(Status::invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field",
        ));
    }
    if let Some(field) = request.metadata_field.iter().find(|field| *field != SIGNATURE_DEF) {
        return Err(Status::invalid_argument(format!("Metadata field {field} is not supported")));
    }
    let handle = app.map.describe(&spec::from_message(requested))?;
    exchange.resolved(&handle.series, "");
    let signatures = prost_types::Any {
        type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap".to_owned(),
        value: handle.servable.signature_def_map().to_vec(),
    };
    let mut answer = Message::new();
    spec::put(answer.bytes_mut(), 1, &handle.name, "", handle.version);
    let rest = GetModelMetadataResponse {
        metadata: [(SIGNATURE_DEF.to_owned(), signatures)].into(),
        ..GetModelMetadataResponse::default()
    };
    answer.append(&rest);
    Ok(answer)
}
