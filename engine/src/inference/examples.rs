//! Examples become the one tensor that Classify, Regress and MultiInference feed.

use crate::app::Options;
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

/// What a request may have, and become.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Examples; 0: no limit.
    pub examples: usize,
    /// Bytes of one tensor, however small the message is.
    pub expanded_bytes: usize,
}

impl Most {
    pub fn of(options: &Options) -> Self {
        Self { examples: options.max_examples, expanded_bytes: options.max_expanded_bytes }
    }
}

impl Default for Most {
    fn default() -> Self {
        Self::of(&Options::default())
    }
}

impl<B: AsRef<[u8]>> Examples<B> {
    /// # Errors
    /// As [`to_tensor`].
    pub fn to_tensor(&self, most: Most) -> Result<Tensor> {
        let context = self.context.as_ref().map(AsRef::as_ref).unwrap_or_default();
        to_tensor(self.examples.len(), self.examples.iter().map(AsRef::as_ref), context, most)
    }
}

/// A vector of `count` strings, one for each of `examples`. The context stands in front of each of
/// them, so that a feature of the example's own wins.
///
/// # Errors
/// INVALID_ARGUMENT when there is no example, RESOURCE_EXHAUSTED when there are too many, or they
/// are too much with the context in front of each.
pub fn to_tensor<'e>(
    count: usize,
    examples: impl Iterator<Item = &'e [u8]> + Clone,
    context: &[u8],
    most: Most,
) -> Result<Tensor> {
    if count == 0 {
        return Err(Status::invalid_argument("Input is empty."));
    }
    check_count(count, most)?;
    let own: usize = examples.clone().map(<[u8]>::len).sum();
    let bytes = context.len().saturating_mul(count).saturating_add(own);
    let most = Limits::for_message(context.len() + own, most.expanded_bytes).max_bytes;
    if bytes > most {
        return Err(Status::resource_exhausted(format!(
            "{count} examples of {bytes} bytes with their context; at most {most} are accepted in \
             this request"
        )));
    }
    let mut strings = StringsBuilder::default();
    for example in examples {
        let start = strings.bytes_mut().len();
        strings.bytes_mut().extend_from_slice(context);
        strings.bytes_mut().extend_from_slice(example);
        strings.end_from(start);
    }
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Ok(Tensor::strings(vec![count], strings.build()))
}

/// Check that there are no more examples than may be. An example of two bytes becomes a row of
/// everything that the model computes.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there are.
pub fn check_count(count: usize, most: Most) -> Result<()> {
    let most = most.examples;
    if most > 0 && count > most {
        return Err(Status::resource_exhausted(format!(
            "The request has {count} examples or more; --max_examples allows {most}"
        )));
    }
    Ok(())
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

    fn most(examples: usize) -> Most {
        Most { examples, ..Most::default() }
    }

    #[test]
    fn a_context_does_not_multiply_without_end() {
        let context = vec![0_u8; 100_000];
        let of = |count: usize| {
            let examples =
                Examples { examples: vec![&b""[..]; count], context: Some(&context[..]) };
            examples.to_tensor(most(0)).map(|tensor| tensor.num_elements()).map_err(|s| s.code)
        };

        assert_eq!(of(3), Ok(3));
        assert_eq!(of(1000), Err(crate::status::Code::ResourceExhausted));
    }

    #[test]
    fn the_context_stands_in_front_of_every_example() {
        let examples = Examples { examples: vec!["a", ""], context: Some("c") };
        let tensor = examples.to_tensor(most(2)).unwrap();

        assert_eq!(tensor.shape(), [2]);
        let strings = tensor.as_strings().unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"ca"[..], b"c"]);
    }

    #[test]
    fn no_example_is_an_error_even_with_a_context() {
        let empty = Examples { examples: vec![], context: Some("c") };

        assert_eq!(
            empty.to_tensor(most(1)).unwrap_err(),
            Status::invalid_argument("Input is empty.")
        );
    }

    #[test]
    fn there_are_no_more_than_are_allowed() {
        let examples = Examples { examples: vec![""; 3], context: None };
        let refused =
            |count| examples.to_tensor(most(count)).err().map(|status| status.to_string());

        assert_eq!(refused(0), None);
        assert_eq!(refused(4), None);
        assert_eq!(refused(3), None);
        let text =
            "RESOURCE_EXHAUSTED: The request has 3 examples or more; --max_examples allows 2";
        assert_eq!(refused(2).as_deref(), Some(text));
    }
}
