//! Classify, Regress and MultiInference: examples in, and their bytes stay bytes.

use std::ops::Range;

use bytes::Bytes;

use super::{missing_spec, Prepared, Request, Rules, LARGE_TENSOR};
use crate::inference::classify::Classifications;
use crate::inference::examples::{self, Examples};
use crate::inference::head::{self, Head, Inference};
use crate::inference::multi_inference::{Plan, Task};
use crate::inference::{predict, spec};
use crate::metrics::{Method, Metrics};
use crate::request_log::Kind;
use crate::serving_map::{ModelSpec, ServableHandle};
use crate::status::{Result, Status};
use crate::tensor::Tensor;
use crate::wire::{self, Field, Malformed, Message, Reader};

/// `ClassificationRequest` and `RegressionRequest` have the same fields, and so have their responses.
#[derive(Default)]
struct ExamplesRequest {
    spec: Option<ModelSpec>,
    input: Input,
}

impl ExamplesRequest {
    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        let mut request = Self::default();
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(range)) => {
                    spec::merge(message, range, request.spec.get_or_insert_default())?;
                }
                (2, Field::Bytes(range)) => request.input.merge(message, range)?,
                _ => {}
            }
        }
        Ok(request)
    }

    fn spec(&self) -> Result<&ModelSpec> {
        self.spec.as_ref().ok_or_else(missing_spec)
    }

    fn prepare(
        self,
        method: head::Method,
        handle: &ServableHandle,
        rules: Rules,
    ) -> Result<Prepared> {
        let requested = self.spec.as_ref().map_or("", |spec| &spec.signature_name);
        let name = predict::signature_name(requested).to_owned();
        let signatures = handle.servable.signatures();
        let head = Head::new(method, signatures, &name, rules.check_method_name)?;
        let count = self.input.count;
        let feeds = vec![(head.input().to_owned(), self.input.to_tensor(rules)?)];
        let fetches = head.fetches();
        let respond = move |handle: &ServableHandle, outputs: &[Tensor]| {
            let outputs: Vec<&Tensor> = outputs.iter().collect();
            Ok(response(&head.infer(count, &outputs)?, handle, &name))
        };
        Ok(Prepared { feeds, fetches, respond: Box::new(respond) })
    }
}

/// An `Input` as it arrived: a list of examples, or a list and what they have in common.
///
/// Where the lists stand, and not the examples: of those a message may have millions.
#[derive(Default)]
struct Input {
    message: Bytes,
    /// The field of the lists; of several kinds the last counts.
    kind: u32,
    /// With an example each, at least.
    lists: Vec<Range<usize>>,
    count: usize,
    context: Option<Bytes>,
}

impl Input {
    /// Read the one at `range` after those that came before it.
    fn merge(
        &mut self,
        message: &Bytes,
        range: Range<usize>,
    ) -> std::result::Result<(), Malformed> {
        let mut reader = Reader::within(message, range);
        while let Some((number, field)) = reader.next()? {
            let (1 | 2, Field::Bytes(range)) = (number, field) else { continue };
            if self.kind != number {
                *self = Self { message: message.clone(), kind: number, ..Self::default() };
            }
            self.add(range)?;
        }
        Ok(())
    }

    fn add(&mut self, range: Range<usize>) -> std::result::Result<(), Malformed> {
        let before = self.count;
        let mut list = Reader::within(&self.message, range.clone());
        while let Some((number, field)) = list.next()? {
            match (number, field) {
                (1, Field::Bytes(_)) => self.count += 1,
                (2, Field::Bytes(range)) if self.kind == 2 => {
                    // A message that occurs twice is merged, which concatenation does.
                    let context = self.message.slice(range);
                    self.context = Some(match self.context.take() {
                        None => context,
                        Some(before) => [before, context].concat().into(),
                    });
                }
                _ => {}
            }
        }
        if self.count > before {
            self.lists.push(range);
        }
        Ok(())
    }

    fn examples(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let fields = |list: &Range<usize>| {
            let mut list = Reader::within(&self.message, list.clone());
            // They were read to their ends before.
            std::iter::from_fn(move || list.next().ok().flatten())
        };
        let example = |(number, field)| match (number, field) {
            (1, Field::Bytes(range)) => Some(&self.message[range]),
            _ => None,
        };
        self.lists.iter().flat_map(fields).filter_map(example)
    }

