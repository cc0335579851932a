//! Classify: examples in, labels and scores out.

use crate::inference::examples;
use crate::servable::Signature;
use crate::status::{Result, Status};
use crate::tensor::{shape_text, DType, Tensor};

pub const METHOD: &str = "tensorflow/serving/classify";

const CLASSES: &str = "classes";
const SCORES: &str = "scores";

/// What to feed and fetch, by names in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub input: String,
    classes: Option<String>,
    scores: Option<String>,
}

impl Plan {
    /// # Errors
    /// INVALID_ARGUMENT when the signature does not have the inputs and outputs it takes.
    pub fn new(signature: &Signature) -> Result<Self> {
        let outputs = &signature.outputs;
        if signature.inputs.len() == 1 && !(1..=2).contains(&outputs.len()) {
            return Err(Status::invalid_argument(format!(
                "Expected one or two output Tensors, found {}",
                outputs.len()
            )));
        }
        let input = examples::input(signature, "classification")?.to_owned();
        let output = |alias| outputs.get(alias).map(|info| info.name.clone());
        let (classes, scores) = (output(CLASSES), output(SCORES));
        if classes.is_none() && scores.is_none() {
            return Err(Status::invalid_argument(format!(
                "Expected classification signature outputs to contain at least one of \
                 \"{CLASSES}\" or \"{SCORES}\". Signature was: {}",
                signature.text
            )));
        }
        Ok(Self { input, classes, scores })
    }

    /// Names of the outputs to fetch.
    pub fn fetches(&self) -> Vec<String> {
        self.classes.iter().chain(&self.scores).cloned().collect()
    }

    /// Make sense of what was fetched for `count` examples.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the outputs are not of the type and shape they have to be.
    pub fn classifications<'t>(
        &self,
        count: usize,
        outputs: &[&'t Tensor],
    ) -> Result<Classifications<'t>> {
        let expected = self.fetches().len();
        if outputs.len() != expected {
            return Err(Status::invalid_argument(format!(
                "Expected {expected} output tensor(s).  Got: {}",
                outputs.len()
            )));
        }
        let mut outputs = outputs.iter().copied();
        let classes = self.classes.as_ref().and_then(|_| outputs.next());
        let scores = self.scores.as_ref().and_then(|_| outputs.next());
        let mut width = None;
        let kinds = [(classes, CLASSES, DType::String), (scores, SCORES, DType::Float)];
        for (tensor, name, dtype) in kinds {
            let Some(tensor) = tensor else { continue };
            let shape = tensor.shape();
            let [rows, columns] = *shape else {
                return Err(Status::invalid_argument(format!(
                    "Expected Tensor shape: [batch_size num_classes] but got {}",
                    shape_text(shape)
                )));
            };
            if tensor.dtype() != dtype {
                return Err(Status::invalid_argument(format!(
                    "Expected {name} Tensor of {}. Got: {}",
                    dtype.name(),
                    tensor.dtype().name()
                )));
            }
            if usize::try_from(rows) != Ok(count) {
                return Err(Status::invalid_argument(format!(
                    "Expected {name} output batch size of {count}. Got: {rows}"
                )));
            }
            match width {
                Some(width) if width != columns => {
                    return Err(Status::invalid_argument(format!(
                        "Tensors class and score should match in dim_size(1). Got {width} vs. \
                         {columns}"
                    )));
                }
                _ => width = Some(columns),
            }
        }
        let width = usize::try_from(width.unwrap_or_default()).unwrap_or_default();
        Ok(Classifications { count, width, classes, scores })
    }
}

/// Labels and scores, as many for each example as there are classes.
pub struct Classifications<'t> {
    pub count: usize,
    pub width: usize,
    classes: Option<&'t Tensor>,
    scores: Option<&'t Tensor>,
}

