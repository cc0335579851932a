//! Tensors to the C API and back, without copying dense elements.

use std::ffi::c_void;

use super::api::{Library, TfTensor};
use crate::status::{Result, Status};
use crate::tensor::{Buffer, DType, Data, StringArray, Strings, Tensor};

/// Bytes of a `TF_TString`.
const STRING_SIZE: usize = 24;
/// Longest string that stands inside its `TF_TString`.
const SMALL_CAPACITY: usize = 22;
/// The two low bits of a `TF_TString`'s first byte: 0 for one that stands inside.
const KIND_MASK: u8 = 3;

/// A tensor of the C API that is deleted when dropped.
pub struct Owned {
    library: &'static Library,
    tensor: *mut TfTensor,
}

// SAFETY: a tensor of the C API is a counted buffer that is not written to after it is made.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by the library and deleted once.
        unsafe { (self.library.delete_tensor)(self.tensor) }
    }
}

/// What the library gets with a buffer of ours, and gives back when the last reference is gone.
enum Lent {
    Dense { _buffer: Buffer },
    Strings { library: &'static Library, cells: Buffer },
}

unsafe extern "C" fn give_back(_data: *mut c_void, _len: usize, lent: *mut c_void) {
    // SAFETY: `lent` is the box that was handed over together with this function, once.
    let lent = unsafe { Box::from_raw(lent.cast::<Lent>()) };
    if let Lent::Strings { library, cells } = &*lent {
        for cell in cells.as_slice().chunks_exact(STRING_SIZE) {
            if cell[0] & KIND_MASK != 0 {
                // SAFETY: initialised by the library, and nobody refers to it any more.
                unsafe { (library.string_dealloc)(cell.as_ptr().cast_mut().cast()) }
            }
        }
    }
}

impl Owned {
    /// Take over a tensor that the library made.
    ///
    /// # Safety
    /// Nobody else deletes `tensor`.
    pub unsafe fn take(library: &'static Library, tensor: *mut TfTensor) -> Self {
        Self { library, tensor }
    }

    pub fn as_ptr(&self) -> *mut TfTensor {
        self.tensor
    }

    /// Hand a tensor over to the library.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the library does not take it.
    pub fn lend(library: &'static Library, tensor: Tensor) -> Result<Self> {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let (start, len, lent) = match tensor.into_data() {
            Data::Dense(buffer) => {
                let bytes = buffer.as_slice();
                (bytes.as_ptr(), bytes.len(), Lent::Dense { _buffer: buffer })
            }
            Data::Strings(strings) => {
                let cells = cells_of(library, &strings)?;
                let bytes = cells.as_slice();
                (bytes.as_ptr(), bytes.len(), Lent::Strings { library, cells })
            }
        };
        let lent = Box::into_raw(Box::new(lent));
        let dims = i32::try_from(shape.len()).expect("ranks are small");
        // SAFETY: `start` is valid for `len` bytes until `give_back` gets `lent`; the buffer moved
        // into the box, and its memory did not.
        let made = unsafe {
            (library.new_tensor)(
                dtype.number(),
                shape.as_ptr(),
                dims,
                start.cast_mut().cast(),
                len,
                give_back,
                lent.cast(),
            )
        };
        if made.is_null() {
            // SAFETY: the library took nothing.
            drop(unsafe { Box::from_raw(lent) });
            return Err(Status::invalid_argument("The tensor does not fit its shape"));
        }
        Ok(Self { library, tensor: made })
    }

    /// The tensor as one of ours, on the library's own memory.
    ///
    /// # Errors
    /// UNIMPLEMENTED for types that have no elements of their own, such as resources.
    pub fn into_tensor(self) -> Result<Tensor> {
        let library = self.library;
        // SAFETY: the tensor lives for as long as `self`, which becomes the owner below.
        let (number, shape, start, len) = unsafe {
            let dims = (library.num_dims)(self.tensor);
            let shape: Vec<i64> = (0..dims).map(|at| (library.dim)(self.tensor, at)).collect();
            (
                (library.tensor_type)(self.tensor),
                shape,
                (library.tensor_data)(self.tensor).cast::<u8>().cast_const(),
                (library.tensor_byte_size)(self.tensor),
            )
        };
        match DType::from_number_or_ref(number) {
            Some(DType::String) => {
                let len = crate::tensor::num_elements(&shape).unwrap_or(0);
                let strings = RuntimeStrings { tensor: self, start, len };
                Ok(Tensor::strings(shape, Strings::Foreign(Box::new(strings))))
            }
            Some(dtype) if dtype.size().is_some() => {
                // SAFETY: the elements live for as long as the tensor that owns them.
                let buffer = unsafe { Buffer::foreign(start, len, Box::new(self)) };
                Ok(Tensor::dense(dtype, shape, buffer))
            }
            _ => Err(Status::unimplemented(format!(
                "An output of type {} cannot be returned",
                crate::tensor::dtype::dtype_name(number)
            ))),
        }
    }
}

/// One `TF_TString` for each string, side by side.
fn cells_of(library: &'static Library, strings: &Strings) -> Result<Buffer> {
    // All zero bytes are an empty string that stands inside its cell.
    let mut cells = Buffer::try_zeroed(strings.len() * STRING_SIZE)?;
    for (cell, string) in cells.as_mut_slice().chunks_exact_mut(STRING_SIZE).zip(strings.iter()) {
        if string.len() <= SMALL_CAPACITY {
            cell[0] = u8::try_from(string.len() << 2).expect("at most 22 characters");
            cell[1..=string.len()].copy_from_slice(string);
        } else {
            let cell = cell.as_mut_ptr().cast();
            // SAFETY: the cell is 24 bytes, aligned to 8, and the library copies the characters.
            unsafe {
                (library.string_init)(cell);
                (library.string_copy)(cell, string.as_ptr().cast(), string.len());
            }
        }
    }
    Ok(cells)
}

struct RuntimeStrings {
    tensor: Owned,
    start: *const u8,
    len: usize,
}

// SAFETY: the cells belong to `tensor`, which is not written to.
unsafe impl Send for RuntimeStrings {}
// SAFETY: as above.
unsafe impl Sync for RuntimeStrings {}

impl StringArray for RuntimeStrings {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> &[u8] {
        assert!(index < self.len);
        // SAFETY: one of the `len` cells of a tensor that lives as long as `self`.
        unsafe {
            let cell = self.start.add(index * STRING_SIZE);
            if *cell & KIND_MASK == 0 {
                return std::slice::from_raw_parts(cell.add(1), usize::from(*cell >> 2));
            }
            let library = self.tensor.library;
            let start = (library.string_data)(cell.cast());
            std::slice::from_raw_parts(start.cast(), (library.string_size)(cell.cast()))
        }
    }
}
