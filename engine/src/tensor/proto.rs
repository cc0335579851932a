//! `TensorProto` bytes to tensors and back, by the rules of the runtime's own decoder.
//!
//! The bytes of a message are walked once; dense values go straight into the buffer that the
//! runtime will read. Specification 1.14 says what is forgiven (too few values, too many, values
//! in the wrong field) and what is not.

use std::ops::Range;

use bytes::Bytes;

use super::{num_elements, Buffer, DType, Data, Plain, Shape, Strings, Tensor};
use crate::status::{Result, Status};
use crate::wire::{self, Field, Reader};

/// Largest rank the runtime knows.
const MAX_RANK: usize = 254;

/// What a tensor may grow to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of elements, strings counted by their place in memory. A message of a few bytes
    /// may ask for gigabytes, so this is checked before anything is allocated.
    pub max_bytes: usize,
}

/// Bytes a string takes in the runtime beside its characters.
const STRING_SIZE: usize = 24;

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1 << 30 }
    }
}

impl Limits {
    /// What a message of this size may expand to: four times its size, and 64 MiB at least.
    pub fn for_message(bytes: usize) -> Self {
        Self { max_bytes: bytes.saturating_mul(4).clamp(64 << 20, 4 << 30) }
    }
}

/// An error without a text of its own: the caller knows the input's name.
fn parse_error() -> Status {
    Status::invalid_argument("")
}

impl From<wire::Malformed> for Status {
    fn from(_: wire::Malformed) -> Self {
        parse_error()
    }
}

/// The fields of a `TensorProto`, found but not yet converted.
#[derive(Default)]
struct Fields {
    dtype: i32,
    shape: Shape,
    bad_shape: bool,
    content: Option<Range<usize>>,
    float8: Option<Range<usize>>,
    /// Where the typed values stand: field number, and a packed run or one value.
    runs: Vec<Run>,
    strings: Vec<Range<usize>>,
    resource_handles: usize,
}

struct Run {
    field: u32,
    bytes: Range<usize>,
    /// For a value that is not packed; otherwise the bytes are values one after another.
    single: Option<u64>,
}

/// Decode the serialized `TensorProto` in `message`.
///
/// # Errors
/// INVALID_ARGUMENT, with an empty text when the bytes or the shape make no tensor (the caller
/// names the input), else with a text of its own; RESOURCE_EXHAUSTED beyond the limits.
pub fn decode(message: &Bytes, limits: Limits) -> Result<Tensor> {
    let fields = scan(message)?;
    let dtype = DType::from_number(fields.dtype).ok_or_else(parse_error)?;
    match dtype {
        DType::Resource if !fields.bad_shape && fields.resource_handles == 0 => {
            return Err(Status::invalid_argument(
                "Invalid resource type hash code: 0(name:  type: ). Perhaps a resource tensor was \
                 being provided as a feed? That is not currently allowed. Please file an issue at \
                 https://github.com/tensorflow/tensorflow/issues/new, ideally with a short code \
                 snippet that leads to this error message.",
            ))
        }
        DType::Resource | DType::Variant => return Err(parse_error()),
        _ => {}
    }
    let elements = num_elements(&fields.shape).filter(|_| !fields.bad_shape);
    let elements = elements.ok_or_else(parse_error)?;
    let size = dtype.size().unwrap_or(STRING_SIZE);
    let bytes = elements.checked_mul(size).filter(|&bytes| i64::try_from(bytes).is_ok());
    let bytes = bytes.filter(|&bytes| bytes < MAX_ADDRESSABLE).ok_or_else(parse_error)?;
    if bytes > limits.max_bytes {
        return Err(Status::resource_exhausted(format!(
            "A tensor of shape {} takes {bytes} bytes; at most {} are accepted in one tensor of \
             this request",
            super::shape_text(&fields.shape),
            limits.max_bytes
        )));
    }
    if dtype == DType::String {
        return strings(message, &fields, elements);
    }
    let mut buffer = Buffer::zeroed(bytes);
    if elements > 0 {
        match &fields.content {
            Some(content) => content_into(dtype, &message[content.clone()], &mut buffer)?,
            None => values_into(dtype, message, &fields, &mut buffer)?,
        }
    }
    Ok(Tensor::dense(dtype, fields.shape, buffer))
}

