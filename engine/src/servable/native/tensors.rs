//! Tensors to a native servable and back, without copying elements.

use std::sync::Arc;

use super::abi::{RawTensor, Text};
use super::instance::Instance;
use crate::servable::aliases::{declared_shape, fits};
use crate::servable::TensorInfo;
use crate::status::{Result, Status};
use crate::tensor::dtype::dtype_name;
use crate::tensor::{num_elements, shape_text, Buffer, DType, Data, StringArray, Strings, Tensor};

const MAX_RANK: i32 = 254;
/// No type of elements wants more.
const MAX_ALIGNMENT: usize = 8;

/// Inputs as the servable borrows them.
#[derive(Default)]
pub struct Lent {
    pub tensors: Vec<RawTensor>,
    /// What the tensors of strings point to.
    texts: Vec<Vec<Text>>,
}

impl Lent {
    /// Lend a tensor, which has to outlive the pointers.
    pub fn push(&mut self, tensor: &Tensor) {
        let (data, size) = match tensor.data() {
            Data::Dense(buffer) => {
                let bytes = buffer.as_slice();
                (bytes.as_ptr().cast(), bytes.len())
            }
            Data::Strings(strings) => {
                let text = |string: &[u8]| Text { data: string.as_ptr(), size: string.len() };
                // Moved into `texts`, the elements stay where they are.
                let texts: Vec<Text> = strings.iter().map(text).collect();
                let lent = (texts.as_ptr().cast(), size_of_val(texts.as_slice()));
                self.texts.push(texts);
                lent
            }
        };
        self.tensors.push(RawTensor {
            dtype: tensor.dtype().number(),
            rank: i32::try_from(tensor.shape().len()).expect("ranks are small"),
            dims: tensor.shape().as_ptr(),
            data,
            size,
            ..RawTensor::EMPTY
        });
    }
}

/// An output that a servable has given away; released when dropped.
pub struct Given {
    raw: RawTensor,
    /// The memory may be the servable's, and the function that frees it is.
    _instance: Arc<Instance>,
}

// SAFETY: the header says that nobody changes what was given away, and that any thread may release
// it.
unsafe impl Send for Given {}
// SAFETY: as above.
unsafe impl Sync for Given {}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(release) = self.raw.release {
            // SAFETY: given to us by a run that succeeded, and released once.
            unsafe { release(self.raw.context) }
        }
    }
}

impl Given {
    /// Take over what a run has filled in.
    ///
    /// # Safety
    /// `raw` was given away by a successful run of `instance`, and nobody else takes it.
    pub unsafe fn take(raw: RawTensor, instance: &Arc<Instance>) -> Self {
        Self { raw, _instance: instance.clone() }
    }

    /// The output as a tensor, on the servable's own memory.
    ///
    /// # Errors
    /// INTERNAL when it is not what the signature describes.
    pub fn into_tensor(self, alias: &str, info: &TensorInfo) -> Result<Tensor> {
        let wrong = |what: String| {
            Status::internal(format!("The servable returned an output {alias} {what}"))
        };
        let raw = &self.raw;
        let dtype = match DType::from_number(raw.dtype) {
            Some(dtype) if raw.dtype == info.dtype => dtype,
            _ if raw.dtype == 0 => {
                return Err(Status::internal(format!("The servable left out its output {alias}")))
            }
            _ => {
                return Err(wrong(format!(
                    "of type {}; it describes {}",
                    dtype_name(raw.dtype),
                    dtype_name(info.dtype)
                )))
            }
        };
        if !(0..=MAX_RANK).contains(&raw.rank) || (raw.rank > 0 && raw.dims.is_null()) {
            return Err(wrong(format!("of rank {} without sizes", raw.rank)));
        }
        let shape = if raw.rank == 0 {
            Vec::new()
        } else {
            // SAFETY: not null, and the header says that there are as many sizes.
            unsafe { std::slice::from_raw_parts(raw.dims, raw.rank as usize) }.to_vec()
        };
        let elements = num_elements(&shape).filter(|_| fits(info, &shape)).ok_or_else(|| {
            let (shape, declared) = (shape_text(&shape), declared_shape(info));
            wrong(format!("of shape {shape}; it describes {declared}"))
        })?;
        let size = elements.checked_mul(dtype.size().unwrap_or(size_of::<Text>()));
        if size != Some(raw.size) || (raw.size > 0 && raw.data.is_null()) {
            let shape = shape_text(&shape);
            let bytes = if raw.data.is_null() { 0 } else { raw.size };
            return Err(wrong(format!("of {bytes} bytes, for shape {shape}")));
        }
        if dtype == DType::String {
            let texts = GivenTexts { given: self, len: elements };
            if let Some(at) = texts.first_null() {
                return Err(wrong(format!("with nothing at string {at}")));
            }
            return Ok(Tensor::strings(shape, Strings::Foreign(Box::new(texts))));
        }
        Ok(Tensor::dense(dtype, shape, self.into_buffer(dtype)))
    }

    /// The elements in place; copied where they stand as no elements of that type may.
    fn into_buffer(self, dtype: DType) -> Buffer {
        let (start, size) = (self.raw.data.cast::<u8>(), self.raw.size);
        if size == 0 {
            return Buffer::zeroed(0);
        }
        let alignment = dtype.size().map_or(1, |size| size.min(MAX_ALIGNMENT));
        if start.addr() % alignment != 0 {
            // SAFETY: not null, and the header says that there are as many bytes.
            return Buffer::copy_of(unsafe { std::slice::from_raw_parts(start, size) });
        }
        // SAFETY: as above, and they stay until the output is released.
        unsafe { Buffer::foreign(start, size, Box::new(self)) }
    }
}

/// Strings where a servable has put them.
struct GivenTexts {
    given: Given,
    len: usize,
}

impl GivenTexts {
    fn texts(&self) -> &[Text] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: it was checked that there are as many, and they stay as long as `given`.
        unsafe { std::slice::from_raw_parts(self.given.raw.data.cast(), self.len) }
    }

    fn first_null(&self) -> Option<usize> {
        self.texts().iter().position(|text| text.data.is_null() && text.size > 0)
    }
}

impl StringArray for GivenTexts {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> &[u8] {
        let text = &self.texts()[index];
        if text.size == 0 {
            return &[];
        }
        // SAFETY: not null, as was checked, and the bytes stay as long as `given`.
        unsafe { std::slice::from_raw_parts(text.data, text.size) }
    }
}
