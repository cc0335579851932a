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
mod outbox;
mod patient;
mod prediction_service;
mod profiler_service;
mod service;
mod session_service;
mod transport;
mod unary;

use std::future::Future;
use std::sync::Arc;

use tonic::service::interceptor::InterceptedService;
use tonic::service::Routes;

pub use listener::{bind_everywhere, bind_tcp, bind_unix, inherit_tcp, inherit_unix, Listeners};

use self::administration::Administration;
use self::channel_arguments::Arguments;
use self::model_service::Models;
use self::prediction_service::Prediction;
use self::profiler_service::Profiler;
use self::service::{Found, Table};
use self::session_service::Sessions;
use self::transport::Dispatch;
use crate::access::Scopes;
use crate::app::{App, Options};
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

/// Serve `listeners` until `stopping` is over, and then the connections that there are.
pub async fn serve(
    app: Arc<App>,
    listeners: Listeners,
    health: Option<health::Service>,
    stopping: impl Future<Output = ()> + Send + 'static,
) {
    let arguments = Arguments(&app.options.grpc_channel_arguments);
    let settings = arguments.settings(app.options.max_header_bytes);
    let limits = arguments.limits(app.options.max_message_bytes);
    let dispatch = Dispatch { others: others(&app, health), app, limits };
    transport::serve(listeners.incoming(stopping), settings, dispatch).await;
}

/// The method of that path, where it is one of ours.
fn find(options: &Options, path: &str) -> Option<Found> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        <Prediction as Table>::NAME => service::find::<Prediction>(method),
        <Models as Table>::NAME => service::find::<Models>(method),
        <Administration as Table>::NAME => service::find::<Administration>(method),
        <Profiler as Table>::NAME if options.enable_profiler => service::find::<Profiler>(method),
        <Sessions as Table>::NAME if options.enable_session_service => {
            service::find::<Sessions>(method)
        }
        _ => None,
    }
}

/// The services that tonic has; what none of them knows is UNIMPLEMENTED.
fn others(app: &Arc<App>, health: Option<health::Service>) -> Routes {
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
    let routes = Routes::default()
        .add_service(InterceptedService::new(
            reflection().build_v1().expect("our own descriptors are valid"),
            guard.clone(),
        ))
        .add_service(InterceptedService::new(
            reflection().build_v1alpha().expect("our own descriptors are valid"),
            guard,
        ));
    match health {
        None => routes,
        Some(health) => routes.add_service(health),
    }
    .prepare()
}

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