/// What the runtime's own allocator refuses at once (it answers a parse error, too).
const MAX_ADDRESSABLE: usize = 1 << 40;

fn scan(message: &Bytes) -> std::result::Result<Fields, wire::Malformed> {
    let mut fields = Fields::default();
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Varint(value)) => fields.dtype = wire::int32(value),
            (2, Field::Bytes(range)) => shape(message, range, &mut fields)?,
            (4, Field::Bytes(range)) => fields.content = Some(range).filter(|r| !r.is_empty()),
            (8, Field::Bytes(range)) => fields.strings.push(range),
            (14, Field::Bytes(_)) => fields.resource_handles += 1,
            (18, Field::Bytes(range)) => fields.float8 = Some(range),
            (5 | 6 | 7 | 9..=13 | 16 | 17, Field::Bytes(bytes)) => {
                fields.runs.push(Run { field: number, bytes, single: None });
            }
            (7 | 10 | 11 | 13 | 16 | 17, Field::Varint(value)) => {
                fields.runs.push(Run { field: number, bytes: 0..0, single: Some(value) });
            }
            (5 | 9, Field::Fixed32(value)) => {
                fields.runs.push(Run { field: number, bytes: 0..0, single: Some(value.into()) });
            }
            (6 | 12, Field::Fixed64(value)) => {
                fields.runs.push(Run { field: number, bytes: 0..0, single: Some(value) });
            }
            _ => {}
        }
    }
    // A packed run must be whole values, whatever the type turns out to be.
    for run in &fields.runs {
        let whole = match run.field {
            5 | 9 => run.bytes.len() % 4 == 0,
            6 | 12 => run.bytes.len() % 8 == 0,
            _ => wire::varints_are_whole(&message[run.bytes.clone()]),
        };
        if !whole {
            return Err(wire::Malformed);
        }
    }
    Ok(fields)
}

fn shape(
    message: &Bytes,
    range: Range<usize>,
    fields: &mut Fields,
) -> std::result::Result<(), wire::Malformed> {
    let mut reader = Reader::within(message, range);
    while let Some((number, field)) = reader.next()? {
        // `unknown_rank` (field 3) changes nothing: the dimensions count.
        if let (2, Field::Bytes(range)) = (number, field) {
            let mut size = 0;
            let mut dim = Reader::within(message, range);
            while let Some((number, field)) = dim.next()? {
                match (number, field) {
                    (1, Field::Varint(value)) => size = wire::int64(value),
                    (2, Field::Bytes(name)) => wire::utf8(&message[name])?,
                    _ => {}
                }
            }
            fields.bad_shape |= size < 0 || fields.shape.len() >= MAX_RANK;
            if fields.shape.len() < MAX_RANK {
                fields.shape.push(size);
            }
        }
    }
    Ok(())
}

fn content_into(dtype: DType, content: &[u8], buffer: &mut Buffer) -> Result<()> {
    let target = buffer.as_mut_slice();
    if content.len() != target.len() {
        return Err(parse_error());
    }
    if dtype == DType::Bool && content.iter().any(|&byte| byte > 1) {
        return Err(parse_error());
    }
    target.copy_from_slice(content);
    Ok(())
}

fn strings(message: &Bytes, fields: &Fields, elements: usize) -> Result<Tensor> {
    let ranges = match &fields.content {
        Some(content) if elements > 0 => string_content(message, content.clone(), elements)?,
        _ => {
            let mut ranges: Vec<Range<u32>> =
                fields.strings.iter().take(elements).map(narrow).collect();
            // Too few: the last one is repeated; none at all: empty strings.
            let last = ranges.last().cloned().unwrap_or(0..0);
            ranges.resize(elements, last);
            ranges
        }
    };
    let strings = Strings::Pieces { bytes: message.clone(), ranges };
    Ok(Tensor::strings(fields.shape.clone(), strings))
}

/// Lengths as varints, then all the characters.
fn string_content(
    message: &Bytes,
    content: Range<usize>,
    elements: usize,
) -> Result<Vec<Range<u32>>> {
    let bytes = &message[content.clone()];
    let mut at = 0;
    let mut lengths = Vec::with_capacity(elements.min(bytes.len()));
    for _ in 0..elements {
        let (length, next) = wire::varint(bytes, at)?;
        lengths.push(usize::try_from(length).map_err(|_| parse_error())?);
        at = next;
    }
    let mut ranges = Vec::with_capacity(elements);
    for length in lengths {
        let end = at.checked_add(length).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(parse_error)?;
        ranges.push(narrow(&(content.start + at..content.start + end)));
        at = end;
    }
    if at == bytes.len() {
        Ok(ranges)
    } else {
        Err(parse_error())
    }
}

