//! Examples become the one tensor that Classify, Regress and MultiInference feed.

use crate::servable::Signature;
use crate::status::{Result, Status};
use crate::tensor::proto::Limits;
use crate::tensor::{StringsBuilder, Tensor};

/// The input alias of classification and regression signatures.
pub const INPUTS: &str = "inputs";

/// Serialized `tf.Example`s, and what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Examples<B> {
    pub examples: Vec<B>,
    pub context: Option<B>,
}

impl<B: AsRef<[u8]>> Examples<B> {
    /// A vector of strings, one for each example. The context stands in front of each of them, so
    /// that a feature of the example's own wins.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there is no example, RESOURCE_EXHAUSTED when they are too much with the
    /// context in front of each.
    pub fn to_tensor(&self) -> Result<Tensor> {
        if self.examples.is_empty() {
            return Err(Status::invalid_argument("Input is empty."));
        }
        let context = self.context.as_ref().map(AsRef::as_ref).unwrap_or_default();
        let own: usize = self.examples.iter().map(|example| example.as_ref().len()).sum();
        let bytes = context.len().saturating_mul(self.examples.len()).saturating_add(own);
        let most = Limits::for_message(context.len() + own).max_bytes;
        if bytes > most {
            return Err(Status::resource_exhausted(format!(
                "{} examples of {bytes} bytes with their context; at most {most} are accepted in \
                 this request",
                self.examples.len()
            )));
        }
        let mut strings = StringsBuilder::default();
        for example in &self.examples {
            let start = strings.bytes_mut().len();
            strings.bytes_mut().extend_from_slice(context);
            strings.bytes_mut().extend_from_slice(example.as_ref());
            strings.end_from(start);
        }
        let count = i64::try_from(self.examples.len()).unwrap_or(i64::MAX);
        Ok(Tensor::strings(vec![count], strings.build()))
    }
}

/// The name in the graph of the one input of a signature that takes examples; the text says which
/// signatures are meant.
///
/// # Errors
/// INVALID_ARGUMENT when it is not the one it has to be.
pub fn input<'s>(signature: &'s Signature, what: &str) -> Result<&'s str> {
    if signature.inputs.len() != 1 {
        return Err(Status::invalid_argument("Expected one input Tensor."));
    }
    match signature.inputs.get(INPUTS) {
        Some(info) => Ok(&info.name),
        None => Err(Status::invalid_argument(format!(
            "No {what} inputs found in SignatureDef: {}",
            signature.text
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_stands_in_front_of_every_example() {
        let examples = Examples { examples: vec!["a", ""], context: Some("c") };
        let tensor = examples.to_tensor().unwrap();

        assert_eq!(tensor.shape(), [2]);
        let strings = tensor.as_strings().unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"ca"[..], b"c"]);
    }

    #[test]
    fn no_example_is_an_error_even_with_a_context() {
        let empty = Examples { examples: vec![], context: Some("c") };

        assert_eq!(empty.to_tensor().unwrap_err(), Status::invalid_argument("Input is empty."));
    }
}
