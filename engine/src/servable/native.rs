//! Servables in native libraries, as `include/servable/servable.h` describes them.
//!
//! A library is code of this process, called on the threads that requests run on: what it does
//! wrong with memory, nothing here can make good. What it says is checked, so that a wrong
//! description is an error of the load, and a wrong output one of its request.

mod abi;
mod description;
mod instance;
mod library;
mod tensors;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use self::abi::{RawRun, RawTensor};
use self::description::{Description, Names};
use self::instance::Instance;
pub use self::instance::Version;
use self::tensors::{Given, Lent};
use crate::compute::Compute;
use crate::servable::aliases::{gather, Aliases, Call};
use crate::servable::cost::{Cost, Stopwatch};
use crate::servable::{RunOptions, Servable, Signatures};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// Runs that may wait for a servable with threads of its own.
const MAX_WAITING: usize = 1000;

/// A version that a native library runs.
pub struct Native {
    instance: Arc<Instance>,
    aliases: Aliases,
    signatures: HashMap<String, Signature>,
    never_waits: bool,
    turns: Option<Turns>,
}

struct Signature {
    /// Its position in the servable's description.
    at: usize,
    names: Names,
    cost: Cost,
}

/// Open the library at `path` and have it load a version. Blocks for as long as that takes.
///
/// # Errors
/// FAILED_PRECONDITION when it is no such library, or what it fails to load with.
///
/// # Safety
/// The library is trusted to do as `servable.h` says, and its file stays as it is.
pub unsafe fn load(path: &Path, version: &Version) -> Result<Native> {
    // SAFETY: the caller's word.
    unsafe { Native::new(Instance::open(path, version)?) }
}

impl Native {
    unsafe fn new(instance: Instance) -> Result<Self> {
        // SAFETY: the caller says that the library keeps to the header.
        let described = unsafe { Description::read(instance.describe()?) }?;
        let signatures = described.signatures.into_iter().enumerate().map(|(at, names)| {
            (names.name.clone(), Signature { at, names, cost: Cost::default() })
        });
        Ok(Self {
            signatures: signatures.collect(),
            aliases: Aliases::new(described.signature_def_map)?,
            never_waits: described.never_waits,
            turns: (described.threads > 0).then(|| Turns::new(described.threads)),
            instance: Arc::new(instance),
        })
    }

    /// Run one signature, and put its outputs where they are wanted.
    fn call(
        &self,
        call: &Call,
        results: &mut [Option<Tensor>],
        deadline: Option<Instant>,
    ) -> Result<()> {
        let signature = &self.signatures[call.signature_name];
        let names = &signature.names;
        let mut lent = Lent::default();
        for name in &names.inputs {
            let fed = call.inputs.iter().find(|(alias, _)| alias == name);
            let (_, tensor) = fed
                .ok_or_else(|| Status::invalid_argument(format!("The input {name} is missing")))?;
            lent.push(tensor);
        }
        let is_wanted = |name: &String| call.outputs.iter().any(|(_, alias)| alias == name);
        let wanted: Vec<u8> = names.outputs.iter().map(|name| is_wanted(name).into()).collect();
        let mut outputs: Vec<RawTensor> = names.outputs.iter().map(|_| RawTensor::EMPTY).collect();

        let turn = self.turns.as_ref().map(Turns::take);
        let run = RawRun {
            struct_size: size_of::<RawRun>(),
            signature: signature.at,
            inputs: lent.tensors.as_ptr(),
            num_inputs: lent.tensors.len(),
            wanted: wanted.as_ptr(),
            outputs: outputs.as_mut_ptr(),
            num_outputs: outputs.len(),
            timeout_ns: deadline.map_or(-1, nanoseconds_until),
        };
        let watch = Stopwatch::start(signature.cost.is_quick());
        // SAFETY: the arrays are as long as said, and the tensors lent are there until it returns.
        let ran = unsafe { self.instance.run(&run) };
        drop(turn);
        ran?;
        signature.cost.record(watch.took());

        // All are taken before one is looked at: whatever is wrong with one, all are released.
        // SAFETY: the run succeeded, and each is taken once.
        let take = |raw| unsafe { Given::take(raw, &self.instance) };
        let given: Vec<Given> = outputs.into_iter().map(take).collect();
        let infos = &self.aliases.signatures()[call.signature_name].outputs;
        for (name, given) in names.outputs.iter().zip(given) {
            let mut places = call.outputs.iter().filter(|(_, alias)| alias == name);
            if let Some((at, _)) = places.next() {
                let tensor = given.into_tensor(name, &infos[name])?;
                for (other, _) in places {
                    results[*other] = Some(tensor.copied());
                }
                results[*at] = Some(tensor);
            }
        }
        Ok(())
    }
}

impl Servable for Native {
    fn signatures(&self) -> &Signatures {
        self.aliases.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.aliases.signature_def_map()
    }

    fn compute(&self) -> Option<&Compute> {
        self.turns.as_ref().map(|turns| &turns.compute)
    }

    fn is_bounded(&self) -> bool {
        self.never_waits && self.turns.is_none()
    }

    fn is_quick(&self, feeds: &[(String, Tensor)], fetches: &[String]) -> bool {
        let is_known_to_be = |fetch: &String| {
            let signature = self.aliases.signature_of(fetch).and_then(|of| self.signatures.get(of));
            signature.is_some_and(|signature| signature.cost.is_quick())
        };
        self.is_bounded()
            && feeds.iter().map(|(_, tensor)| tensor.byte_size()).sum::<usize>() <= Cost::SMALL
            && fetches.iter().all(is_known_to_be)
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for call in self.aliases.calls(&feeds, fetches)? {
            self.call(&call, &mut results, options.deadline)?;
        }
        gather(results)
    }
}

fn nanoseconds_until(deadline: Instant) -> i64 {
    let left = deadline.saturating_duration_since(Instant::now()).as_nanos();
    i64::try_from(left).unwrap_or(i64::MAX)
}

/// Keeps the runs of a servable to so many at one time, whoever calls it.
///
/// Requests wait for threads of its own and not for those of all servables; batches of the
/// threads that batches have may still come in between, and wait here.
struct Turns {
    compute: Compute,
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Turns {
    fn new(count: usize) -> Self {
        let compute = Compute::bounded(count, MAX_WAITING);
        Self { compute, free: Mutex::new(count), given_back: Condvar::new() }
    }

    fn take(&self) -> Turn<'_> {
        let mut free = self.free.lock();
        self.given_back.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Turn(self)
    }
}

struct Turn<'t>(&'t Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests;
