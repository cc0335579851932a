//! A new set of models, put in force by the control plane.

use std::collections::BTreeSet;

use prost::Message as _;

use crate::app::App;
use crate::protos::tensorflow::serving::metric::ValueIncrease;
use crate::protos::tensorflow::serving::{
    model_server_config, Metric, ReloadConfigRequest, ReloadConfigResponse, StatusProto,
};
use crate::status::{Code, Result, Status};

/// Replace what is served, and tell how the metrics grew meanwhile.
///
/// # Errors
/// What the control plane says; INVALID_ARGUMENT for a configuration that is no list.
pub async fn reload(app: &App, request: ReloadConfigRequest) -> Result<ReloadConfigResponse> {
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
    Ok(ReloadConfigResponse { status, metric: metric.collect() })
}
