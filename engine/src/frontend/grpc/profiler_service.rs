//! `tensorflow.ProfilerService`, for those who may administrate.

use std::sync::Arc;

use bytes::Bytes;

use super::service::{Answer, Call, Method, Table};
use crate::app::App;
use crate::inference::profile;
use crate::status::Status;

pub struct Profiler;

impl Table for Profiler {
    const NAME: &'static str = "tensorflow.ProfilerService";

    fn method(name: &str) -> Option<Method> {
        Some(match name {
            "Profile" => profile,
            "Terminate" => terminate,
            // TensorFlow's own service has no more of it.
            "Monitor" => |_, _, _| Box::pin(async { Err(Status::unimplemented("unimplemented.")) }),
            _ => return None,
        })
    }
}

const WHAT: &str = "ProfilerService";

fn profile(app: Arc<App>, message: Bytes, call: Call) -> Answer {
    Box::pin(async move {
        call.peer.check_may_administrate(&app.options, WHAT)?;
        profile::profile(&app, message).await
    })
}

fn terminate(app: Arc<App>, message: Bytes, call: Call) -> Answer {
    Box::pin(async move {
        call.peer.check_may_administrate(&app.options, WHAT)?;
        profile::terminate(&app, &message)
    })
}
