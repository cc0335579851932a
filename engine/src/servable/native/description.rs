//! What a native servable says of itself, checked and copied.

use std::collections::BTreeMap;
use std::ffi::{c_char, CStr};

use bytes::Bytes;
use prost::Message;

use super::abi::{self, RawDescription, RawSignature, RawTensorSpec};
use crate::protos::tensorflow as pb;
use crate::status::{Result, Status};
use crate::tensor::DType;

/// More signatures, or tensors of one, than this are taken for a number that was never set.
const MAX_ENTRIES: usize = 10_000;
/// As many dimensions as a tensor may have.
const MAX_RANK: i32 = 254;

/// What a servable offers.
pub struct Description {
    /// In the order of the servable's own.
    pub signatures: Vec<Names>,
    /// Serialized `SignatureDefMap`.
    pub signature_def_map: Bytes,
    pub threads: usize,
    pub never_waits: bool,
}

/// One signature, with the names of its tensors in the servable's order.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    pub name: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
}

impl Description {
    /// # Errors
    /// FAILED_PRECONDITION, with what is wrong.
    ///
    /// # Safety
    /// Its pointers are null, or point to what `servable.h` says.
    pub unsafe fn read(raw: &RawDescription) -> Result<Self> {
        // SAFETY: the caller's word, here as below.
        let described = unsafe { entries(raw.signatures, raw.num_signatures, "signatures") }?;
        if described.is_empty() {
            return Err(refused("it describes no signature"));
        }
        let mut signatures = Vec::with_capacity(described.len());
        let mut signature_def = BTreeMap::new();
        for one in described {
            // SAFETY: as above.
            let (names, definition) = unsafe { read_signature(one) }?;
            if signature_def.insert(names.name.clone(), definition).is_some() {
                return Err(refused(format!("it describes the signature {} twice", names.name)));
            }
            signatures.push(names);
        }
        let map = pb::serving::SignatureDefMap { signature_def };
        Ok(Self {
            signatures,
            signature_def_map: map.encode_to_vec().into(),
            threads: raw.threads as usize,
            never_waits: raw.flags & abi::NEVER_WAITS != 0,
        })
    }
}

unsafe fn read_signature(raw: &RawSignature) -> Result<(Names, pb::SignatureDef)> {
    // SAFETY: the caller's word, here as below.
    let name = unsafe { text(raw.name, "a signature") }?;
    let method_name = match raw.method {
        abi::CLASSIFY => "tensorflow/serving/classify",
        abi::REGRESS => "tensorflow/serving/regress",
        0 => "tensorflow/serving/predict",
        other => return Err(refused(format!("the method of signature {name} is {other}"))),
    };
    let read = |specs: *const RawTensorSpec, count, what| {
        let what = format!("{what} of signature {name}");
        // SAFETY: as above.
        unsafe { read_specs(specs, count, &name, &what) }
    };
    let (input_names, inputs) = read(raw.inputs, raw.num_inputs, "inputs")?;
    let (output_names, outputs) = read(raw.outputs, raw.num_outputs, "outputs")?;
    if outputs.is_empty() {
        return Err(refused(format!("signature {name} has no output")));
    }
    let definition = pb::SignatureDef {
        inputs,
        outputs,
        method_name: method_name.to_owned(),
        ..pb::SignatureDef::default()
    };
    Ok((Names { name, inputs: input_names, outputs: output_names }, definition))
}

type Infos = BTreeMap<String, pb::TensorInfo>;

unsafe fn read_specs(
    specs: *const RawTensorSpec,
    count: usize,
    signature: &str,
    what: &str,
) -> Result<(Vec<String>, Infos)> {
    let (mut names, mut infos) = (Vec::new(), Infos::new());
    // SAFETY: the caller's word, here as below.
    for spec in unsafe { entries(specs, count, what) }? {
        // SAFETY: as above.
        let name = unsafe { text(spec.name, what) }?;
        let dtype = DType::from_number(spec.dtype)
            .filter(|dtype| dtype.size().is_some() || *dtype == DType::String)
            .ok_or_else(|| refused(format!("{name} among the {what} is of type {}", spec.dtype)))?;
        // SAFETY: as above.
        let sizes = unsafe { sizes(spec) }
            .map_err(|wrong| refused(format!("{name} among the {what} has {wrong}")))?;
        let shape = pb::TensorShapeProto {
            unknown_rank: sizes.is_none(),
            dim: sizes
                .unwrap_or_default()
                .iter()
                .map(|&size| pb::tensor_shape_proto::Dim { size, name: String::new() })
                .collect(),
        };
        let info = pb::TensorInfo {
            encoding: Some(pb::tensor_info::Encoding::Name(format!("{signature}_{name}:0"))),
            dtype: dtype.number(),
            tensor_shape: Some(shape),
        };
        if infos.insert(name.clone(), info).is_some() {
            return Err(refused(format!("there are two {name} among the {what}")));
        }
        names.push(name);
    }
    Ok((names, infos))
}

/// The sizes of a spec, `None` for any rank; or what is wrong with them.
unsafe fn sizes(spec: &RawTensorSpec) -> std::result::Result<Option<&[i64]>, String> {
    if spec.rank == -1 {
        return Ok(None);
    }
    if !(0..=MAX_RANK).contains(&spec.rank) {
        return Err(format!("{} dimensions", spec.rank));
    }
    if spec.rank == 0 {
        return Ok(Some(&[]));
    }
    if spec.dims.is_null() {
        return Err("dimensions and no sizes".to_owned());
    }
    // SAFETY: the caller's word.
    let sizes = unsafe { std::slice::from_raw_parts(spec.dims, spec.rank as usize) };
    match sizes.iter().find(|size| **size < -1) {
        Some(size) => Err(format!("a dimension of {size}")),
        None => Ok(Some(sizes)),
    }
}

unsafe fn entries<'a, T>(start: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    if count > MAX_ENTRIES {
        return Err(refused(format!("it describes {count} {what}")));
    }
    match (count, start.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(refused(format!("it describes {count} {what} at a null pointer"))),
        // SAFETY: the caller's word.
        (_, false) => Ok(unsafe { std::slice::from_raw_parts(start, count) }),
    }
}

unsafe fn text(start: *const c_char, of: &str) -> Result<String> {
    if start.is_null() {
        return Err(refused(format!("{of} has no name")));
    }
    // SAFETY: the caller's word.
    let text = unsafe { CStr::from_ptr(start) };
    let text = text.to_str().map_err(|_| refused(format!("{of} has a name that is not UTF-8")))?;
    if text.is_empty() {
        return Err(refused(format!("{of} has an empty name")));
    }
    Ok(text.to_owned())
}

fn refused(wrong: impl std::fmt::Display) -> Status {
    Status::failed_precondition(format!("The servable cannot be served: {wrong}"))
}
