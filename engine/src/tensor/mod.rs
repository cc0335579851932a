//! Tensors on the request path.
//!
//! A [`Tensor`] is a type, a shape and its elements: either one dense buffer, aligned as the
//! runtime wants it, so that it can be handed over without a copy, or strings. It knows neither
//! protocol nor runtime; `proto` and `json` turn it into bytes and back, `servable` runs on it.

pub mod dtype;
pub mod json;
pub mod npy;
pub mod number;
pub mod proto;

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use bytes::Bytes;

use crate::status::{Result, Status};

pub use dtype::DType;

/// Bytes to which dense buffers are aligned: what `Eigen` wants at most, so that the runtime
/// takes a buffer over instead of copying it.
pub const ALIGNMENT: usize = 64;

/// Below this many bytes a copy is cheaper than keeping two allocations.
const PAGE: usize = 4096;

/// Something with that alignment.
#[repr(align(64))]
struct Aligned;

/// The sizes of the dimensions, outermost first; empty for a scalar.
pub type Shape = Vec<i64>;

/// The number of elements of a shape, or `None` when a size is negative or the product of the
/// first of them overflows: a later zero does not make it good, as TensorFlow, which multiplies in
/// this order too, ends the process over such a shape.
pub fn num_elements(shape: &[i64]) -> Option<usize> {
    let product = shape.iter().try_fold(1_i64, |product, &size| {
        if size < 0 {
            return None;
        }
        product.checked_mul(size)
    });
    product.and_then(|product| usize::try_from(product).ok())
}

/// A shape as it stands in texts: `[2,3]`, `[]` for a scalar.
pub fn shape_text(shape: &[i64]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", sizes.join(","))
}

/// Memory that somebody else owns, kept alive by the value itself.
pub trait Owner: Send + Sync {}
impl<T: Send + Sync> Owner for T {}

/// Dense elements, aligned to [`ALIGNMENT`] when made here.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    /// `None`: allocated here. Otherwise what keeps the memory alive.
    owner: Option<Box<dyn Owner>>,
}

// SAFETY: the buffer owns its memory or holds the `Send + Sync` owner of it, and hands out
// mutable access only through `&mut self`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self::zeroed_or_none(len).unwrap_or_else(|| handle_alloc_error(Self::layout(len)))
    }

    /// `len` zero bytes, as many as a peer asks for.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there is no memory for them.
    pub fn try_zeroed(len: usize) -> Result<Self> {
        Self::zeroed_or_none(len).ok_or_else(|| Status::no_memory(len))
    }

    fn zeroed_or_none(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self { start: Self::dangling(), len: 0, owner: None });
        }
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(Self::layout(len)) };
        Some(Self { start: NonNull::new(start)?, len, owner: None })
    }

    /// A copy of `bytes`, where there is memory for it.
    ///
    /// # Errors
    /// As [`Buffer::try_zeroed`].
    pub fn try_copy_of(bytes: &[u8]) -> Result<Self> {
        let mut buffer = Self::try_zeroed(bytes.len())?;
        buffer.as_mut_slice().copy_from_slice(bytes);
        Ok(buffer)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        buffer
    }

    /// The elements of `values`: in place when they happen to be aligned, as large ones mostly are,
    /// and a copy otherwise.
    pub fn adopt<T: Plain + Send + Sync + 'static>(values: Vec<T>) -> Self {
        let (start, len) = (values.as_ptr().cast::<u8>(), size_of_val(values.as_slice()));
        if len >= PAGE && start.addr() % ALIGNMENT == 0 {
            // SAFETY: a vector's elements stay where they are, and nobody else has this one.
            return unsafe { Self::foreign(start, len, Box::new(values)) };
        }
        let mut buffer = Self::zeroed(len);
        buffer.elements_mut().copy_from_slice(&values);
        buffer
    }

    /// Memory of somebody else's.
    ///
    /// # Safety
    /// `len` bytes from `start` stay readable and unchanged for as long as `owner` lives.
    pub unsafe fn foreign(start: *const u8, len: usize, owner: Box<dyn Owner>) -> Self {
        let start = NonNull::new(start.cast_mut()).unwrap_or_else(Self::dangling);
        Self { start, len, owner: Some(owner) }
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes to write to.
    ///
    /// # Panics
    /// When the memory is somebody else's.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        assert!(self.owner.is_none(), "foreign memory is not written to");
        // SAFETY: allocated here, valid for `len` bytes, and borrowed mutably through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The elements as a slice of `T`.
    ///
    /// # Panics
    /// When the memory is not aligned for `T` or not a whole number of elements.
    pub fn elements<T: Plain>(&self) -> &[T] {
        // SAFETY: `Plain` types are valid for every bit pattern.
        let (before, elements, after) = unsafe { self.as_slice().align_to::<T>() };
        assert!(before.is_empty() && after.is_empty(), "misaligned elements");
        elements
    }

    /// The elements as a slice of `T` to write to; panics as [`Buffer::elements`] does.
    pub fn elements_mut<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: `Plain` types are valid for every bit pattern.
        let (before, elements, after) = unsafe { self.as_mut_slice().align_to_mut::<T>() };
        assert!(before.is_empty() && after.is_empty(), "misaligned elements");
        elements
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, ALIGNMENT).expect("a buffer is smaller than the address space")
    }

    /// Aligned as any buffer, and nothing to read.
    fn dangling() -> NonNull<u8> {
        NonNull::<Aligned>::dangling().cast()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.owner.is_none() && self.len > 0 {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
        }
    }
}

