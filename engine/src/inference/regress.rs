//! Regress: examples in, one value for each out.

use crate::inference::examples;
use crate::servable::Signature;
use crate::status::{Result, Status};
use crate::tensor::{shape_text, DType, Tensor};

pub const METHOD: &str = "tensorflow/serving/regress";

const OUTPUTS: &str = "outputs";

/// What to feed and fetch, by names in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub input: String,
    pub output: String,
}

impl Plan {
    /// # Errors
    /// INVALID_ARGUMENT when the signature does not have the input and output it takes.
    pub fn new(signature: &Signature) -> Result<Self> {
        if signature.inputs.len() == 1 && signature.outputs.len() != 1 {
            return Err(Status::invalid_argument("Expected one output Tensor."));
        }
        let input = examples::input(signature, "regression")?.to_owned();
        let Some(output) = signature.outputs.get(OUTPUTS) else {
            return Err(Status::invalid_argument(format!(
                "No regression outputs found in SignatureDef: {}",
                signature.text
            )));
        };
        Ok(Self { input, output: output.name.clone() })
    }

    pub fn fetches(&self) -> Vec<String> {
        vec![self.output.clone()]
    }

    /// The value of each of `count` examples, from what was fetched for them.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the output is not of the type and shape it has to be.
    pub fn regressions<'t>(&self, count: usize, outputs: &[&'t Tensor]) -> Result<&'t [f32]> {
        let [output] = outputs else {
            return Err(Status::invalid_argument(
                "Expected output_tensors and output_tensor_names to have the same size.",
            ));
        };
        let shape = output.shape();
        let ([rows] | [rows, 1]) = *shape else {
            return Err(Status::invalid_argument(format!(
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but \
                 got {}",
                shape_text(shape)
            )));
        };
        if usize::try_from(rows) != Ok(count) {
            return Err(Status::invalid_argument(format!(
                "Input batch size did not match output batch size: {count} vs. {rows}"
            )));
        }
        match output.buffer() {
            Some(buffer) if output.dtype() == DType::Float => Ok(buffer.elements()),
            _ => Err(Status::invalid_argument(format!(
                "Expected output Tensor of DT_FLOAT.  Got: {}",
                output.dtype().name()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::classify::tests::{example_signature, floats, strings};
    use super::*;

    fn message<T>(result: Result<T>) -> String {
        result.err().map(|status| status.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_signature_that_cannot_regress_is_refused() {
        for (inputs, outputs, expected) in [
            (&[][..], &["outputs"][..], "Expected one input Tensor."),
            (&["inputs"], &["outputs", "b"], "Expected one output Tensor."),
            (&["x"], &["outputs"], "No regression inputs found in SignatureDef: TEXT"),
            (&["inputs"], &["y"], "No regression outputs found in SignatureDef: TEXT"),
        ] {
            let refused = message(Plan::new(&example_signature(inputs, outputs)));
            assert_eq!(refused, format!("INVALID_ARGUMENT: {expected}"));
        }
    }

    #[test]
    fn one_column_is_as_good_as_none() {
        let plan = Plan::new(&example_signature(&["inputs"], &["outputs"])).unwrap();
        for shape in [&[2][..], &[2, 1]] {
            let output = floats(shape, &[1.0, 2.0]);
            assert_eq!(plan.regressions(2, &[&output]), Ok(&[1.0, 2.0][..]));
        }
    }

    #[test]
    fn outputs_of_the_wrong_type_or_shape_are_refused() {
        let plan = Plan::new(&example_signature(&["inputs"], &["outputs"])).unwrap();
        let size = "Expected output_tensors and output_tensor_names to have the same size.";
        for (outputs, expected) in [
            (vec![], size),
            (
                vec![floats(&[1, 3], &[0.0; 3])],
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but \
                 got [1,3]",
            ),
            (
                vec![floats(&[2], &[0.0; 2])],
                "Input batch size did not match output batch size: 1 vs. 2",
            ),
            (vec![strings(&[1], &["a"])], "Expected output Tensor of DT_FLOAT.  Got: DT_STRING"),
        ] {
            let outputs: Vec<&Tensor> = outputs.iter().collect();
            let refused = message(plan.regressions(1, &outputs));
            assert_eq!(refused, format!("INVALID_ARGUMENT: {expected}"));
        }
    }
}
