//! Tensors become serialized `TensorProto`s.

use crate::tensor::{Buffer, DType, Data, Tensor};
use crate::wire;

/// How dense elements are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// In the field of their type: what `AsProtoField` does.
    #[default]
    Typed,
    /// In `tensor_content`.
    Content,
}

/// The serialized `TensorProto` of a tensor, split so that its length is known before it is
/// written.
pub struct Encoder<'t> {
    tensor: &'t Tensor,
    encoding: Encoding,
    shape_len: usize,
    values_len: usize,
    len: usize,
}

impl<'t> Encoder<'t> {
    pub fn new(tensor: &'t Tensor, encoding: Encoding) -> Self {
        let shape_len = tensor.shape().iter().map(|&size| {
            let dim = dim_len(size);
            1 + wire::varint_len(dim as u64) + dim
        });
        let shape_len = shape_len.sum();
        let values_len = values_len(tensor, encoding);
        let header = 1 + wire::varint_len(tensor.dtype().number() as u64);
        let shape = 1 + wire::varint_len(shape_len as u64) + shape_len;
        let values = match tensor.data() {
            Data::Strings(_) if encoding == Encoding::Typed => values_len,
            _ if values_len == 0 => 0,
            _ => {
                let number = field_of(tensor.dtype(), encoding);
                wire::tag_len(number) + wire::varint_len(values_len as u64) + values_len
            }
        };
        Self { tensor, encoding, shape_len, values_len, len: header + shape + values }
    }

    /// Bytes that [`Encoder::write`] writes.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        let before = out.len();
        wire::put_tag(out, 1, wire::VARINT);
        wire::put_varint(out, self.tensor.dtype().number() as u64);
        wire::put_tag(out, 2, wire::BYTES);
        wire::put_varint(out, self.shape_len as u64);
        for &size in self.tensor.shape() {
            wire::put_tag(out, 2, wire::BYTES);
            wire::put_varint(out, dim_len(size) as u64);
            if size != 0 {
                wire::put_tag(out, 1, wire::VARINT);
                wire::put_varint(out, size as u64);
            }
        }
        self.write_values(out);
        debug_assert_eq!(out.len() - before, self.len);
    }

    fn write_values(&self, out: &mut Vec<u8>) {
        let strings = match self.tensor.data() {
            Data::Strings(strings) if self.encoding == Encoding::Typed => {
                for element in strings.iter() {
                    wire::put_bytes(out, 8, element);
                }
                return;
            }
            Data::Strings(strings) => Some(strings),
            Data::Dense(_) => None,
        };
        if self.values_len == 0 {
            return;
        }
        let dtype = self.tensor.dtype();
        wire::put_tag(out, field_of(dtype, self.encoding), wire::BYTES);
        wire::put_varint(out, self.values_len as u64);
        if let Some(strings) = strings {
            for element in strings.iter() {
                wire::put_varint(out, element.len() as u64);
            }
            for element in strings.iter() {
                out.extend_from_slice(element);
            }
            return;
        }
        let buffer = self.tensor.buffer().expect("not strings");
        if self.encoding == Encoding::Content || is_raw(dtype) {
            out.extend_from_slice(buffer.as_slice());
        } else {
            each_varint(dtype, buffer, |value| wire::put_varint(out, value));
        }
    }
}

fn dim_len(size: i64) -> usize {
    if size == 0 {
        0
    } else {
        1 + wire::varint_len(size as u64)
    }
}

/// The field that a type's values stand in.
fn field_of(dtype: DType, encoding: Encoding) -> u32 {
    use DType as D;
    if encoding == Encoding::Content {
        return 4;
    }
    match dtype {
        D::Float => 5,
        D::Double => 6,
        D::Complex64 => 9,
        D::Complex128 => 12,
        D::Half | D::BFloat16 => 13,
        D::Int64 => 10,
        D::UInt32 => 16,
        D::UInt64 => 17,
        D::Bool => 11,
        D::Float8E5M2
        | D::Float8E4M3FN
        | D::Float8E4M3FNUZ
        | D::Float8E4M3B11FNUZ
        | D::Float8E5M2FNUZ
        | D::Float4E2M1FN => 18,
        _ => 7,
    }
}

/// Whether the typed field holds the very bytes of memory.
fn is_raw(dtype: DType) -> bool {
    matches!(field_of(dtype, Encoding::Typed), 5 | 6 | 9 | 12 | 18)
}

fn values_len(tensor: &Tensor, encoding: Encoding) -> usize {
    match tensor.data() {
        Data::Strings(strings) => {
            let prefix = usize::from(encoding == Encoding::Typed);
            strings.iter().map(|s| prefix + wire::varint_len(s.len() as u64) + s.len()).sum()
        }
        Data::Dense(buffer) => {
            if encoding == Encoding::Content || is_raw(tensor.dtype()) {
                return buffer.as_slice().len();
            }
            let mut len = 0;
            each_varint(tensor.dtype(), buffer, |value| len += wire::varint_len(value));
            len
        }
    }
}

/// Every element as the varint it becomes on the wire.
#[allow(clippy::cast_sign_loss)]
fn each_varint(dtype: DType, buffer: &Buffer, mut put: impl FnMut(u64)) {
    use DType as D;
    macro_rules! each {
        ($t:ty, $via:ty) => {
            buffer.elements::<$t>().iter().for_each(|&value| put(<$via>::from(value) as u64))
        };
    }
    match dtype {
        D::Int32 | D::QInt32 => each!(i32, i64),
        D::Int16 | D::QInt16 => each!(i16, i64),
        D::UInt16 | D::QUInt16 | D::Half | D::BFloat16 => each!(u16, u64),
        D::Int8 | D::QInt8 | D::Int4 | D::Int2 => each!(i8, i64),
        D::Int64 => each!(i64, i64),
        D::UInt32 => each!(u32, u64),
        D::UInt64 => each!(u64, u64),
        _ => each!(u8, u64),
    }
}

/// The serialized `TensorProto` of a tensor.
pub fn encode(tensor: &Tensor, encoding: Encoding) -> Vec<u8> {
    let encoder = Encoder::new(tensor, encoding);
    let mut out = Vec::with_capacity(encoder.len());
    encoder.write(&mut out);
    out
}
