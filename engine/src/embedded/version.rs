//! One version: a request of borrowed tensors, run on the thread that asks.
//!
//! Elements are lent to the runtime where they are, if they are aligned as it wants them and
//! nothing keeps them after the run; otherwise they are copied first. What comes back never points
//! into what was lent.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use super::Batches;
use crate::batching::{Admitted, Queues};
use crate::inference::predict;
use crate::servable::{RunOptions, Servable, Signatures};
use crate::status::{Result, Status};
use crate::tensor::{Buffer, Data, Tensor};

/// A loaded version.
pub struct Version {
    number: i64,
    servable: Arc<dyn Servable>,
    batching: Option<(Queues, Arc<Batches>)>,
    is_retired: AtomicBool,
}

/// An input as its owner has it.
pub trait Input {
    /// A tensor on the owner's memory.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is none.
    fn borrow(&self) -> Result<Tensor>;
}

impl Version {
    pub fn new(number: i64, servable: Arc<dyn Servable>, batches: Option<Arc<Batches>>) -> Self {
        let batching = batches.map(|batches| {
            let parameters = batches.parameters.clone();
            (
                Queues::new(String::new(), servable.clone(), parameters, batches.shared.clone()),
                batches,
            )
        });
        Self { number, servable, batching, is_retired: AtomicBool::new(false) }
    }

    pub fn number(&self) -> i64 {
        self.number
    }

    pub fn signatures(&self) -> &Signatures {
        self.servable.signatures()
    }

    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// No request gets this version any more.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        if let Some((queues, _)) = &self.batching {
            queues.close();
        }
    }

    /// Run a signature, the default one if its name is empty; the outputs that are asked for, in
    /// that order, or all by their names. Blocks; the memory of the inputs is not used any more
    /// when it returns.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for names and values that the signature does not take,
    /// FAILED_PRECONDITION without such a signature, or what the runtime says.
    pub fn predict<I: Input>(
        self: &Arc<Self>,
        signature_name: &str,
        mut inputs: Vec<(&str, I)>,
        outputs: &[String],
        deadline: Option<Instant>,
    ) -> Result<Vec<Tensor>> {
        let name = predict::signature_name(signature_name);
        let signature = predict::signature(self.signatures(), name, false)?;
        inputs.sort_by_key(|(name, _)| *name);
        if let Some(pair) = inputs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Status::invalid_argument(format!("Input {} was given twice", pair[0].0)));
        }
        let copies = self.batching.is_some() || self.servable.may_keep_feeds(name);
        let inputs: Vec<(&str, Fed<'_, I>)> =
            inputs.into_iter().map(|(name, input)| (name, Fed { name, input, copies })).collect();
        let feeds = predict::feeds(signature, &inputs)?;
        let fetches = predict::fetches(signature, outputs)?;
        let fetches: Vec<String> = fetches.into_iter().map(|(_, name)| name).collect();
        let options = RunOptions { deadline, ..RunOptions::default() };
        if let Some((queues, batches)) = &self.batching {
            return self.predict_in_batch(queues, batches, feeds, fetches, name, options);
        }
        let lent: Vec<Range<*const u8>> = feeds
            .iter()
            .filter_map(|(_, tensor)| tensor.buffer())
            .map(|buffer| buffer.as_slice().as_ptr_range())
            .collect();
        let outputs = self.servable.run(feeds, &fetches, options)?;
        Ok(outputs.into_iter().map(|output| own(output, &lent)).collect())
    }

    fn predict_in_batch(
        self: &Arc<Self>,
        queues: &Queues,
        batches: &Batches,
        feeds: Vec<(String, Tensor)>,
        fetches: Vec<String>,
        signature_name: &str,
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let _entered = batches.runtime.enter();
        match queues.admit(feeds, fetches, signature_name, options, self.clone())? {
            Admitted::Alone(feeds, fetches) => self.servable.run(feeds, &fetches, options),
            Admitted::AtOnce(feeds, fetches, leave) => {
                leave.run(feeds, &fetches, options, Instant::now()).map(|(outputs, _)| outputs)
            }
            Admitted::Queued(mut ticket) => batches.runtime.block_on(async {
                let answer = match options.deadline {
                    None => ticket.answer().await,
                    Some(deadline) => tokio::time::timeout_at(deadline.into(), ticket.answer())
                        .await
                        .unwrap_or_else(|_| {
                            Err(Status::deadline_exceeded("Timed out waiting for notification"))
                        }),
                };
                answer.map(|(outputs, _)| outputs)
            }),
        }
    }
}