/// Numbers that are valid for every bit pattern, so that bytes can be read as them.
///
/// # Safety
/// Every bit pattern of the type's size is a value of it, and it has no padding.
pub unsafe trait Plain: Copy {}
macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: a primitive number.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// What a string takes beside its characters: its place among the others, and the runtime's own.
const STRING_BYTES: usize = size_of::<Range<u32>>() + 24;

/// Strings somebody else holds, such as the runtime.
pub trait StringArray: Send + Sync {
    fn len(&self) -> usize;
    fn get(&self, index: usize) -> &[u8];

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// String elements: pieces of one block of bytes, or somebody else's.
pub enum Strings {
    Pieces { bytes: Bytes, ranges: Vec<Range<u32>> },
    Foreign(Box<dyn StringArray>),
}

impl Strings {
    pub fn len(&self) -> usize {
        match self {
            Strings::Pieces { ranges, .. } => ranges.len(),
            Strings::Foreign(array) => array.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`; panics past the end.
    pub fn get(&self, index: usize) -> &[u8] {
        match self {
            Strings::Pieces { bytes, ranges } => {
                let range = &ranges[index];
                &bytes[range.start as usize..range.end as usize]
            }
            Strings::Foreign(array) => array.get(index),
        }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Copies of these strings.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there is no memory for them, or they are more than a block holds.
    pub fn try_copies<'s>(elements: impl Iterator<Item = &'s [u8]> + Clone) -> Result<Self> {
        let (count, len) = elements
            .clone()
            .fold((0_usize, 0_usize), |(count, len), one| (count + 1, len + one.len()));
        let mut made = StringsBuilder::default();
        let has_room = u32::try_from(len).is_ok()
            && made.bytes.try_reserve_exact(len).is_ok()
            && made.ranges.try_reserve_exact(count).is_ok();
        if !has_room {
            return Err(Status::no_memory(len + count * size_of::<Range<u32>>()));
        }
        elements.for_each(|element| made.push(element));
        Ok(made.build())
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Strings {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut builder = StringsBuilder::default();
        for element in elements {
            builder.push(element.as_ref());
        }
        builder.build()
    }
}

/// Collects strings one after another into one block.
#[derive(Default)]
pub struct StringsBuilder {
    bytes: Vec<u8>,
    ranges: Vec<Range<u32>>,
}

impl StringsBuilder {
    pub fn push(&mut self, element: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(element);
        self.end_from(start);
    }

    /// Where the next string is written to; call [`StringsBuilder::end_from`] with the length
    /// from before writing.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Make what was written since the block had `start` bytes one string.
    pub fn end_from(&mut self, start: usize) {
        let position = |at: usize| u32::try_from(at).expect("messages are below 4 GiB");
        self.ranges.push(position(start)..position(self.bytes.len()));
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn build(self) -> Strings {
        Strings::Pieces { bytes: self.bytes.into(), ranges: self.ranges }
    }
}

/// The elements of a tensor.
pub enum Data {
    Dense(Buffer),
    Strings(Strings),
}

/// A type, a shape, and as many elements as the shape says.
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Data,
}

impl Tensor {
    /// A tensor of a type with plain elements.
    ///
    /// # Panics
    /// When the buffer does not hold exactly the elements of the shape: that is ours to check
    /// before.
    pub fn dense(dtype: DType, shape: Shape, buffer: Buffer) -> Self {
        let size = dtype.size().expect("a type with plain elements");
        let elements = num_elements(&shape).expect("a shape that was checked");
        assert_eq!(buffer.len, elements * size, "{dtype:?} {shape:?}");
        Self { dtype, shape, data: Data::Dense(buffer) }
    }

    /// A tensor of strings; panics when their number is not the shape's.
    pub fn strings(shape: Shape, strings: Strings) -> Self {
        assert_eq!(num_elements(&shape), Some(strings.len()), "{shape:?}");
        Self { dtype: DType::String, shape, data: Data::Strings(strings) }
    }

    /// The same, in memory of its own.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there is none for it.
    pub fn try_copied(&self) -> Result<Self> {
        let data = match &self.data {
            Data::Dense(buffer) => Data::Dense(Buffer::try_copy_of(buffer.as_slice())?),
            Data::Strings(strings) => Data::Strings(Strings::try_copies(strings.iter())?),
        };
        Ok(Self { dtype: self.dtype, shape: self.shape.clone(), data })
    }

    /// The same, in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        let data = match &self.data {
            Data::Dense(buffer) => Data::Dense(Buffer::copy_of(buffer.as_slice())),
            Data::Strings(strings) => {
                let mut copies = StringsBuilder::default();
                strings.iter().for_each(|element| copies.push(element));
                Data::Strings(copies.build())
            }
        };
        Self { dtype: self.dtype, shape: self.shape.clone(), data }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// About how many bytes its elements take, here and in the runtime.
    pub fn memory_bytes(&self) -> usize {
        match &self.data {
            Data::Dense(buffer) => buffer.len,
            Data::Strings(Strings::Pieces { bytes, ranges }) => {
                bytes.len().saturating_add(ranges.len().saturating_mul(STRING_BYTES))
            }
            Data::Strings(Strings::Foreign(strings)) => strings.len().saturating_mul(STRING_BYTES),
        }
    }

    pub fn data(&self) -> &Data {
        &self.data
    }

    pub fn into_data(self) -> Data {
        self.data
    }

    /// The dense elements, `None` for strings.
    pub fn buffer(&self) -> Option<&Buffer> {
        match &self.data {
            Data::Dense(buffer) => Some(buffer),
            Data::Strings(_) => None,
        }
    }

    /// The strings, `None` for dense elements.
    pub fn as_strings(&self) -> Option<&Strings> {
        match &self.data {
            Data::Dense(_) => None,
            Data::Strings(strings) => Some(strings),
        }
    }

    pub fn num_elements(&self) -> usize {
        num_elements(&self.shape).expect("checked when it was made")
    }

    /// Bytes of the elements, to weigh a request by.
    pub fn byte_size(&self) -> usize {
        match &self.data {
            Data::Dense(buffer) => buffer.len,
            Data::Strings(Strings::Pieces { bytes, ranges }) => {
                bytes.len().min(ranges.iter().map(|r| (r.end - r.start) as usize).sum())
            }
            Data::Strings(strings) => strings.iter().map(<[u8]>::len).sum(),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Tensor {}{}>", self.dtype.short_name(), shape_text(&self.shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_counts_its_elements_unless_it_overflows_or_is_negative() {
        for (shape, expected) in [
            (vec![], Some(1)),
            (vec![2, 3], Some(6)),
            (vec![0, 1 << 62], Some(0)),
            (vec![0, 1 << 62, 1 << 62], Some(0)),
            (vec![1 << 62, 1 << 62, 0], None),
            (vec![1 << 32, 1 << 32], None),
            (vec![i64::MAX], Some(i64::MAX as usize)),
            (vec![i64::MAX, 2], None),
            (vec![-1], None),
            (vec![-2, -3], None),
            (vec![0, -1], None),
        ] {
            assert_eq!(num_elements(&shape), expected, "{shape:?}");
        }
    }

    #[test]
    fn buffers_are_aligned_and_zeroed() {
        let buffer = Buffer::zeroed(100);

        assert_eq!(buffer.as_slice().as_ptr() as usize % ALIGNMENT, 0);
        assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
        assert_eq!(Buffer::zeroed(0).elements::<f64>().len(), 0);
    }

    #[test]
    fn adopted_elements_are_the_same_and_aligned_whatever_their_number() {
        for count in [0, 1, 1000, 100_000] {
            let values: Vec<i32> = (0..count).collect();
            let buffer = Buffer::adopt(values.clone());
            assert_eq!(buffer.elements::<i32>(), values);
            assert_eq!(buffer.as_slice().as_ptr().addr() % ALIGNMENT, 0);
        }
    }

    #[test]
    fn strings_come_back_as_they_were_put_in() {
        let strings: Strings = ["a", "", "bc"].into_iter().collect();

        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"bc"]);
    }
}
