//! Copies of requests for a version whose answers nobody gets: run, compared, counted.
//!
//! One thread of the lowest priority runs them, one after the other. A request that is chosen is
//! copied before and after it runs, and answered without waiting for anything here: what does not
//! fit into the queue, or would run while requests wait for a thread, is dropped and counted as
//! that. What equal means is decided here, too.

use std::collections::BTreeMap;
use std::sync::mpsc::{sync_channel, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};

use half::{bf16, f16};

use crate::metrics::ShadowResult;
use crate::servable::{RunOptions, Servable, Signature, TensorInfo};
use crate::serving_map::{ServableHandle, Shadow};
use crate::status::Result;
use crate::tensor::{Buffer, DType, Data, Strings, Tensor};

/// Copies that may wait for the thread.
const QUEUE: usize = 16;
/// Copies larger than this are not made.
const MAX_BYTES: usize = 4 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that runs copies; it starts with the first one.
#[derive(Default)]
pub struct Shadows {
    queue: OnceLock<Option<SyncSender<Job>>>,
}

/// What one request fed and fetched, under the names of the version that is to be compared.
pub struct Copy {
    target: Arc<ServableHandle>,
    tolerance: f64,
    feeds: Vec<(String, Tensor)>,
    fetches: Vec<String>,
}

impl Copy {
    /// A copy for the version that shadows `handle`, when one does and it is this request's turn.
    pub fn take(
        handle: &ServableHandle,
        feeds: &[(String, Tensor)],
        fetches: &[String],
        is_busy: impl FnOnce() -> bool,
    ) -> Option<Self> {
        let shadow = handle.shadow_turn()?;
        let Shadow { target, tolerance, .. } = &*shadow;
        let size: usize = feeds.iter().map(|(_, tensor)| tensor.byte_size()).sum();
        if size > MAX_BYTES || is_busy() {
            target.series.shadow.count(ShadowResult::Dropped);
            return None;
        }
        let (from, to) = (handle.servable.as_ref(), target.servable.as_ref());
        let feed_names: Option<Vec<String>> =
            feeds.iter().map(|(name, _)| translate(from, to, name, true)).collect();
        let fetches: Option<Vec<String>> =
            fetches.iter().map(|name| translate(from, to, name, false)).collect();
        let (Some(names), Some(fetches)) = (feed_names, fetches) else {
            // The other version has no such input or output.
            target.series.shadow.count(ShadowResult::Failed);
            return None;
        };
        let feeds = names.into_iter().zip(feeds).map(|(name, (_, tensor))| (name, copy(tensor)));
        Some(Self {
            target: target.clone(),
            tolerance: *tolerance,
            feeds: feeds.collect(),
            fetches,
        })
    }

    fn run(self, expected: &[Tensor]) {
        let Self { target, tolerance, feeds, fetches } = self;
        let answer = target.servable.run(feeds, &fetches, RunOptions::default());
        target.series.shadow.count(judge(expected, &answer, tolerance));
    }
}

impl Shadows {
    /// Have a copy run, and compare what it gives with `outputs`; never waits.
    pub fn submit(&self, copy: Copy, outputs: &[Tensor]) {
        let counts = copy.target.clone();
        let size: usize = outputs.iter().map(Tensor::byte_size).sum();
        let queue = self.queue.get_or_init(start).as_ref();
        let Some(queue) = queue.filter(|_| size <= MAX_BYTES) else {
            counts.series.shadow.count(ShadowResult::Dropped);
            return;
        };
        let outputs: Vec<Tensor> = outputs.iter().map(self::copy).collect();
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            queue.try_send(Box::new(move || copy.run(&outputs)))
        {
            counts.series.shadow.count(ShadowResult::Dropped);
        }
    }
}

fn start() -> Option<SyncSender<Job>> {
    let (queue, jobs) = sync_channel::<Job>(QUEUE);
    let work = move || {
        give_way();
        for job in jobs {
            // A panic ends the copy, and nothing else.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        }
    };
    let thread = std::thread::Builder::new().name("servable-shadow".to_owned()).spawn(work);
    thread.is_ok().then_some(queue)
}

/// Let every other thread go first.
fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes no pointers; on Linux it concerns the calling thread only.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}

/// The name in `to` of the input or output that is called `name` in `from`: that of the same
/// signature and alias.
fn translate(from: &dyn Servable, to: &dyn Servable, name: &str, is_input: bool) -> Option<String> {
    from.signatures().iter().find_map(|(key, signature)| {
        let (alias, _) = side(signature, is_input).iter().find(|(_, info)| info.name == name)?;
        let other = side(to.signatures().get(key)?, is_input);
        Some(other.get(alias)?.name.clone())
    })
}

