//! Tensors of the caller's that are borrowed, and results that are given away.

use std::ffi::c_void;

use servable_engine::embedded::Input;
use servable_engine::status::{Result, Status};
use servable_engine::tensor::{num_elements, Buffer, DType, Data, StringArray, Strings, Tensor};

use crate::abi::{ServableString, ServableTensor};

/// Most dimensions that the runtime knows.
const MAX_RANK: usize = 254;

/// A tensor of the caller's.
pub struct Borrowed<'c>(pub &'c ServableTensor);

impl Input for Borrowed<'_> {
    fn borrow(&self) -> Result<Tensor> {
        let tensor = self.0;
        let dtype = DType::from_number(tensor.dtype)
            .filter(|dtype| dtype.size().is_some() || *dtype == DType::String)
            .ok_or_else(|| invalid(format!("dtype {} is no type of elements", tensor.dtype)))?;
        let rank = usize::try_from(tensor.rank).ok().filter(|&rank| rank <= MAX_RANK);
        let rank = rank.ok_or_else(|| {
            invalid(format!("rank is {}, and 0 to {MAX_RANK} can be", tensor.rank))
        })?;
        let shape = if rank == 0 {
            Vec::new()
        } else if tensor.dims.is_null() {
            return Err(invalid("dims is null".to_owned()));
        } else {
            // SAFETY: an array of the caller's with that many elements.
            unsafe { std::slice::from_raw_parts(tensor.dims, rank) }.to_vec()
        };
        let elements = num_elements(&shape)
            .ok_or_else(|| invalid(format!("{shape:?} is no shape of a tensor")))?;
        let each = dtype.size().unwrap_or(size_of::<ServableString>());
        if elements.checked_mul(each) != Some(tensor.size) {
            return Err(invalid(format!(
                "size is {} bytes, and {elements} elements of type {} have {}",
                tensor.size,
                dtype.short_name(),
                elements.saturating_mul(each),
            )));
        }
        if tensor.data.is_null() && tensor.size > 0 {
            return Err(invalid("data is null".to_owned()));
        }
        if dtype == DType::String {
            let strings = BorrowedStrings { start: tensor.data.cast(), len: elements };
            strings.check()?;
            return Ok(Tensor::strings(shape, Strings::Foreign(Box::new(strings))));
        }
        // SAFETY: the caller's elements stay as they are until the call returns, and nothing of
        // the tensor is left by then: `Version::predict` sees to that.
        let buffer = unsafe { Buffer::foreign(tensor.data.cast(), tensor.size, Box::new(())) };
        Ok(Tensor::dense(dtype, shape, buffer))
    }
}

fn invalid(problem: String) -> Status {
    Status::invalid_argument(problem)
}

struct BorrowedStrings {
    start: *const ServableString,
    len: usize,
}

// SAFETY: nobody changes what was borrowed.
unsafe impl Send for BorrowedStrings {}
// SAFETY: as above.
unsafe impl Sync for BorrowedStrings {}

impl BorrowedStrings {
    fn cells(&self) -> &[ServableString] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: an array of the caller's with `len` elements.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn check(&self) -> Result<()> {
        if self.cells().iter().any(|cell| cell.data.is_null() && cell.size > 0) {
            return Err(invalid("data of a string is null".to_owned()));
        }
        Ok(())
    }
}

impl StringArray for BorrowedStrings {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> &[u8] {
        let cell = &self.cells()[index];
        if cell.size == 0 {
            return &[];
        }
        // SAFETY: the caller's bytes, which were checked.
        unsafe { std::slice::from_raw_parts(cell.data.cast(), cell.size) }
    }
}

/// A result, and what C sees of it beside its elements.
struct GivenAway {
    tensor: Tensor,
    cells: Vec<ServableString>,
}

unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the box that was given away with this function, and comes back once.
    drop(unsafe { Box::from_raw(context.cast::<GivenAway>()) });
}

/// Hand a result over to the caller, who releases it.
pub fn give_away(tensor: Tensor) -> ServableTensor {
    let mut given = Box::new(GivenAway { tensor, cells: Vec::new() });
    let (data, size) = match given.tensor.data() {
        Data::Dense(buffer) => (buffer.as_slice().as_ptr().cast(), buffer.as_slice().len()),
        Data::Strings(strings) => {
            let cell =
                |bytes: &[u8]| ServableString { data: bytes.as_ptr().cast(), size: bytes.len() };
            let cells: Vec<ServableString> = strings.iter().map(cell).collect();
            let place = (cells.as_ptr().cast(), size_of_val(cells.as_slice()));
            given.cells = cells;
            place
        }
    };
    ServableTensor {
        dtype: given.tensor.dtype().number(),
        rank: given.tensor.shape().len() as i32,
        dims: given.tensor.shape().as_ptr(),
        data,
        size,
        release: Some(release),
        context: Box::into_raw(given).cast(),
    }
}
