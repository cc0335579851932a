//! Requests as serialized messages in, answers as serialized messages out.
//!
//! What gRPC receives and what warm-up files hold. A request is prepared (resolved, checked and
//! decoded), run, and answered; who runs it, and on which thread, is decided here and the same for
//! every method.

pub mod examples;
pub mod predict;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::admission::Permit;
use crate::app::App;
use crate::inference::examples::Most;
use crate::inference::predict as predict_request;
use crate::metrics::{Exchange, Method, Metrics, Protocol, Stage};
use crate::request_log::{self, Kind};
use crate::servable::RunOptions;
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::{code, Code, Result, Status};
use crate::tensor::Tensor;
use crate::wire::{Malformed, Message};

/// Makes the answer of what was fetched.
type Respond = Box<dyn FnOnce(&ServableHandle, &[Tensor]) -> Result<Message> + Send>;

/// What to feed and fetch, and how to answer.
pub struct Prepared {
    pub feeds: Vec<(String, Tensor)>,
    pub fetches: Vec<String>,
    pub respond: Respond,
}

/// What changes answers, from the options of the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    pub check_method_name: bool,
    pub as_tensor_content: bool,
    pub most: Most,
    /// Whether a tensor beyond [`LARGE_TENSOR`] is refused, as others wait for the thread.
    pub is_hurried: bool,
}

/// A request of one method, taken apart.
pub trait Request: Sized + Send + 'static {
    const METHOD: Method;
    const KIND: Kind;

    /// # Errors
    /// When the bytes are not the message.
    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed>;

    /// The model that is asked.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when none is.
    fn spec(&self) -> Result<&ModelSpec>;

    /// How many examples there are, where that is counted.
    fn num_examples(&self) -> Option<usize> {
        None
    }

    /// # Errors
    /// What is wrong with the request, given the version that it is for.
    fn prepare(self, handle: &ServableHandle, rules: Rules) -> Result<Prepared>;
}

/// Requests above this are decoded on a compute thread, so that the I/O thread is free.
const LARGE: usize = 256 << 10;

/// Tensors above this are made and written there.
pub const LARGE_TENSOR: usize = 2 << 20;

/// Answer a serialized request from what is being served.
///
/// # Errors
/// The specification's, by method; INTERNAL when the bytes are not the message.
pub async fn answer<R: Request>(
    app: &Arc<App>,
    message: Bytes,
    options: RunOptions,
    permit: Option<&Permit>,
) -> Result<Message> {
    let mut exchange = app.metrics.exchange(R::METHOD, Protocol::Grpc);
    let answered = answer_counted::<R>(app, message, options, permit, &mut exchange).await;
    exchange.finish(code(&answered));
    answered
}

/// As [`answer`], counted by the caller. The tensors of the request are charged to `permit`.
///
/// # Errors
/// As [`answer`].
pub async fn answer_counted<R: Request>(
    app: &Arc<App>,
    message: Bytes,
    options: RunOptions,
    permit: Option<&Permit>,
    exchange: &mut Exchange<'_>,
) -> Result<Message> {
    let request = R::parse(&message).map_err(|Malformed| unparsable())?;
    exchange.names(request.spec().map_or("", |spec| &spec.name));
    let spec = request.spec()?;
    let handle = app.map.resolve(spec)?;
    exchange.resolved(&handle.series, handle.known_signature(signature_name::<R>(spec)));
    let sample = app.request_logs.sample(&handle.name, || request_log::Request {
        kind: R::KIND,
        message: message.clone(),
        signature_name: signature_name::<R>(spec).to_owned(),
    });
    let num_examples = request.num_examples();
    let prepared = prepare(app, request, &message, &handle, options).await?;
    let Prepared { feeds, fetches, respond } = prepared;
    if let Some(permit) = permit {
        permit.charge(feeds.iter().map(|(_, tensor)| tensor.memory_bytes()).sum())?;
    }
    exchange.ended(Stage::Decode);
    if let Some(count) = num_examples {
        exchange.has_examples(count);
    }
    let outputs = app.run(handle.clone(), feeds, fetches, options, exchange).await?;
    let size: usize = outputs.iter().map(Tensor::memory_bytes).sum();
    let answer = if size > LARGE_TENSOR {
        let handle = handle.clone();
        let respond = move || respond(&handle, &outputs);
        Box::pin(app.compute.run(options.client, options.deadline, respond)).await
    } else {
        respond(&handle, &outputs)
    };
    exchange.ended(Stage::Encode);
    if let (Some(sample), Ok(answer)) = (sample, &answer) {
        sample.answered(handle.version, answer.as_slice());
    }
    answer
}

