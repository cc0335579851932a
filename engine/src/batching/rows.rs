//! How requests stand in the tensors of a batch: which fit together, what is added so that they do,
//! and whose rows of an output are whose. One row below another, each once, in their order.

use std::sync::Arc;

use super::run::Member;
use super::signature::Parameters;
use super::tensors::{self, Part};
use crate::metrics::Run;
use crate::status::{Result, Status};
use crate::tensor::{Shape, Tensor};

/// Members that can stand in one tensor: of the same types, and of the same row shapes where
/// nothing is padded. Differences of shape alone stay in one group, to be refused as one, where
/// nothing runs by itself.
pub fn groups(members: Vec<Member>, parameters: &Parameters) -> Vec<Vec<Member>> {
    let joins = |one: &Member, other: &Member| {
        one.feeds.iter().zip(other.feeds.iter()).all(|(one, other)| {
            let shapes_agree = if parameters.pad_variable_length_inputs {
                one.shape().len() == other.shape().len()
            } else {
                !parameters.run_unbatchable_alone
                    || tensors::row_shape(one) == tensors::row_shape(other)
            };
            one.dtype() == other.dtype() && shapes_agree
        })
    };
    let mut groups: Vec<Vec<Member>> = Vec::with_capacity(1);
    for member in members {
        match groups.iter_mut().find(|group| joins(&group[0], &member)) {
            Some(group) => group.push(member),
            None => groups.push(vec![member]),
        }
    }
    groups
}

/// The first feed whose row shape is not the same in all members.
pub fn differing_feed(group: &[Member]) -> Option<usize> {
    let first = &group.first()?.feeds;
    (0..first.len()).find(|&at| {
        let row = tensors::row_shape(&first[at]);
        group.iter().any(|member| tensors::row_shape(&member.feeds[at]) != row)
    })
}

/// The row shapes of tensors.
pub fn shapes(feeds: &[Tensor]) -> Vec<Shape> {
    feeds.iter().map(|tensor| tensors::row_shape(tensor).to_vec()).collect()
}

/// What is answered to those whose rows do not fit together.
pub fn different_shapes(name: &str) -> Status {
    Status::failed_precondition(format!(
        "Tensors with name '{name}' from different tasks have different shapes and padding is \
         turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the \
         same name have equal dimensions starting with the first dim."
    ))
}

/// Members whose feeds all have the largest row shapes; those that cannot be padded fail.
pub fn padded(group: Vec<Member>, parameters: &Parameters) -> Vec<Member> {
    let count = group[0].feeds.len();
    let largest: Vec<Shape> = (0..count)
        .map(|at| tensors::largest_row(group.iter().map(|member| &member.feeds[at])))
        .collect();
    let pad = |member: Member| {
        let feeds = member.feeds.iter().zip(&largest).map(|(tensor, row)| {
            let rows = Part::new(tensor, &member.fed);
            if tensors::row_shape(tensor) == &row[..] {
                return tensors::join(&[rows], 0);
            }
            tensors::pad(&tensors::join(&[rows], 0)?, row, parameters.fill())
        });
        match feeds.collect::<Result<Vec<Tensor>>>() {
            Ok(feeds) => {
                let fed = 0..member.rows.len();
                let before_padding = Some(shapes(&member.feeds));
                Some(Member { feeds: Arc::new(feeds), fed, before_padding, ..member })
            }
            Err(status) => {
                member.task.fail(status);
                None
            }
        }
    };
    group.into_iter().filter_map(pad).collect()
}

/// The tensors to feed. Those of a task that runs alone are not copied.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for them.
pub fn joined(group: &mut [Member], extra: usize) -> Result<Vec<Tensor>> {
    if let ([member], 0) = (&mut *group, extra) {
        if member.task.is_whole(&member.rows) {
            match Arc::try_unwrap(std::mem::take(&mut member.feeds)) {
                Ok(feeds) => return Ok(feeds),
                Err(shared) => member.feeds = shared,
            }
        }
    }
    (0..group[0].feeds.len())
        .map(|at| {
            let parts: Vec<Part<'_>> =
                group.iter().map(|member| Part::new(&member.feeds[at], &member.fed)).collect();
            tensors::join(&parts, extra)
        })
        .collect()
}

/// Whether outputs have a row for each row that was fed.
///
/// # Errors
/// FAILED_PRECONDITION when one has not.
pub fn check_outputs(outputs: &[Tensor], size: usize) -> Result<()> {
    for output in outputs {
        match tensors::rows(output) {
            None => {
                return Err(Status::failed_precondition("Batched output tensor has 0 dimensions"))
            }
            Some(rows) if rows != size => {
                return Err(Status::failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th \
                     dimension sizes of the input tensors",
                ))
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Give each task its rows, without what padding added.
pub fn deliver(group: &[Member], outputs: Vec<Tensor>, largest: &[Shape], run: Run) {
    let outputs: Vec<Arc<Tensor>> = outputs.into_iter().map(Arc::new).collect();
    let mut start = 0;
    for member in group {
        let end = start + member.rows.len();
        let unpads = member.task.signature.parameters.unpad_outputs;
        let own = member.before_padding.as_ref().filter(|_| unpads);
        let parts = outputs.iter().map(|output| {
            let part = tensors::part(output, start..end);
            match own {
                Some(own) => unpadded(part, largest, own),
                None => Ok(part),
            }
        });
        match parts.collect() {
            Ok(parts) => member.task.succeed(&member.rows, parts, run),
            Err(status) => member.task.fail(status),
        }
        start = end;
    }
}

/// A task's part of an output without what padding of its inputs added: a size that is the largest
/// of some input, in the same dimension, becomes the task's own.
fn unpadded(part: Tensor, largest: &[Shape], own: &[Shape]) -> Result<Tensor> {
    let mut row = tensors::row_shape(&part).to_vec();
    for (dim, size) in row.iter_mut().enumerate() {
        let mut inputs = largest.iter().zip(own);
        let found = inputs.find_map(|(largest, own)| {
            let (largest, own) = (largest.get(dim)?, own.get(dim)?);
            (largest == size && own < largest).then_some(*own)
        });
        *size = found.unwrap_or(*size);
    }
    if row == tensors::row_shape(&part) {
        Ok(part)
    } else {
        tensors::cut(&part, &row)
    }
}
