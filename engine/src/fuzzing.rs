//! What is tried with any bytes: every parser of what comes from outside, by name.
//!
//! `engine/fuzz` runs one of these under libFuzzer, for as long as one likes; the test below
//! changes what is in `tests/corpora` a little. A target asserts more than that nothing panics
//! where more is promised.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::app::{App, Options};
use crate::frontend::{grpc, rest};
use crate::inference::model_status::VersionStatus;
use crate::servable::{
    tensorflow, worker, RunOptions, Servable, Signature, Signatures, TensorInfo,
};
use crate::serving_map::{Model, Released, ServableHandle, Snapshot};
use crate::status::{Code, Result};
use crate::tensor::{npy, proto, Buffer, DType, Tensor};

/// Something that takes any bytes.
pub struct Target {
    pub name: &'static str,
    /// The folder in `tests/corpora` that it begins with.
    pub corpus: &'static str,
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, corpus: &'static str, run: fn(&[u8])) -> Target {
    Target { name, corpus, run }
}

pub const TARGETS: &[Target] = &[
    target("connection", "http", |input| drop(rest::fuzzing::exchange(app(), input))),
    target("http2", "http2", |input| drop(rest::fuzzing::exchange(app(), input))),
    target("head", "http", rest::fuzzing::head),
    target("url", "url", rest::fuzzing::url),
    target("media", "media", rest::fuzzing::media),
    target("gzip", "gzip", rest::fuzzing::gzip),
    target("json", "json", |input| post(":predict", "application/json", input)),
    target("json_examples", "json", |input| {
        for verb in [":classify", ":regress", ":multi_inference"] {
            post(verb, "application/json", input);
        }
    }),
    target("json_reload", "json", |input| {
        rest::fuzzing::post(app(), "/v1/config:reload", "application/json", input);
    }),
    target("npy", "npy", |input| {
        let _ = npy::decode(input, proto::Limits { max_bytes: 1 << 16 });
        post(":predict", "application/x-npy", input);
    }),
    target("protobuf_rest", "protobuf", |input| {
        for verb in [":predict", ":classify", ":regress"] {
            post(verb, "application/x-protobuf", input);
        }
    }),
    target("protobuf", "protobuf", |input| grpc::fuzzing::calls(app(), input)),
    target("tensor", "tensor", |input| {
        let limits = proto::Limits { max_bytes: 1 << 16 };
        if let Ok(tensor) = proto::decode(&Bytes::copy_from_slice(input), limits) {
            // What was read can be written, and is the same when it is read again.
            let written = proto::Encoder::new(&tensor, proto::Encoding::Typed);
            let mut bytes = Vec::new();
            written.write(&mut bytes);
            assert_eq!(bytes.len(), written.len());
            assert!(proto::decode(&bytes.into(), proto::Limits { max_bytes: 1 << 20 }).is_ok());
        }
    }),
    target("authority", "http2", grpc::fuzzing::authority),
    target("frame", "frame", worker::try_frames),
    target("graph", "saved_model", tensorflow::try_graph),
    target("signatures", "saved_model", rest::fuzzing::signatures),
];

/// A server of one model for each type of tensor, which answers with what it is asked.
pub fn app() -> &'static Arc<App> {
    static APP: OnceLock<Arc<App>> = OnceLock::new();
    APP.get_or_init(|| {
        let options = Options {
            rest_api_extensions: true,
            allow_remote_administration: true,
            enable_session_service: true,
            compute_threads: 1,
            max_message_bytes: 1 << 20,
            max_body_bytes: 1 << 20,
            ..Options::default()
        };
        let app = Arc::new(App::new(options));
        let mut snapshot = Snapshot::default();
        for (at, dtype) in TYPES.iter().enumerate() {
            let name = model(at);
            let servable = Arc::new(Echo::new(*dtype));
            let handle = ServableHandle::new(name.clone(), 1, servable, &Released::default());
            let mut model = Model::default();
            model.versions.insert(1, Arc::new(handle));
            snapshot.models.insert(name.clone(), model);
            let message = String::new();
            app.states.set(&name, VersionStatus { version: 1, state: 30, code: Code::Ok, message });
        }
        app.publish(snapshot);
        app
    })
}

const TYPES: [DType; 7] = [
    DType::Float,
    DType::String,
    DType::Int64,
    DType::Bool,
    DType::UInt8,
    DType::Double,
    DType::Half,
];

/// The first is called as the requests in the corpora call theirs.
fn model(at: usize) -> String {
    if at == 0 {
        "m".to_owned()
    } else {
        format!("m{at}")
    }
}

