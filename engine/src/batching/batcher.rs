//! Batchers that somebody has installed: they say which requests run together, what is fed for them,
//! and which part of the outputs is whose.
//!
//! They know inputs and outputs by their aliases. What they say is checked here: every request stands
//! in one group, and gets every output.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::run::Member;
use super::signature::Signature;
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// Puts requests together and takes answers apart.
pub trait Batcher: Send + Sync {
    /// # Errors
    /// Whatever it raises.
    fn group(&self, signature_name: &str, requests: &[Request<'_>]) -> Result<Vec<Box<dyn Group>>>;
}

/// Requests that run together.
pub trait Group {
    /// Which they are, in the order in which they were given.
    fn places(&self) -> &[usize];

    /// Inputs by alias. `size` is the number of rows that the allowed batch sizes ask for.
    ///
    /// # Errors
    /// Whatever it raises.
    fn pad(&self, size: usize) -> Result<Vec<(String, Tensor)>>;

    /// For each request its outputs by alias.
    ///
    /// # Errors
    /// Whatever it raises.
    fn split(&self, outputs: &[(&str, &Tensor)]) -> Result<Vec<Vec<(String, Tensor)>>>;
}

/// A request as a batcher sees it.
pub struct Request<'m> {
    pub rows: usize,
    pub inputs: Vec<(&'m str, &'m Tensor)>,
}

/// A batcher, as parameters carry it.
#[derive(Clone)]
pub struct Installed(pub Arc<dyn Batcher>);

impl fmt::Debug for Installed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Installed")
    }
}