fn side(signature: &Signature, is_input: bool) -> &BTreeMap<String, TensorInfo> {
    if is_input {
        &signature.inputs
    } else {
        &signature.outputs
    }
}

fn copy(tensor: &Tensor) -> Tensor {
    let shape = tensor.shape().to_vec();
    match tensor.data() {
        Data::Dense(buffer) => {
            Tensor::dense(tensor.dtype(), shape, Buffer::copy_of(buffer.as_slice()))
        }
        Data::Strings(strings) => Tensor::strings(shape, strings.iter().collect::<Strings>()),
    }
}

fn judge(expected: &[Tensor], answer: &Result<Vec<Tensor>>, tolerance: f64) -> ShadowResult {
    let Ok(answer) = answer else { return ShadowResult::Failed };
    let mut pairs = expected.iter().zip(answer);
    if expected.len() == answer.len() && pairs.all(|(one, other)| equal(one, other, tolerance)) {
        ShadowResult::Equal
    } else {
        ShadowResult::Different
    }
}

/// Whether two tensors are the same, but for the last digits of their numbers.
fn equal(one: &Tensor, other: &Tensor, tolerance: f64) -> bool {
    if one.dtype() != other.dtype() || one.shape() != other.shape() {
        return false;
    }
    match (one.data(), other.data()) {
        (Data::Dense(one_buffer), Data::Dense(other_buffer)) => {
            let (a, b) = (one_buffer, other_buffer);
            match one.dtype() {
                DType::Float => near(a.elements::<f32>(), b.elements(), tolerance, f64::from),
                DType::Double => near(a.elements::<f64>(), b.elements(), tolerance, |n| n),
                DType::Half => near(a.elements::<u16>(), b.elements(), tolerance, |n| {
                    f16::from_bits(n).to_f64()
                }),
                DType::BFloat16 => near(a.elements::<u16>(), b.elements(), tolerance, |n| {
                    bf16::from_bits(n).to_f64()
                }),
                _ => a.as_slice() == b.as_slice(),
            }
        }
        (Data::Strings(one), Data::Strings(other)) => one.iter().eq(other.iter()),
        _ => false,
    }
}

fn near<T: std::marker::Copy>(
    one: &[T],
    other: &[T],
    tolerance: f64,
    number: impl Fn(T) -> f64,
) -> bool {
    one.iter().zip(other).all(|(&one, &other)| {
        let (one, other) = (number(one), number(other));
        #[allow(clippy::float_cmp)] // infinities
        let is_same = one == other || (one.is_nan() && other.is_nan());
        let difference = (one - other).abs();
        let is_near = difference <= tolerance * one.abs().max(other.abs());
        is_same || (difference.is_finite() && is_near)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(numbers: &[f32]) -> Tensor {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let shape = vec![i64::try_from(numbers.len()).unwrap()];
        Tensor::dense(DType::Float, shape, Buffer::copy_of(&bytes))
    }

    fn strings(texts: &[&str]) -> Tensor {
        let shape = vec![i64::try_from(texts.len()).unwrap()];
        Tensor::strings(shape, texts.iter().collect())
    }

    #[test]
    fn answers_are_equal_within_the_tolerance() {
        for (one, other, expected) in [
            (floats(&[1.0, -2.0]), floats(&[1.0009, -2.0]), true),
            (floats(&[1.0, -2.0]), floats(&[1.002, -2.0]), false),
            (floats(&[0.0]), floats(&[1e-30]), false),
            (floats(&[f32::NAN, f32::INFINITY]), floats(&[f32::NAN, f32::INFINITY]), true),
            (floats(&[f32::INFINITY]), floats(&[f32::NEG_INFINITY]), false),
            (floats(&[1.0]), floats(&[1.0, 1.0]), false),
            (floats(&[1.0]), strings(&["1"]), false),
            (strings(&["a", "b"]), strings(&["a", "b"]), true),
            (strings(&["a", "b"]), strings(&["a", "c"]), false),
        ] {
            assert_eq!(equal(&one, &other, 1e-3), expected, "{one:?} {other:?}");
            assert_eq!(equal(&other, &one, 1e-3), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_copy_is_equal_to_what_it_copies() {
        for tensor in [floats(&[1.0, 2.0]), strings(&["a", ""]), floats(&[])] {
            assert!(equal(&tensor, &copy(&tensor), 0.0));
        }
    }
}