/// What to run for a request, made where it holds up nobody.
async fn prepare<R: Request>(
    app: &App,
    request: R,
    message: &Bytes,
    handle: &Arc<ServableHandle>,
    options: RunOptions,
) -> Result<Prepared> {
    let rules = Rules {
        check_method_name: app.options.enable_signature_method_name_check,
        as_tensor_content: app.options.enable_serialization_as_tensor_content,
        most: Most::of(&app.options),
        is_hurried: false,
    };
    let request = if message.len() > LARGE {
        request
    } else {
        match request.prepare(handle, Rules { is_hurried: true, ..rules }) {
            // A few bytes may stand for a tensor of megabytes.
            Err(status) if status.code == Code::ResourceExhausted => {
                R::parse(message).map_err(|Malformed| unparsable())?
            }
            prepared => return prepared,
        }
    };
    let handle = handle.clone();
    let prepare = move || request.prepare(&handle, rules);
    Box::pin(app.compute.run(options.client, options.deadline, prepare)).await
}

/// The signature that a request is for; one for several signatures is for none.
fn signature_name<R: Request>(spec: &ModelSpec) -> &str {
    match R::METHOD {
        Method::MultiInference => "",
        _ => predict_request::signature_name(&spec.signature_name),
    }
}

/// Answer a serialized request with a version that need not be served, on the calling thread;
/// which model the request names matters to `metrics` only, where the run is counted. Where the
/// version is batched, the request is a batch of its own; for `all_sizes` see `Queues::run_here`.
///
/// # Errors
/// As [`answer`].
pub fn answer_here<R: Request>(
    handle: &ServableHandle,
    message: &Bytes,
    metrics: Option<&Metrics>,
    all_sizes: bool,
) -> Result<Message> {
    let request = R::parse(message).map_err(|Malformed| unparsable())?;
    let name = request.spec().map_or("", signature_name::<R>).to_owned();
    let model =
        metrics.map(|metrics| metrics.models.get(request.spec().map_or("", |spec| &spec.name)));
    let Prepared { feeds, fetches, respond } = request.prepare(handle, Rules::default())?;
    let began = Instant::now();
    let outputs = match &handle.batching {
        Some(queues) => queues.run_here(feeds, fetches, &name, all_sizes)?,
        None => handle.servable.run(feeds, &fetches, RunOptions::default())?,
    };
    if let Some(model) = model {
        model.record_run(R::METHOD, began.elapsed());
    }
    respond(handle, &outputs)
}

/// The answer to bytes that are not the message the method takes: gRPC's, which has no text.
pub fn unparsable() -> Status {
    Status::new(Code::Internal, "")
}

