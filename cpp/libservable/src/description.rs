//! Signatures as C sees them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr;

use servable_engine::servable::{Signatures, TensorInfo};
use servable_engine::tensor::DType;

use crate::abi::{Signature, TensorSpec};

/// The signatures of a version, and what they point at.
pub struct Description {
    signatures: Vec<Signature>,
    // What the pointers lead to; it stays where it is when this is moved.
    names: Vec<CString>,
    specs: Vec<Vec<TensorSpec>>,
    shapes: Vec<Vec<i64>>,
}

// SAFETY: nothing is changed after it is made, and the pointers lead to what is owned here.
unsafe impl Send for Description {}
// SAFETY: as above.
unsafe impl Sync for Description {}

impl Description {
    pub fn of(signatures: &Signatures) -> Self {
        let mut made = Self {
            signatures: Vec::with_capacity(signatures.len()),
            names: Vec::new(),
            specs: Vec::new(),
            shapes: Vec::new(),
        };
        for (name, signature) in signatures {
            let (inputs, num_inputs) = made.add_specs(&signature.inputs);
            let (outputs, num_outputs) = made.add_specs(&signature.outputs);
            let name = made.add_name(name);
            let method_name = made.add_name(&signature.method_name);
            made.signatures.push(Signature {
                name,
                method_name,
                inputs,
                num_inputs,
                outputs,
                num_outputs,
            });
        }
        made
    }

    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    fn add_specs(&mut self, tensors: &BTreeMap<String, TensorInfo>) -> (*const TensorSpec, usize) {
        let specs: Vec<TensorSpec> = tensors
            .iter()
            .map(|(name, info)| {
                let shape = info.shape.clone();
                let rank = shape.as_ref().map_or(-1, |shape| shape.len() as i32);
                let dims = shape.map_or(ptr::null(), |shape| {
                    let dims = shape.as_ptr();
                    self.shapes.push(shape);
                    dims
                });
                let dtype = DType::from_number_or_ref(info.dtype).map_or(0, DType::number);
                TensorSpec { name: self.add_name(name), dtype, rank, dims }
            })
            .collect();
        let (start, len) = (specs.as_ptr(), specs.len());
        self.specs.push(specs);
        (start, len)
    }

    /// A name, cut at a zero inside, which no program could tell from its end.
    fn add_name(&mut self, name: &str) -> *const std::ffi::c_char {
        let name = CString::new(name.split('\0').next().unwrap_or_default()).unwrap_or_default();
        let pointer = name.as_ptr();
        self.names.push(name);
        pointer
    }
}