/// An input, and whether it has to be copied.
struct Fed<'n, I> {
    name: &'n str,
    input: I,
    copies: bool,
}

impl<I: Input> predict::Input for Fed<'_, I> {
    fn to_tensor(&self) -> Result<Tensor> {
        let tensor = self.input.borrow().map_err(|status| {
            Status::new(status.code, format!("Input {}: {}", self.name, status.message))
        })?;
        Ok(if self.copies { tensor.copied() } else { tensor })
    }
}

/// An output that does not point into what was lent.
fn own(output: Tensor, lent: &[Range<*const u8>]) -> Tensor {
    let points_in = |buffer: &Buffer| {
        let own = buffer.as_slice().as_ptr_range();
        lent.iter().any(|lent| own.start < lent.end && lent.start < own.end)
    };
    match output.data() {
        Data::Dense(buffer) if points_in(buffer) => output.copied(),
        _ => output,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::servable::{Signature, TensorInfo};
    use crate::tensor::DType;

    /// Gives back what it is fed, and may keep it.
    struct Echo {
        signatures: Signatures,
        map: Bytes,
        keeps: bool,
    }

    impl Servable for Echo {
        fn signatures(&self) -> &Signatures {
            &self.signatures
        }
        fn signature_def_map(&self) -> &Bytes {
            &self.map
        }
        fn may_keep_feeds(&self, _: &str) -> bool {
            self.keeps
        }
        fn run(
            &self,
            feeds: Vec<(String, Tensor)>,
            _: &[String],
            _: RunOptions,
        ) -> Result<Vec<Tensor>> {
            let tensor = feeds.into_iter().next().unwrap().1;
            if self.keeps {
                // What is kept is not the caller's.
                let start = tensor.buffer().unwrap().as_slice().as_ptr();
                assert_ne!(start, GIVEN.as_ptr().cast());
            }
            Ok(vec![tensor])
        }
    }

    static GIVEN: [f32; 2] = [1.0, 2.0];

    struct Given;

    impl Input for Given {
        fn borrow(&self) -> Result<Tensor> {
            // SAFETY: static memory.
            let buffer = unsafe { Buffer::foreign(GIVEN.as_ptr().cast(), 8, Box::new(())) };
            Ok(Tensor::dense(DType::Float, vec![2], buffer))
        }
    }

    fn version(keeps: bool) -> Arc<Version> {
        let info = |name: &str| {
            let info = TensorInfo { name: format!("{name}:0"), dtype: 1, shape: None };
            [(name.to_owned(), info)].into()
        };
        let signature = Signature { inputs: info("x"), outputs: info("y"), ..Signature::default() };
        let signatures = [("serving_default".to_owned(), signature)].into();
        Arc::new(Version::new(1, Arc::new(Echo { signatures, map: Bytes::new(), keeps }), None))
    }

    #[test]
    fn results_never_point_into_what_was_lent() {
        for keeps in [false, true] {
            let outputs = version(keeps).predict("", vec![("x", Given)], &[], None).unwrap();
            let buffer = outputs[0].buffer().unwrap();

            assert_eq!(buffer.elements::<f32>(), GIVEN);
            assert_ne!(buffer.as_slice().as_ptr(), GIVEN.as_ptr().cast());
        }
    }

    #[test]
    fn what_the_signature_does_not_take_is_refused_by_name() {
        let wanted = ["z".to_owned()];
        for (signature, inputs, outputs, expected) in [
            ("s", vec![("x", Given)], &[][..], "FAILED_PRECONDITION: Serving signature key \"s\""),
            ("", vec![], &[], "INVALID_ARGUMENT: input size does not match signature: 0!=1"),
            ("", vec![("x", Given), ("x", Given)], &[], "INVALID_ARGUMENT: Input x was given twi"),
            ("", vec![("z", Given)], &[], "INVALID_ARGUMENT: Signature input alias: x(feed name: "),
            ("", vec![("x", Given)], &wanted, "INVALID_ARGUMENT: output tensor alias not found in"),
        ] {
            let status = version(false).predict(signature, inputs, outputs, None).unwrap_err();

            assert!(status.to_string().starts_with(expected), "{status}");
        }
    }
}
