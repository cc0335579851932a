//! `tensorflow.serving.SessionService`, for those who may administrate.

use bytes::Bytes;

use super::service::{Call, Method, Table};
use crate::app::App;
use crate::inference::session_run;
use crate::metrics::{Method as Counted, Protocol};
use crate::status::{code, Result};
use crate::wire::Message;
use std::sync::Arc;

pub struct Sessions;

impl Table for Sessions {
    const NAME: &'static str = "tensorflow.serving.SessionService";

    fn method(name: &str) -> Option<Method> {
        (name == "SessionRun").then_some(|app, message, call| {
            Box::pin(async move {
                let exchange = app.metrics.exchange(Counted::Other, Protocol::Grpc);
                let answered = run(&app, message, call).await;
                exchange.finish(code(&answered));
                answered
            })
        })
    }

    fn runs(_: &str) -> bool {
        true
    }
}

async fn run(app: &Arc<App>, message: Bytes, call: Call) -> Result<Message> {
    call.peer.check_may_administrate(&app.options, "SessionRun")?;
    session_run::answer(app, message, call.peer.client, call.deadline).await
}