/// Messages are at most 2 GiB, so that positions fit.
#[allow(clippy::cast_possible_truncation)]
fn narrow(range: &Range<usize>) -> Range<u32> {
    range.start as u32..range.end as u32
}

fn values_into(dtype: DType, message: &Bytes, fields: &Fields, buffer: &mut Buffer) -> Result<()> {
    use DType as D;
    let source = Source { message, fields };
    match dtype {
        D::Float => source.fixed::<4>(5, buffer),
        D::Double => source.fixed::<8>(6, buffer),
        D::Complex64 => source.fixed::<8>(9, buffer),
        D::Complex128 => source.fixed::<16>(12, buffer),
        D::Int32 | D::QInt32 => source.varints(7, buffer, wire::int32),
        D::Int16 | D::QInt16 => source.varints(7, buffer, |value| wire::int32(value) as i16),
        D::UInt16 | D::QUInt16 => source.varints(7, buffer, |value| wire::int32(value) as u16),
        D::Int8 | D::QInt8 | D::Int4 | D::Int2 => {
            source.varints(7, buffer, |value| wire::int32(value) as i8);
        }
        D::UInt8 | D::QUInt8 | D::UInt4 | D::UInt2 => {
            source.varints(7, buffer, |value| wire::int32(value) as u8);
        }
        D::Half | D::BFloat16 => source.varints(13, buffer, |value| wire::int32(value) as u16),
        D::Int64 => source.varints(10, buffer, wire::int64),
        D::UInt32 => source.varints(16, buffer, |value| value as u32),
        D::UInt64 => source.varints(17, buffer, |value| value),
        D::Bool => source.varints(11, buffer, |value| u8::from(value != 0)),
        D::Float8E5M2
        | D::Float8E4M3FN
        | D::Float8E4M3FNUZ
        | D::Float8E4M3B11FNUZ
        | D::Float8E5M2FNUZ
        | D::Float4E2M1FN => source.float8(buffer),
        D::String | D::Resource | D::Variant => return Err(parse_error()),
    }
    Ok(())
}

struct Source<'m> {
    message: &'m [u8],
    fields: &'m Fields,
}

impl Source<'_> {
    /// Values that stand on the wire as they stand in memory (little-endian both).
    fn fixed<const SIZE: usize>(&self, field: u32, buffer: &mut Buffer) {
        let target = buffer.as_mut_slice();
        let mut filled = 0;
        for run in self.fields.runs.iter().filter(|run| run.field == field) {
            let single;
            let bytes = match run.single {
                None => &self.message[run.bytes.clone()],
                Some(value) => {
                    single = value.to_le_bytes();
                    // A complex number is two values: of 4 bytes in field 9, of 8 in field 12.
                    &single[..if matches!(field, 5 | 9) { 4 } else { 8 }]
                }
            };
            let count = bytes.len().min(target.len() - filled);
            target[filled..filled + count].copy_from_slice(&bytes[..count]);
            filled += count;
        }
        // Half a complex number at the end does not count.
        repeat_last::<SIZE>(target, filled - filled % SIZE);
    }

    fn varints<T: Plain>(&self, field: u32, buffer: &mut Buffer, convert: impl Fn(u64) -> T) {
        let target = buffer.elements_mut::<T>();
        let mut filled = 0;
        'runs: for run in self.fields.runs.iter().filter(|run| run.field == field) {
            if let Some(value) = run.single {
                if filled == target.len() {
                    break;
                }
                target[filled] = convert(value);
                filled += 1;
                continue;
            }
            let bytes = &self.message[run.bytes.clone()];
            let mut at = 0;
            while at < bytes.len() {
                if filled == target.len() {
                    break 'runs;
                }
                // Most values are small: one byte, without the general loop.
                let value = if bytes[at] < 0x80 {
                    at += 1;
                    u64::from(bytes[at - 1])
                } else {
                    let Ok((value, next)) = wire::varint(bytes, at) else { break 'runs };
                    at = next;
                    value
                };
                target[filled] = convert(value);
                filled += 1;
            }
        }
        if let Some(&last) = filled.checked_sub(1).and_then(|at| target.get(at)) {
            target[filled..].fill(last);
        }
    }

    fn float8(&self, buffer: &mut Buffer) {
        let bytes = self.fields.float8.clone().map_or(&[][..], |range| &self.message[range]);
        let target = buffer.as_mut_slice();
        let count = bytes.len().min(target.len());
        target[..count].copy_from_slice(&bytes[..count]);
        repeat_last::<1>(target, count);
    }
}