/// Ask one of the models, which one depending on the input.
fn post(verb: &str, content_type: &str, input: &[u8]) {
    let target = format!("/v1/models/{}{verb}", model(input.len() % TYPES.len()));
    rest::fuzzing::post(app(), &target, content_type, input);
}

/// Answers what it is fed first, and a number for each example.
struct Echo {
    signatures: Signatures,
    map: Bytes,
}

impl Echo {
    fn new(dtype: DType) -> Self {
        let info = |name: &str, dtype: DType| {
            let info = TensorInfo { name: name.to_owned(), dtype: dtype.number(), shape: None };
            (name.to_owned(), info)
        };
        let signature = |method: &str, inputs: &[(&str, DType)], output: (&str, DType)| Signature {
            inputs: inputs.iter().map(|(name, dtype)| info(name, *dtype)).collect(),
            outputs: [info(output.0, output.1)].into(),
            method_name: format!("tensorflow/serving/{method}"),
            ..Signature::default()
        };
        let float = DType::Float;
        let heads = [("inputs", DType::String)];
        let signatures = [
            ("serving_default", signature("predict", &[("x", dtype)], ("y", dtype))),
            ("two", signature("predict", &[("a", dtype), ("b", float)], ("y", dtype))),
            ("regress", signature("regress", &heads, ("outputs", float))),
            ("classify", signature("classify", &heads, ("scores", float))),
        ];
        let signatures =
            signatures.into_iter().map(|(name, signature)| (name.to_owned(), signature)).collect();
        Self { signatures, map: Bytes::new() }
    }
}

impl Servable for Echo {
    fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    fn signature_def_map(&self) -> &Bytes {
        &self.map
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        _: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let first = feeds.first().map(|(_, tensor)| tensor.copied());
        let answer = |fetch: &String| match (fetch.as_str(), &first) {
            ("outputs" | "scores", Some(examples)) => {
                let count = examples.shape().first().copied().unwrap_or(0);
                let columns = if fetch == "scores" { vec![count, 1] } else { vec![count] };
                let bytes = usize::try_from(count).unwrap_or(0) * size_of::<f32>();
                Tensor::dense(DType::Float, columns, Buffer::zeroed(bytes))
            }
            (_, Some(tensor)) => tensor.copied(),
            (_, None) => Tensor::dense(DType::Float, vec![0], Buffer::zeroed(0)),
        };
        Ok(fetches.iter().map(answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes tried for one target; SERVABLE_FUZZ_RUNS says another number.
    const RUNS: usize = 300;
    /// Inputs above this are left to the replay of the corpora.
    const MAX_INPUT: u64 = 4 << 10;

    fn kept(corpus: &str) -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpora/");
        let mut files: Vec<_> = std::fs::read_dir(format!("{folder}{corpus}"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.metadata().unwrap().len() <= MAX_INPUT)
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// Change bytes, leave some out, double some, or put a piece of another input there.
    fn changed(kept: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
        const BYTES: &[u8] = b"\0\x01\x0a\x12\x7f\x80\xff\"[]{},:0-.eE\\/%\r\n ";
        let mut input = kept[random.usize(..kept.len())].clone();
        for _ in 0..1 << random.u32(..4) {
            let at = random.usize(..=input.len());
            let end = (at + (1 << random.u32(..6))).min(input.len());
            match random.u32(..5) {
                0 => {
                    input.drain(at..end);
                }
                1 => {
                    let piece = input[at..end].to_vec();
                    input.splice(at..at, piece);
                }
                2 => {
                    let other = &kept[random.usize(..kept.len())];
                    let from = random.usize(..=other.len());
                    let piece = other[from..(from + 16).min(other.len())].to_vec();
                    input.splice(at..at, piece);
                }
                3 if at < input.len() => input[at] ^= 1 << random.u32(..8),
                _ if at < input.len() => input[at] = BYTES[random.usize(..BYTES.len())],
                _ => input.truncate(at / 2),
            }
        }
        input
    }

    #[test]
    fn what_is_kept_is_survived() {
        for target in TARGETS {
            for input in kept(target.corpus) {
                (target.run)(&input);
            }
        }
    }

    #[test]
    fn what_is_kept_and_changed_is_survived() {
        let runs = std::env::var("SERVABLE_FUZZ_RUNS").ok();
        let runs = runs.map_or(RUNS, |runs| runs.parse().unwrap());
        for target in TARGETS {
            let kept = kept(target.corpus);
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..runs {
                let input = changed(&kept, &mut random);
                let survived = std::panic::catch_unwind(|| (target.run)(&input));
                assert!(survived.is_ok(), "{} does not survive {input:?}", target.name);
            }
        }
    }
}