    fn to_tensor(&self, rules: Rules) -> Result<Tensor> {
        let context = self.context.as_deref().unwrap_or_default();
        if rules.is_hurried && context.len().saturating_mul(self.count) > LARGE_TENSOR {
            return Err(Status::resource_exhausted("The context is large for so many examples"));
        }
        examples::to_tensor(self.count, self.examples(), context, rules.most)
    }
}

/// `tensorflow.serving.ClassificationRequest`.
pub struct ClassificationRequest(ExamplesRequest);

impl Request for ClassificationRequest {
    const METHOD: Method = Method::Classify;
    const KIND: Kind = Kind::Classify;

    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        ExamplesRequest::parse(message).map(Self)
    }

    fn spec(&self) -> Result<&ModelSpec> {
        self.0.spec()
    }

    fn prepare(self, handle: &ServableHandle, rules: Rules) -> Result<Prepared> {
        self.0.prepare(head::Method::Classify, handle, rules)
    }
}

/// `tensorflow.serving.RegressionRequest`.
pub struct RegressionRequest(ExamplesRequest);

impl Request for RegressionRequest {
    const METHOD: Method = Method::Regress;
    const KIND: Kind = Kind::Regress;

    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        ExamplesRequest::parse(message).map(Self)
    }

    fn spec(&self) -> Result<&ModelSpec> {
        self.0.spec()
    }

    fn prepare(self, handle: &ServableHandle, rules: Rules) -> Result<Prepared> {
        self.0.prepare(head::Method::Regress, handle, rules)
    }
}

/// `tensorflow.serving.MultiInferenceRequest`.
pub struct MultiInferenceRequest {
    /// Stands for the first task's where there is no task.
    nobody: ModelSpec,
    tasks: Vec<Task>,
    input: Input,
}

impl Request for MultiInferenceRequest {
    const METHOD: Method = Method::MultiInference;
    const KIND: Kind = Kind::MultiInference;

    fn parse(message: &Bytes) -> std::result::Result<Self, Malformed> {
        let mut request =
            Self { nobody: ModelSpec::default(), tasks: Vec::new(), input: Input::default() };
        let mut reader = Reader::new(message);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(range)) => request.tasks.push(task(message, range)?),
                (2, Field::Bytes(range)) => request.input.merge(message, range)?,
                _ => {}
            }
        }
        Ok(request)
    }

    fn spec(&self) -> Result<&ModelSpec> {
        Ok(self.tasks.first().map_or(&self.nobody, |task| &task.spec))
    }

    fn num_examples(&self) -> Option<usize> {
        Some(self.input.count)
    }

    fn prepare(self, handle: &ServableHandle, rules: Rules) -> Result<Prepared> {
        let signatures = handle.servable.signatures();
        let plan = Plan::new(signatures, &self.tasks, rules.check_method_name)?;
        let count = self.input.count;
        let mut feeds = Vec::with_capacity(plan.inputs.len());
        for name in &plan.inputs {
            feeds.push((name.clone(), self.input.to_tensor(rules)?));
        }
        let fetches = plan.fetches.clone();
        let respond = move |handle: &ServableHandle, outputs: &[Tensor]| {
            let mut message = Message::new();
            let inferences = plan.inferences(count, outputs)?;
            for (name, inference) in plan.signature_names.iter().zip(&inferences) {
                let mut result = Vec::new();
                spec::put(&mut result, 1, &handle.name, name, handle.version);
                let number = match inference {
                    Inference::Classify(_) => 2,
                    Inference::Regress(_) => 3,
                };
                wire::put_bytes(&mut result, number, &self::result(inference));
                wire::put_bytes(message.bytes_mut(), 1, &result);
            }
            Ok(message)
        };
        Ok(Prepared { feeds, fetches, respond: Box::new(respond) })
    }
}

/// Read an `InferenceTask`.
fn task(message: &Bytes, range: Range<usize>) -> std::result::Result<Task, Malformed> {
    let mut task = Task { spec: ModelSpec::default(), method_name: String::new() };
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => spec::merge(message, range, &mut task.spec)?,
            (2, Field::Bytes(range)) => task.method_name = wire::text(&message[range])?.into(),
            _ => {}
        }
    }
    Ok(task)
}