/// Fill what follows the first `filled` bytes with the last `SIZE` of them.
fn repeat_last<const SIZE: usize>(target: &mut [u8], filled: usize) {
    if filled < SIZE || filled == target.len() {
        // The part of a value that did not count is zeroed again.
        if filled < target.len() {
            target[filled..].fill(0);
        }
        return;
    }
    let mut last = [0; SIZE];
    last.copy_from_slice(&target[filled - SIZE..filled]);
    for value in target[filled..].chunks_exact_mut(SIZE) {
        value.copy_from_slice(&last);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::status::Code;
    use proptest::prelude::*;
    use prost::Message;

    fn proto(dtype: DType, shape: &[i64], fill: impl FnOnce(&mut pb::TensorProto)) -> Bytes {
        let dim =
            shape.iter().map(|&size| pb::tensor_shape_proto::Dim { size, ..Default::default() });
        let mut proto = pb::TensorProto {
            dtype: dtype.number(),
            tensor_shape: Some(pb::TensorShapeProto { dim: dim.collect(), unknown_rank: false }),
            ..pb::TensorProto::default()
        };
        fill(&mut proto);
        proto.encode_to_vec().into()
    }

    fn floats(shape: &[i64], values: &[f32]) -> Result<Vec<f32>> {
        let message = proto(DType::Float, shape, |proto| proto.float_val = values.to_vec());
        let tensor = decode(&message, Limits::default())?;
        Ok(tensor.buffer().unwrap().elements().to_vec())
    }

    #[test]
    fn too_few_values_repeat_the_last_and_too_many_are_left_out() {
        assert_eq!(floats(&[4], &[1.0, 2.0]).unwrap(), [1.0, 2.0, 2.0, 2.0]);
        assert_eq!(floats(&[1], &[1.0, 2.0]).unwrap(), [1.0]);
        assert_eq!(floats(&[2], &[]).unwrap(), [0.0, 0.0]);
        assert_eq!(floats(&[], &[3.0, 4.0]).unwrap(), [3.0]);
        assert!(floats(&[0, 5], &[3.0]).unwrap().is_empty());
    }

    #[test]
    fn values_in_another_types_field_do_not_count() {
        let message = proto(DType::Double, &[2], |proto| proto.float_val = vec![7.0, 8.0]);
        let tensor = decode(&message, Limits::default()).unwrap();

        assert_eq!(tensor.buffer().unwrap().elements::<f64>(), [0.0, 0.0]);
    }

    #[test]
    fn small_integers_are_cut_to_their_width() {
        let message = proto(DType::UInt8, &[4], |proto| proto.int_val = vec![300, -1, 256, 255]);
        let tensor = decode(&message, Limits::default()).unwrap();

        assert_eq!(tensor.buffer().unwrap().as_slice(), [44, 255, 0, 255]);
    }

    #[test]
    fn half_of_a_complex_number_does_not_count() {
        let values = vec![1.0, 2.0, 3.0];
        let message = proto(DType::Complex64, &[2], |proto| proto.scomplex_val = values);
        let tensor = decode(&message, Limits::default()).unwrap();

        assert_eq!(tensor.buffer().unwrap().elements::<f32>(), [1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn content_wins_and_has_to_fit() {
        for (dtype, shape, content, fits) in [
            (DType::Int16, &[2][..], &[1, 0, 2, 0][..], true),
            (DType::Int16, &[2], &[1, 0, 2], false),
            (DType::Int16, &[2], &[1, 0, 2, 0, 3, 0], false),
            (DType::Int16, &[0], &[1, 0, 2], true),
            (DType::Bool, &[2], &[0, 1], true),
            (DType::Bool, &[2], &[0, 2], false),
            (DType::String, &[2], b"\x01\x02abc", true),
            (DType::String, &[2], b"\x01\x02ab", false),
            (DType::String, &[2], b"\x01\x02abcd", false),
            (DType::String, &[1], b"\xff", false),
        ] {
            let message = proto(dtype, shape, |proto| {
                proto.tensor_content = Bytes::copy_from_slice(content);
                proto.int_val = vec![9, 9];
            });
            let decoded = decode(&message, Limits::default());
            assert_eq!(decoded.is_ok(), fits, "{dtype:?} {shape:?} {content:?}");
        }
    }

    #[test]
    fn what_asks_for_more_than_it_may_is_refused_before_anything_is_taken() {
        let limits = Limits { max_bytes: 1 << 20 };
        for (dtype, shape, code) in [
            (DType::Float, &[1 << 18][..], None),
            (DType::Float, &[(1 << 18) + 1], Some(Code::ResourceExhausted)),
            (DType::String, &[1 << 27], Some(Code::ResourceExhausted)),
            (DType::Float, &[1 << 40], Some(Code::InvalidArgument)),
            (DType::Float, &[1 << 32, 1 << 32], Some(Code::InvalidArgument)),
            (DType::Float, &[-1], Some(Code::InvalidArgument)),
            (DType::Float, &[-2, -3], Some(Code::InvalidArgument)),
            (DType::Float, &[1; 254], None),
            (DType::Float, &[1; 255], Some(Code::InvalidArgument)),
            (DType::Resource, &[], Some(Code::InvalidArgument)),
            (DType::Variant, &[], Some(Code::InvalidArgument)),
        ] {
            let decoded = decode(&proto(dtype, shape, |_| ()), limits);
            assert_eq!(decoded.err().map(|status| status.code), code, "{dtype:?} {shape:?}");
        }
    }

    /// Every type whose elements are plain memory, with bytes that make whole elements.
    fn dense() -> impl Strategy<Value = (DType, Vec<u8>)> {
        let types: Vec<DType> = (1..=33)
            .filter_map(DType::from_number)
            .filter(|dtype| dtype.size().is_some() && *dtype != DType::Bool)
            .collect();
        (prop::sample::select(types), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
            |(dtype, mut bytes)| {
                let size = dtype.size().unwrap_or(1);
                bytes.truncate(bytes.len() / size * size);
                (dtype, bytes)
            },
        )
    }

    proptest! {
        #[test]
        fn dense_tensors_round_trip_in_both_encodings((dtype, bytes) in dense(), content: bool) {
            let elements = bytes.len() / dtype.size().unwrap();
            let shape = vec![i64::try_from(elements).unwrap(), 1];
            let tensor = Tensor::dense(dtype, shape.clone(), Buffer::copy_of(&bytes));
            let encoding = if content { Encoding::Content } else { Encoding::Typed };

            let encoder = Encoder::new(&tensor, encoding);
            let encoded = encode(&tensor, encoding);
            prop_assert_eq!(encoder.len(), encoded.len());
            let decoded = decode(&encoded.into(), Limits::default()).unwrap();

            prop_assert_eq!(decoded.dtype(), dtype);
            prop_assert_eq!(decoded.shape(), &shape[..]);
            prop_assert_eq!(decoded.buffer().unwrap().as_slice(), &bytes[..]);
        }

        #[test]
        fn strings_round_trip_in_both_encodings(strings: Vec<Vec<u8>>, content: bool) {
            let shape = vec![i64::try_from(strings.len()).unwrap()];
            let tensor = Tensor::strings(shape, strings.iter().collect());
            let encoding = if content { Encoding::Content } else { Encoding::Typed };

            let decoded = decode(&encode(&tensor, encoding).into(), Limits::default()).unwrap();

            let read: Vec<Vec<u8>> =
                decoded.as_strings().unwrap().iter().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(read, strings);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes.into(), Limits { max_bytes: 1 << 16 });
        }

        #[test]
        fn no_change_of_a_good_message_makes_the_decoder_panic(
            (dtype, bytes) in dense(),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let shape = vec![i64::try_from(bytes.len() / dtype.size().unwrap()).unwrap()];
            let tensor = Tensor::dense(dtype, shape, Buffer::copy_of(&bytes));
            let mut message = encode(&tensor, Encoding::Typed);
            let at = at.index(message.len());
            message[at] = byte;
            let _ = decode(&message.into(), Limits { max_bytes: 1 << 16 });
        }
    }
}