impl Classifications<'_> {
    /// Label and score of every class of an example; empty and zero where the model has none.
    pub fn of(&self, example: usize) -> impl Iterator<Item = (&[u8], f32)> {
        let labels = self.classes.and_then(Tensor::as_strings);
        let scores = self.scores.and_then(Tensor::buffer);
        (example * self.width..(example + 1) * self.width).map(move |at| {
            let label = labels.map(|labels| labels.get(at)).unwrap_or_default();
            (label, scores.map_or(0.0, |scores| scores.elements()[at]))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::servable::TensorInfo;
    use crate::tensor::Buffer;

    pub fn example_signature(inputs: &[&str], outputs: &[&str]) -> Signature {
        let infos = |aliases: &[&str]| {
            let info = |alias: &&str| {
                let info = TensorInfo { name: format!("{alias}:0"), ..TensorInfo::default() };
                ((*alias).to_owned(), info)
            };
            aliases.iter().map(info).collect()
        };
        Signature {
            inputs: infos(inputs),
            outputs: infos(outputs),
            method_name: METHOD.to_owned(),
            text: "TEXT".to_owned(),
            ..Signature::default()
        }
    }

    pub fn floats(shape: &[i64], values: &[f32]) -> Tensor {
        let mut buffer = Buffer::zeroed(size_of_val(values));
        buffer.elements_mut().copy_from_slice(values);
        Tensor::dense(DType::Float, shape.to_vec(), buffer)
    }

    pub fn strings(shape: &[i64], values: &[&str]) -> Tensor {
        Tensor::strings(shape.to_vec(), values.iter().collect())
    }

    fn message<T>(result: Result<T>) -> String {
        result.err().map(|status| status.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_signature_that_cannot_classify_is_refused() {
        for (inputs, outputs, expected) in [
            (&[][..], &["scores"][..], "Expected one input Tensor."),
            (&["inputs", "b"], &["scores"], "Expected one input Tensor."),
            (&["inputs"], &[], "Expected one or two output Tensors, found 0"),
            (&["inputs"], &["a", "b", "scores"], "Expected one or two output Tensors, found 3"),
            (&["x"], &["scores"], "No classification inputs found in SignatureDef: TEXT"),
            (
                &["inputs"],
                &["y"],
                "Expected classification signature outputs to contain at least one of \
                 \"classes\" or \"scores\". Signature was: TEXT",
            ),
        ] {
            let refused = message(Plan::new(&example_signature(inputs, outputs)));
            assert_eq!(refused, format!("INVALID_ARGUMENT: {expected}"));
        }
    }

    #[test]
    fn labels_and_scores_are_paired() {
        let plan = Plan::new(&example_signature(&["inputs"], &["classes", "scores"])).unwrap();
        assert_eq!(plan.fetches(), ["classes:0", "scores:0"]);
        let (labels, scores) = (strings(&[2, 1], &["a", "b"]), floats(&[2, 1], &[0.5, 0.25]));
        let result = plan.classifications(2, &[&labels, &scores]).unwrap();
        assert_eq!(result.of(1).collect::<Vec<_>>(), [(&b"b"[..], 0.25)]);

        let plan = Plan::new(&example_signature(&["inputs"], &["scores"])).unwrap();
        let scores = floats(&[1, 2], &[0.5, 0.25]);
        let result = plan.classifications(1, &[&scores]).unwrap();
        assert_eq!(result.of(0).collect::<Vec<_>>(), [(&b""[..], 0.5), (&b""[..], 0.25)]);
    }

    #[test]
    fn outputs_of_the_wrong_type_or_shape_are_refused() {
        let plan = Plan::new(&example_signature(&["inputs"], &["classes", "scores"])).unwrap();
        let labels = || strings(&[1, 2], &["a", "b"]);
        for (outputs, expected) in [
            (vec![labels()], "Expected 2 output tensor(s).  Got: 1"),
            (
                vec![labels(), floats(&[2], &[0.0; 2])],
                "Expected Tensor shape: [batch_size num_classes] but got [2]",
            ),
            (vec![labels(), labels()], "Expected scores Tensor of DT_FLOAT. Got: DT_STRING"),
            (
                vec![floats(&[1, 2], &[0.0; 2]), labels()],
                "Expected classes Tensor of DT_STRING. Got: DT_FLOAT",
            ),
            (
                vec![labels(), floats(&[2, 2], &[0.0; 4])],
                "Expected scores output batch size of 1. Got: 2",
            ),
            (
                vec![labels(), floats(&[1, 1], &[0.0])],
                "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
            ),
        ] {
            let outputs: Vec<&Tensor> = outputs.iter().collect();
            let refused = message(plan.classifications(1, &outputs));
            assert_eq!(refused, format!("INVALID_ARGUMENT: {expected}"));
        }
    }
}