/// A serialized `ClassificationRequest` or `RegressionRequest`, for requests that came in another
/// form.
pub fn request<B: AsRef<[u8]>>(
    model: &str,
    signature_name: &str,
    examples: &Examples<B>,
) -> Vec<u8> {
    let (mut list, mut input) = (Vec::new(), Vec::new());
    for example in &examples.examples {
        wire::put_bytes(&mut list, 1, example.as_ref());
    }
    match &examples.context {
        None => wire::put_bytes(&mut input, 1, &list),
        Some(context) => {
            wire::put_bytes(&mut list, 2, context.as_ref());
            wire::put_bytes(&mut input, 2, &list);
        }
    }
    let (mut out, mut model_spec) = (Vec::new(), Vec::new());
    wire::put_bytes(&mut model_spec, 1, model.as_bytes());
    wire::put_bytes(&mut model_spec, 3, signature_name.as_bytes());
    wire::put_bytes(&mut out, 1, &model_spec);
    wire::put_bytes(&mut out, 2, &input);
    out
}

/// The response of Classify and of Regress: result in field 1, model in field 2.
pub fn response(
    inference: &Inference<'_>,
    handle: &ServableHandle,
    signature_name: &str,
) -> Message {
    let result = result(inference);
    let mut message = Message::with_capacity(result.len() + handle.name.len() + 64);
    wire::put_bytes(message.bytes_mut(), 1, &result);
    spec::put(message.bytes_mut(), 2, &handle.name, signature_name, handle.version);
    message
}

/// Serialized `ClassificationResult` or `RegressionResult`.
fn result(inference: &Inference<'_>) -> Vec<u8> {
    match inference {
        Inference::Classify(classifications) => classification_result(classifications),
        Inference::Regress(values) => regression_result(values),
    }
}

fn classification_result(classifications: &Classifications<'_>) -> Vec<u8> {
    let mut result = Vec::new();
    let (mut classes, mut class) = (Vec::new(), Vec::new());
    for example in 0..classifications.count {
        classes.clear();
        for (label, score) in classifications.of(example) {
            class.clear();
            if !label.is_empty() {
                wire::put_bytes(&mut class, 1, label);
            }
            // Zero is what a reader assumes; negative zero is not zero.
            if score.to_bits() != 0 {
                wire::put_fixed32(&mut class, 2, score.to_bits());
            }
            wire::put_bytes(&mut classes, 1, &class);
        }
        wire::put_bytes(&mut result, 1, &classes);
    }
    result
}

fn regression_result(values: &[f32]) -> Vec<u8> {
    let mut result = Vec::with_capacity(values.len() * 7);
    let mut regression = Vec::with_capacity(5);
    for value in values {
        regression.clear();
        if value.to_bits() != 0 {
            wire::put_fixed32(&mut regression, 1, value.to_bits());
        }
        wire::put_bytes(&mut result, 1, &regression);
    }
    result
}

/// Answer the request that a record of a warm-up file holds, and count the run in `metrics`; as a
/// batch of each of the allowed sizes, too, with `all_sizes`.
///
/// # Errors
/// UNIMPLEMENTED for a kind of record that cannot be replayed; what the request is answered.
pub fn replay(
    handle: &ServableHandle,
    kind: i32,
    message: &Bytes,
    metrics: Option<&Metrics>,
    all_sizes: bool,
) -> Result<Message> {
    use super::answer_here;
    use super::predict::PredictRequest;
    match kind {
        2 => answer_here::<ClassificationRequest>(handle, message, metrics, all_sizes),
        3 => answer_here::<RegressionRequest>(handle, message, metrics, all_sizes),
        4 => answer_here::<MultiInferenceRequest>(handle, message, metrics, all_sizes),
        6 => answer_here::<PredictRequest>(handle, message, metrics, all_sizes),
        _ => Err(Status::unimplemented(format!("Unsupported log_type for warmup: {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field `input` whose list, of the kind that has this number, has so many examples.
    fn input(kind: u8, count: u8) -> Vec<u8> {
        let list = [0x0a, 0].repeat(usize::from(count));
        let oneof = [&[kind << 3 | 2, 2 * count][..], &list].concat();
        [&[0x12, 2 * count + 2][..], &oneof].concat()
    }

    #[test]
    fn inputs_of_one_kind_are_merged_and_of_several_the_last_counts() {
        for (inputs, expected) in [
            (vec![input(1, 1)], 1),
            (vec![input(1, 1), input(1, 2)], 3),
            (vec![input(2, 1), input(2, 2)], 3),
            (vec![input(1, 1), input(2, 2)], 2),
            (vec![input(1, 1), input(2, 2), input(1, 3)], 3),
        ] {
            let request = RegressionRequest::parse(&inputs.concat().into()).unwrap();
            assert_eq!(request.0.input.count, expected, "{inputs:?}");
            let tensor = request.0.input.to_tensor(Rules::default()).unwrap();
            assert_eq!(tensor.num_elements(), expected);
        }
    }
}
