//! `grpc.health.v1.Health`: the short names TensorFlow Serving has, and one for each model.

use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{health_reporter, HealthReporter, HealthService};
use tonic_health::ServingStatus;

/// The names that stand for the whole server.
const SERVER: [&str; 3] = ["", "ModelService", "PredictionService"];

/// Tells the health service what it answers.
#[derive(Clone)]
pub struct Health(HealthReporter);

pub type Service = HealthServer<HealthService>;

/// The service, and who tells it.
pub fn service() -> (Health, Service) {
    // The concrete types of the service are tonic's to know.
    let (reporter, _) = health_reporter();
    let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    (Health(reporter), service)
}

impl Health {
    pub async fn set_ready(&self, ready: bool) {
        for name in SERVER {
            self.0.set_service_status(name, status(ready)).await;
        }
    }

    /// Models are asked for as `models/NAME`: their bare names are not services.
    pub async fn set_model(&self, name: &str, available: bool) {
        self.0.set_service_status(format!("models/{name}"), status(available)).await;
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