fn missing_spec() -> Status {
    Status::invalid_argument("Missing ModelSpec")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use prost::Message as _;

    use super::examples::{MultiInferenceRequest, RegressionRequest};
    use super::*;
    use crate::app::Options;
    use crate::protos::tensorflow::serving as proto;
    use crate::servable::{Servable, Signature, Signatures, TensorInfo};
    use crate::serving_map::{Model, Released, Snapshot};
    use crate::tensor::{Buffer, DType};

    /// Regresses every example to zero.
    struct Zero(Signatures, Bytes);

    impl Servable for Zero {
        fn signatures(&self) -> &Signatures {
            &self.0
        }

        fn signature_def_map(&self) -> &Bytes {
            &self.1
        }

        fn run(
            &self,
            feeds: Vec<(String, Tensor)>,
            _: &[String],
            _: RunOptions,
        ) -> Result<Vec<Tensor>> {
            let shape = feeds[0].1.shape().to_vec();
            let count = feeds[0].1.num_elements();
            Ok(vec![Tensor::dense(DType::Float, shape, Buffer::zeroed(count * 4))])
        }
    }

    fn app() -> Arc<App> {
        let info = |name: &str, dtype: DType| TensorInfo {
            name: name.to_owned(),
            dtype: dtype.number(),
            shape: None,
        };
        let signature = Signature {
            inputs: [("inputs".to_owned(), info("x:0", DType::String))].into(),
            outputs: [("outputs".to_owned(), info("y:0", DType::Float))].into(),
            method_name: "tensorflow/serving/regress".to_owned(),
            ..Signature::default()
        };
        let servable = Zero([("serving_default".to_owned(), signature)].into(), Bytes::new());
        let handle =
            ServableHandle::new("m".to_owned(), 1, Arc::new(servable), &Released::default());
        let mut model = Model::default();
        model.versions.insert(1, Arc::new(handle));
        let app = Arc::new(App::new(Options::default()));
        app.publish(Snapshot { models: [("m".to_owned(), model)].into() });
        app
    }

    fn ask<R: Request>(app: &Arc<App>, message: Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answered = answer::<R>(app, message.into(), RunOptions::default(), None);
        runtime.block_on(answered).unwrap();
    }

    #[test]
    fn only_multi_inference_counts_its_examples() {
        let app = app();
        let model_spec =
            || Some(proto::ModelSpec { name: "m".to_owned(), ..proto::ModelSpec::default() });
        let examples = vec![crate::protos::tensorflow::Example::default(); 3];
        let input = proto::Input {
            kind: Some(proto::input::Kind::ExampleList(proto::ExampleList { examples })),
        };
        let regression =
            proto::RegressionRequest { model_spec: model_spec(), input: Some(input.clone()) };
        let task = proto::InferenceTask {
            model_spec: model_spec(),
            method_name: "tensorflow/serving/regress".to_owned(),
        };
        let inference = proto::MultiInferenceRequest { tasks: vec![task], input: Some(input) };
        let model = app.metrics.models.get("m");

        ask::<RegressionRequest>(&app, regression.encode_to_vec());
        assert_eq!(model.examples.load(Ordering::Relaxed), 0);
        ask::<MultiInferenceRequest>(&app, inference.encode_to_vec());

        assert_eq!(model.examples.load(Ordering::Relaxed), 3);
        // TensorFlow Serving counts requests of the other three methods only.
        assert_eq!(model.codes.counted().collect::<Vec<_>>(), [(Code::Ok, 1)]);
        let runs: Vec<&str> = model.runtimes().map(|(api, _)| api).collect();
        assert_eq!(runs, ["Regress", "MultiInference"]);
    }

    static THREADS: parking_lot::Mutex<Vec<std::thread::ThreadId>> =
        parking_lot::Mutex::new(Vec::new());

    /// Two megabytes and more, by a message of no bytes.
    struct Bomb(ModelSpec);

    impl Request for Bomb {
        const METHOD: Method = Method::Predict;
        const KIND: Kind = Kind::Predict;

        fn parse(_: &Bytes) -> std::result::Result<Self, Malformed> {
            Ok(Self(ModelSpec { name: "m".to_owned(), ..ModelSpec::default() }))
        }

        fn spec(&self) -> Result<&ModelSpec> {
            Ok(&self.0)
        }

        fn prepare(self, _: &ServableHandle, rules: Rules) -> Result<Prepared> {
            if rules.is_hurried {
                return Err(Status::resource_exhausted("too large"));
            }
            THREADS.lock().push(std::thread::current().id());
            let elements = LARGE_TENSOR / 4 + 1;
            let tensor = Tensor::dense(
                DType::Float,
                vec![elements.try_into().unwrap()],
                Buffer::zeroed(elements * 4),
            );
            let respond = |_: &ServableHandle, _: &[Tensor]| {
                THREADS.lock().push(std::thread::current().id());
                Ok(Message::new())
            };
            Ok(Prepared {
                feeds: vec![("x:0".to_owned(), tensor)],
                fetches: vec!["y:0".to_owned()],
                respond: Box::new(respond),
            })
        }
    }

    #[test]
    fn what_is_large_is_made_and_written_where_nobody_waits() {
        ask::<Bomb>(&app(), Vec::new());

        let threads = std::mem::take(&mut *THREADS.lock());
        assert_eq!(threads.len(), 2);
        assert!(!threads.contains(&std::thread::current().id()));
    }

    #[test]
    fn requests_that_are_kept_are_answered_or_refused() {
        use super::examples::ClassificationRequest;
        use super::predict::PredictRequest;

        fn ask<R: Request>(handle: &ServableHandle, input: &[u8]) {
            let message = Bytes::copy_from_slice(input);
            if let Ok(request) = R::parse(&message) {
                let _ = (request.spec().is_ok(), request.num_examples());
                let _ = request.prepare(handle, Rules::default());
            }
        }
        let app = app();
        let spec = ModelSpec { name: "m".to_owned(), ..ModelSpec::default() };
        let handle = app.map.resolve(&spec).unwrap();
        crate::corpus::each("protobuf", |input| {
            ask::<PredictRequest>(&handle, input);
            ask::<ClassificationRequest>(&handle, input);
            ask::<RegressionRequest>(&handle, input);
            ask::<MultiInferenceRequest>(&handle, input);
        });
    }
}
