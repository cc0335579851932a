//! `servable.Administration`: who may ask is checked here, and Python carries it out.

use bytes::Bytes;

use super::service::{Call, Method, Table};
use crate::app::App;
use crate::status::{Result, Status};
use crate::wire::Message;

pub struct Administration;

/// A row of the table: the method's name, and the function that names it.
macro_rules! methods {
    ($wanted:expr; $($name:literal)*) => {
        match $wanted {
            $($name => {
                let method: Method = |app, message, call| {
                    Box::pin(async move { carry_out(&app, $name, message, call).await })
                };
                Some(method)
            })*
            _ => None,
        }
    };
}

impl Table for Administration {
    const NAME: &'static str = "servable.Administration";

    fn method(name: &str) -> Option<Method> {
        methods!(name;
            "ListModels" "AddModel" "RemoveModel" "SetLabels" "Promote" "RollBack" "ReloadModels")
    }
}

async fn carry_out(app: &App, method: &'static str, message: Bytes, call: Call) -> Result<Message> {
    call.peer.check_may_administrate(&app.options, method)?;
    let handler = app.administration.read().clone();
    let handler = handler.ok_or_else(|| {
        Status::failed_precondition("The models of this server are not changed by requests")
    })?;
    // It may look at files and wait for locks: not on a thread that requests need.
    let answer = tokio::task::spawn_blocking(move || handler(method, message.into())).await;
    let answer = answer.map_err(|_| Status::internal(format!("{method} failed")))?;
    let answer = answer?;
    let mut message = Message::with_capacity(answer.len());
    message.bytes_mut().extend_from_slice(&answer);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::app::Options;
    use crate::frontend::peer::Peer;
    use crate::status::Code;

    fn ask(peer: Peer, allow_remote_administration: bool) -> Result<Message> {
        let app = App::new(Options { allow_remote_administration, ..Options::default() });
        *app.administration.write() = Some(Arc::new(|method, request| {
            assert_eq!((method, request), ("Promote", b"it".to_vec()));
            Ok(b"done".to_vec())
        }));
        let method = Administration::method("Promote").unwrap();
        let call = Call { peer, ..Call::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(method(Arc::new(app), Bytes::from_static(b"it"), call))
    }

    #[test]
    fn those_may_ask_who_may_reload_and_no_others() {
        let remote = Peer::default();
        let local = Peer { is_local: true, ..remote };
        let certified = Peer { is_certified: true, ..remote };

        let refused = ask(remote, false).err().unwrap();
        assert_eq!(refused.code, Code::PermissionDenied);
        assert!(refused.message.starts_with("Promote is answered to local peers only"));
        for (peer, allowed) in [(local, false), (certified, false), (remote, true)] {
            assert!(ask(peer, allowed).is_ok(), "{peer:?} {allowed}");
        }
    }

    #[test]
    fn there_are_no_other_methods() {
        assert!(Administration::method("Dance").is_none());
    }
}