impl Deref for Installed {
    type Target = dyn Batcher;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Aliases of a queue's feeds and fetches; their names in the graph, where they are of several
/// signatures.
pub struct Aliases {
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Aliases {
    pub fn of(signature: &Signature) -> Self {
        let declared = signature.servable.signatures().get(&signature.name);
        let alias = |name: &String, is_input: bool| {
            let declared = declared?;
            let infos = if is_input { &declared.inputs } else { &declared.outputs };
            infos.iter().find(|(_, info)| info.name == *name).map(|(alias, _)| alias.clone())
        };
        let aliases = |names: &[String], is_input: bool| {
            names.iter().map(|name| alias(name, is_input).unwrap_or_else(|| name.clone())).collect()
        };
        Self {
            inputs: aliases(&signature.feeds, true),
            outputs: aliases(&signature.fetches, false),
        }
    }
}

/// What a batcher makes of requests.
///
/// # Errors
/// What it raises; INTERNAL when a request is left out, or stands in two groups.
pub fn groups(
    batcher: &dyn Batcher,
    signature: &Signature,
    names: &Aliases,
    members: &[Member],
) -> Result<Vec<Box<dyn Group>>> {
    let requests: Vec<Request<'_>> = members
        .iter()
        .map(|member| Request {
            rows: member.rows.len(),
            inputs: names.inputs.iter().map(String::as_str).zip(member.feeds.iter()).collect(),
        })
        .collect();
    let groups = batcher.group(&signature.name, &requests)?;
    let mut places: Vec<usize> =
        groups.iter().flat_map(|group| group.places().iter().copied()).collect();
    places.sort_unstable();
    if !places.into_iter().eq(0..members.len()) {
        return Err(Status::internal("The batcher has not put each request into one group"));
    }
    Ok(groups)
}

/// What a group is fed, in the order of the signature's feeds.
///
/// # Errors
/// What the batcher raises; INTERNAL when it leaves out an input.
pub fn feeds(group: &dyn Group, names: &Aliases, size: usize) -> Result<Vec<Tensor>> {
    ordered(group.pad(size)?, &names.inputs, "input")
}

/// For each request of a group its outputs, in the order of the signature's fetches.
///
/// # Errors
/// What the batcher raises; INTERNAL when it leaves out a request or an output.
pub fn parts(group: &dyn Group, names: &Aliases, outputs: &[Tensor]) -> Result<Vec<Vec<Tensor>>> {
    let outputs: Vec<(&str, &Tensor)> =
        names.outputs.iter().map(String::as_str).zip(outputs).collect();
    let parts = group.split(&outputs)?;
    if parts.len() != group.places().len() {
        return Err(Status::internal(format!(
            "The batcher has split outputs into {} parts; {} requests wait for theirs",
            parts.len(),
            group.places().len()
        )));
    }
    parts.into_iter().map(|part| ordered(part, &names.outputs, "output")).collect()
}

fn ordered(given: Vec<(String, Tensor)>, names: &[String], what: &str) -> Result<Vec<Tensor>> {
    let mut given: Vec<(String, Option<Tensor>)> =
        given.into_iter().map(|(alias, tensor)| (alias, Some(tensor))).collect();
    let mut taken = Vec::with_capacity(names.len());
    for name in names {
        let tensor = given.iter_mut().find(|(alias, _)| alias == name);
        let tensor = tensor.and_then(|(_, tensor)| tensor.take());
        taken.push(tensor.ok_or_else(|| {
            Status::internal(format!("The batcher has left out the {what} {name}"))
        })?);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::queue::Entry;
    use crate::batching::run::run;
    use crate::batching::signature::Parameters;
    use crate::batching::task::{Answer, Task};
    use crate::batching::tensors::{self, Part};
    use crate::batching::testing::{ints, parameters, Echo, Runs, POISON};
    use crate::metrics::Batching;
    use std::time::Instant;
    use tokio::sync::oneshot::Receiver;

    /// What a batcher does wrong.
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        LeavesOutARequest,
        GroupsOneTwice,
        LeavesOutTheInput,
        LeavesOutAPart,
        LeavesOutTheOutput,
    }

    /// Puts requests of as many rows together, the last first.
    struct BySize(Fault);

    struct SameSize {
        fault: Fault,
        places: Vec<usize>,
        inputs: Vec<Tensor>,
    }

    impl Batcher for BySize {
        fn group(&self, _: &str, requests: &[Request<'_>]) -> Result<Vec<Box<dyn Group>>> {
            let mut groups: Vec<Box<dyn Group>> = Vec::new();
            for rows in 1..9 {
                let mut places: Vec<usize> =
                    (0..requests.len()).rev().filter(|&at| requests[at].rows == rows).collect();
                match self.0 {
                    Fault::LeavesOutARequest => drop(places.pop()),
                    Fault::GroupsOneTwice => places.extend(places.first().copied()),
                    _ => {}
                }
                let of_rows =
                    |tensor: &Tensor| tensors::join(&[Part::new(tensor, &(0..rows))], 0).unwrap();
                let inputs = places.iter().map(|&at| of_rows(requests[at].inputs[0].1)).collect();
                if !places.is_empty() {
                    groups.push(Box::new(SameSize { fault: self.0, places, inputs }));
                }
            }
            Ok(groups)
        }
    }

    impl Group for SameSize {
        fn places(&self) -> &[usize] {
            &self.places
        }

        fn pad(&self, size: usize) -> Result<Vec<(String, Tensor)>> {
            let whole = |tensor| Part::new(tensor, &(0..tensors::rows(tensor).unwrap()));
            let parts: Vec<Part<'_>> = self.inputs.iter().map(whole).collect();
            let rows: usize = self.inputs.iter().map(|one| tensors::rows(one).unwrap()).sum();
            let name = if self.fault == Fault::LeavesOutTheInput { "other" } else { "x:0" };
            Ok(vec![(name.to_owned(), tensors::join(&parts, size - rows)?)])
        }

        fn split(&self, outputs: &[(&str, &Tensor)]) -> Result<Vec<Vec<(String, Tensor)>>> {
            let name = if self.fault == Fault::LeavesOutTheOutput { "other" } else { outputs[0].0 };
            let rows = tensors::rows(&self.inputs[0]).unwrap();
            let left_out = usize::from(self.fault == Fault::LeavesOutAPart);
            let parts = (0..self.inputs.len() - left_out).map(|at| {
                let part = Part::new(outputs[0].1, &(at * rows..(at + 1) * rows));
                vec![(name.to_owned(), tensors::join(&[part], 0).unwrap())]
            });
            Ok(parts.collect())
        }
    }

    fn answers(parameters: Parameters, feeds: &[&[i32]]) -> (Vec<String>, Runs) {
        let (echo, runs) = Echo::new(None);
        let names = |name: &str| vec![name.to_owned()];
        let signature = Signature::new(
            "m".to_owned(),
            Arc::new(echo),
            names("x:0"),
            names("y:0"),
            Arc::new(parameters),
        );
        let signature = Arc::new(signature);
        let (entries, answers): (Vec<_>, Vec<Receiver<Answer>>) = feeds
            .iter()
            .map(|values| {
                let tensor = ints(&[values.len() as i64], values);
                let now = Instant::now();
                let (signature, hold) = (signature.clone(), Arc::new(()));
                let (task, answer) =
                    Task::new(signature, vec![tensor], values.len(), now, None, hold);
                (Entry { rows: 0..values.len(), task }, answer)
            })
            .unzip();
        run(entries, &Batching::default());
        let seen = answers.into_iter().map(|mut answer| match answer.try_recv().unwrap() {
            Ok((outputs, _)) => format!("{:?}", outputs[0].buffer().unwrap().elements::<i32>()),
            Err(status) => status.to_string(),
        });
        (seen.collect(), runs)
    }

    fn by_size(fault: Fault) -> Parameters {
        Parameters { batcher: Some(Installed(Arc::new(BySize(fault)))), ..parameters() }
    }

    #[test]
    fn requests_run_as_it_groups_them_and_get_what_it_splits() {
        let padded = Parameters { allowed_batch_sizes: vec![4, 16], ..by_size(Fault::None) };

        let (seen, runs) = answers(padded, &[&[1], &[2, 3], &[4], &[5, 6]]);

        assert_eq!(seen, ["[1]", "[2, 3]", "[4]", "[5, 6]"]);
        assert_eq!(*runs.lock(), [[4], [4]]);
    }

    #[test]
    fn what_it_leaves_out_is_an_error_of_those_it_is_about() {
        for (fault, text) in [
            (Fault::LeavesOutARequest, "has not put each request into one group"),
            (Fault::GroupsOneTwice, "has not put each request into one group"),
            (Fault::LeavesOutTheInput, "has left out the input x:0"),
            (Fault::LeavesOutAPart, "has split outputs into 1 parts; 2 requests wait for theirs"),
            (Fault::LeavesOutTheOutput, "has left out the output y:0"),
        ] {
            let (seen, _) = answers(by_size(fault), &[&[1], &[2]]);

            assert_eq!(seen, vec![format!("INTERNAL: The batcher {text}"); 2]);
        }
    }

    #[test]
    fn what_fails_for_one_fails_for_it_alone() {
        let alone = Parameters { run_unbatchable_alone: true, ..by_size(Fault::None) };

        let (seen, runs) = answers(alone, &[&[1], &[2], &[POISON], &[3, 4]]);

        assert_eq!(seen, ["[1]", "[2]", "INVALID_ARGUMENT: poison", "[3, 4]"]);
        assert_eq!(*runs.lock(), [[3], [1], [2], [2]]);
    }
}
