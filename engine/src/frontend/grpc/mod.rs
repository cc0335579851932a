//! gRPC: listeners, services, and the translation of a status.
//!
//! Messages arrive here as bytes and leave as bytes: each method decides how to take its own
//! apart (`predict` does it in place, the others with generated types).

mod administration;
mod authority;
mod authorization;
mod channel_arguments;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod health;
mod listener;
mod model_service;
mod prediction_service;
mod profiler_service;
mod service;
mod session_service;
mod unary;

use std::sync::Arc;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Router;

pub use listener::{bind_tcp, bind_unix, Listeners};

use self::channel_arguments::Arguments;
use self::service::Methods;
use crate::access::Scopes;
use crate::app::App;
use crate::status::Status;

/// Longest text of an error; longer ones are cut, because clients refuse big trailers.
const MAX_MESSAGE: usize = 1024;

impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        let mut message = status.message.into_owned();
        if message.len() > MAX_MESSAGE {
            let mut end = MAX_MESSAGE;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push_str("...TRUNCATED");
        }
        tonic::Status::new(tonic::Code::from_i32(status.code.number()), message)
    }
}

/// The services, ready to be given connections.
pub fn router(app: &Arc<App>, health: Option<health::Service>) -> Router {
    let options = &app.options;
    let arguments = Arguments(&options.grpc_channel_arguments);
    let builder = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME);
    let mut builder = arguments.apply(builder);
    let limits = arguments.limits(options.max_message_bytes);
    let guarded = app.clone();
    // Which methods there are is told to whoever has any token.
    let guard = move |call: tonic::Request<()>| {
        let headers = call.metadata().as_ref();
        let headers = authorization::credentials(headers);
        let admitted = guarded.access.admit(headers, Scopes::ANY, "Reflection");
        admitted.map(|_| call).map_err(tonic::Status::from)
    };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::protos::DESCRIPTORS)
    };
    let profiler = options.enable_profiler;
    let sessions = options.enable_session_service;
    builder
        .add_optional_service(health)
        .add_service(Methods::<prediction_service::Prediction>::new(app.clone(), limits))
        .add_service(Methods::<model_service::Models>::new(app.clone(), limits))
        .add_service(Methods::<administration::Administration>::new(app.clone(), limits))
        .add_optional_service(
            profiler.then(|| Methods::<profiler_service::Profiler>::new(app.clone(), limits)),
        )
        .add_optional_service(
            sessions.then(|| Methods::<session_service::Sessions>::new(app.clone(), limits)),
        )
        .add_service(InterceptedService::new(
            reflection().build_v1().expect("our own descriptors are valid"),
            guard.clone(),
        ))
        .add_service(InterceptedService::new(
            reflection().build_v1alpha().expect("our own descriptors are valid"),
            guard,
        ))
}

/// Windows large enough that a tensor of some megabytes arrives without waiting for updates.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Frames large enough that such a tensor is a handful of them.
const MAX_FRAME: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let status: tonic::Status = Status::internal("ä".repeat(600)).into();

        assert_eq!(status.message().len(), 1024 + "...TRUNCATED".len());
        assert!(status.message().ends_with("ä...TRUNCATED"));
    }
}
