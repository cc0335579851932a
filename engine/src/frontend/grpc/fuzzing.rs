//! What bytes are tried with; see the module `fuzzing` of the crate.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::authority::Rewriter;
use super::service::{Call, Table};
use super::{authorization, model_service, prediction_service, session_service};
use crate::access::{Access, Scopes, Token};
use crate::app::App;
use crate::frontend::peer::Peer;
use crate::status::Code;

/// Take bytes as the message of every method that reads it here.
///
/// # Panics
/// When an answer is UNKNOWN, which nothing of ours is.
pub fn calls(app: &Arc<App>, input: &[u8]) {
    let token = Token {
        name: String::new(),
        sha256: [0; 32],
        scopes: Scopes::PREDICT,
        models: vec!["m".to_owned()],
    };
    let message = Bytes::copy_from_slice(input);
    for (method, answer) in [
        ("Predict", prediction_service::Prediction::method("Predict")),
        ("Classify", prediction_service::Prediction::method("Classify")),
        ("Regress", prediction_service::Prediction::method("Regress")),
        ("MultiInference", prediction_service::Prediction::method("MultiInference")),
        ("GetModelMetadata", prediction_service::Prediction::method("GetModelMetadata")),
        ("GetModelStatus", model_service::Models::method("GetModelStatus")),
        ("HandleReloadConfigRequest", model_service::Models::method("HandleReloadConfigRequest")),
        ("SessionRun", session_service::Sessions::method("SessionRun")),
    ] {
        let answer = answer.expect("these methods are there");
        let peer = Peer { is_local: true, ..Peer::default() };
        let call = Call { peer, ..Call::default() };
        let answered = runtime().block_on(answer(app.clone(), message.clone(), call));
        let may = authorization::check_models(&Access::default(), &token, method, &message);
        match answered {
            Err(status) => assert_ne!(status.code, Code::Unknown, "{method}: {status}"),
            // What a token for one model may ask is never answered by another one.
            Ok(answer) if may.is_ok() && method == "Predict" => {
                assert!(names_only(answer.as_slice(), b"m"), "{input:?}");
            }
            Ok(_) => {}
        }
    }
}

/// Whether the model spec of a `PredictResponse` has this name.
fn names_only(answer: &[u8], name: &[u8]) -> bool {
    use crate::wire::{Field, Reader};
    let mut reader = Reader::new(answer);
    while let Ok(Some((number, field))) = reader.next() {
        let (2, Field::Bytes(range)) = (number, field) else { continue };
        let mut spec = Reader::within(answer, range);
        while let Ok(Some((number, field))) = spec.next() {
            if let (1, Field::Bytes(range)) = (number, field) {
                return &answer[range] == name;
            }
        }
    }
    false
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime can be made")
    })
}

/// Take bytes as what a client sends over a Unix socket.
///
/// # Panics
/// When bytes are lost or made up.
pub fn authority(input: &[u8]) {
    let mut out = Vec::new();
    let mut rewriter = Rewriter::default();
    for piece in input.chunks(7) {
        rewriter.feed(piece, &mut out);
    }
    assert!(out.len() <= input.len());
}
