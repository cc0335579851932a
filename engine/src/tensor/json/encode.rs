//! Tensors become JSON text.

use super::text::{write_base64, write_string};
use crate::status::{Result, Status};
use crate::tensor::{number, Buffer, DType, Data, Strings, Tensor};

/// Spaces for each level.
pub const INDENT: usize = 4;

/// How lists are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[1, 2]`
    OneLine,
    /// Each element on a line of its own.
    Lines,
}

/// A new line with room for `level` levels.
pub fn new_line(out: &mut Vec<u8>, level: usize) {
    out.push(b'\n');
    out.resize(out.len() + INDENT * level, b' ');
}

/// Writes the elements of one tensor.
pub struct Writer<'t> {
    tensor: &'t Tensor,
    layout: Layout,
    as_bytes: bool,
}

impl<'t> Writer<'t> {
    /// Strings are written as base64 objects when `as_bytes` says so.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there are elements of a type that JSON has no values for.
    pub fn new(tensor: &'t Tensor, layout: Layout, as_bytes: bool) -> Result<Self> {
        use DType::{
            Bool, Double, Float, Int16, Int32, Int64, Int8, String, UInt32, UInt64, UInt8,
        };
        match tensor.dtype() {
            Float | Double | Int32 | UInt8 | Int16 | Int8 | String | Int64 | Bool | UInt32
            | UInt64 => {}
            _ if tensor.num_elements() == 0 => {}
            dtype => {
                return Err(Status::invalid_argument(format!(
                    "Failed to write JSON value for tensor type: {}",
                    dtype.short_name()
                )));
            }
        }
        Ok(Self { tensor, layout, as_bytes })
    }

    /// Write the whole tensor; `level` is that of what contains it.
    pub fn write(&self, out: &mut Vec<u8>, level: usize) {
        self.write_part(out, 0, 0, level);
    }

    /// Write the row at `index` of a tensor of rank one or more.
    pub fn write_row(&self, out: &mut Vec<u8>, index: usize, level: usize) {
        self.write_part(out, 1, index, level);
    }

    /// Write the `index`th of the parts that have the dimensions from `axis` on.
    fn write_part(&self, out: &mut Vec<u8>, axis: usize, index: usize, level: usize) {
        let is_flat = |buffer: &Buffer| !buffer.as_slice().is_empty();
        match self.tensor.data() {
            Data::Strings(strings) => {
                self.nest(out, axis, index, level, &|out, at, level| {
                    self.write_text(out, strings, at, level);
                });
            }
            Data::Dense(buffer) if is_flat(buffer) => {
                macro_rules! each {
                    ($t:ty, $write:expr) => {{
                        let elements = buffer.elements::<$t>();
                        self.nest(out, axis, index, level, &|out, at, _| {
                            $write(out, elements[at]);
                        });
                    }};
                }
                match self.tensor.dtype() {
                    DType::Float => each!(f32, number::write_f32),
                    DType::Double => each!(f64, number::write_f64),
                    DType::Int32 => each!(i32, write_integer),
                    DType::Int16 => each!(i16, write_integer),
                    DType::Int8 => each!(i8, write_integer),
                    DType::UInt8 => each!(u8, write_integer),
                    DType::Int64 => each!(i64, write_integer),
                    DType::UInt32 => each!(u32, write_integer),
                    DType::UInt64 => each!(u64, write_integer),
                    _ => each!(u8, write_bool),
                }
            }
            Data::Dense(_) => self.nest(out, axis, index, level, &|_, _, _| {}),
        }
    }

    fn nest(
        &self,
        out: &mut Vec<u8>,
        axis: usize,
        index: usize,
        level: usize,
        element: &impl Fn(&mut Vec<u8>, usize, usize),
    ) {
        let shape = self.tensor.shape();
        let Some(&size) = shape.get(axis) else { return element(out, index, level) };
        let size = usize::try_from(size).unwrap_or_default();
        let first = index * size;
        out.push(b'[');
        for at in first..first + size {
            match self.layout {
                Layout::OneLine if at > first => out.extend_from_slice(b", "),
                Layout::OneLine => {}
                Layout::Lines => {
                    if at > first {
                        out.push(b',');
                    }
                    new_line(out, level + 1);
                }
            }
            if axis + 1 == shape.len() {
                element(out, at, level + 1);
            } else {
                self.nest(out, axis + 1, at, level + 1, element);
            }
        }
        if size > 0 && self.layout == Layout::Lines {
            new_line(out, level);
        }
        out.push(b']');
    }

    fn write_text(&self, out: &mut Vec<u8>, strings: &Strings, at: usize, level: usize) {
        if !self.as_bytes {
            return write_string(out, strings.get(at));
        }
        out.push(b'{');
        new_line(out, level + 1);
        out.extend_from_slice(b"\"b64\": \"");
        write_base64(out, strings.get(at));
        out.push(b'"');
        new_line(out, level);
        out.push(b'}');
    }
}

fn write_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn write_bool(out: &mut Vec<u8>, value: u8) {
    out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
}
