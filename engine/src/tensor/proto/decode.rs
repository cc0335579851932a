//! Serialized `TensorProto`s become tensors.
//!
//! The bytes of a message are walked once to find out what it is, and values again to go straight
//! into the buffer that the runtime will read. Nothing is kept for each value before it is known
//! that the tensor is not too large: a value may have two bytes on the wire. Specification 1.14
//! says what is forgiven (too few values, too many, values in the wrong field) and what is not.

use std::ops::Range;

use bytes::Bytes;

use crate::status::{Result, Status};
use crate::tensor::{num_elements, shape_text, Buffer, DType, Plain, Shape, Strings, Tensor};
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
    /// What a message of this size may expand to: four times its size and no more than 4 GiB, but
    /// `least` in any case.
    pub fn for_message(bytes: usize, least: usize) -> Self {
        Self { max_bytes: bytes.saturating_mul(4).min(4 << 30).max(least) }
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
    has_resource_handle: bool,
}

/// Numbers in the message.
enum Numbers {
    /// One after another.
    Packed(Range<usize>),
    One(u64),
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
        DType::Resource if !fields.bad_shape && !fields.has_resource_handle => {
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
             this request (--max_expanded_bytes)",
            shape_text(&fields.shape),
            limits.max_bytes
        )));
    }
    if dtype == DType::String {
        return strings(message, &fields, elements);
    }
    let mut buffer = Buffer::try_zeroed(bytes)?;
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
            (14, Field::Bytes(_)) => fields.has_resource_handle = true,
            (18, Field::Bytes(range)) => fields.float8 = Some(range),
            (number, field) => {
                if let Some(Numbers::Packed(range)) = numbers(number, field) {
                    check_is_whole(number, &message[range])?;
                }
            }
        }
    }
    Ok(fields)
}

/// The numbers that a field has, if it is one of numbers.
fn numbers(number: u32, field: Field) -> Option<Numbers> {
    match (number, field) {
        (5 | 6 | 7 | 9..=13 | 16 | 17, Field::Bytes(range)) => Some(Numbers::Packed(range)),
        (7 | 10 | 11 | 13 | 16 | 17, Field::Varint(value)) => Some(Numbers::One(value)),
        (5 | 9, Field::Fixed32(value)) => Some(Numbers::One(value.into())),
        (6 | 12, Field::Fixed64(value)) => Some(Numbers::One(value)),
        _ => None,
    }
}

/// A packed run must be whole values, whatever the type turns out to be.
fn check_is_whole(number: u32, packed: &[u8]) -> std::result::Result<(), wire::Malformed> {
    let is_whole = match number {
        5 | 9 => packed.len() % 4 == 0,
        6 | 12 => packed.len() % 8 == 0,
        _ => wire::varints_are_whole(packed),
    };
    is_whole.then_some(()).ok_or(wire::Malformed)
}

/// The fields of that number in a message that was scanned.
fn each(message: &[u8], number: u32) -> impl Iterator<Item = Field> + '_ {
    let mut reader = Reader::new(message);
    let fields = std::iter::from_fn(move || reader.next().ok().flatten());
    fields.filter(move |found| found.0 == number).map(|(_, field)| field)
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
            let found = each(message, 8).filter_map(|field| match field {
                Field::Bytes(range) => Some(narrow(&range)),
                _ => None,
            });
            let mut ranges: Vec<Range<u32>> = with_room(elements)?;
            ranges.extend(found.take(elements));
            // Too few: the last one is repeated; none at all: empty strings.
            let last = ranges.last().cloned().unwrap_or(0..0);
            ranges.resize(elements, last);
            ranges
        }
    };
    let strings = Strings::Pieces { bytes: message.clone(), ranges };
    Ok(Tensor::strings(fields.shape.clone(), strings))
}

/// A length in the content of strings has no more bytes.
const LENGTH_BYTES: usize = 5;

/// Lengths as varints, then all the characters.
fn string_content(
    message: &Bytes,
    content: Range<usize>,
    elements: usize,
) -> Result<Vec<Range<u32>>> {
    let bytes = &message[content.clone()];
    let mut at = 0;
    let mut lengths = with_room(elements.min(bytes.len()))?;
    for _ in 0..elements {
        let (length, next) = wire::varint(bytes, at)?;
        if next - at > LENGTH_BYTES {
            return Err(parse_error());
        }
        // Bits beyond the thirty-second are dropped, as TensorFlow does.
        #[allow(clippy::cast_possible_truncation)]
        lengths.push(length as u32 as usize);
        at = next;
    }
    let mut ranges = with_room(elements)?;
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

/// A vector with room for as many elements as a peer says.
fn with_room<T>(elements: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    let reserved = room.try_reserve_exact(elements);
    reserved.map_err(|_| Status::no_memory(elements.saturating_mul(size_of::<T>())))?;
    Ok(room)
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
    fn numbers(&self, number: u32) -> impl Iterator<Item = Numbers> + '_ {
        each(self.message, number).filter_map(move |field| numbers(number, field))
    }

    /// Values that stand on the wire as they stand in memory (little-endian both).
    fn fixed<const SIZE: usize>(&self, field: u32, buffer: &mut Buffer) {
        let target = buffer.as_mut_slice();
        let mut filled = 0;
        for numbers in self.numbers(field) {
            if filled == target.len() {
                break;
            }
            let one;
            let bytes = match numbers {
                Numbers::Packed(range) => &self.message[range],
                Numbers::One(value) => {
                    one = value.to_le_bytes();
                    // A complex number is two values: of 4 bytes in field 9, of 8 in field 12.
                    &one[..if matches!(field, 5 | 9) { 4 } else { 8 }]
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
        'all: for numbers in self.numbers(field) {
            if filled == target.len() {
                break;
            }
            let bytes = match numbers {
                Numbers::Packed(range) => &self.message[range],
                Numbers::One(value) => {
                    target[filled] = convert(value);
                    filled += 1;
                    continue;
                }
            };
            let mut at = 0;
            while at < bytes.len() {
                if filled == target.len() {
                    break 'all;
                }
                // Most values are small: one byte, without the general loop.
                let value = if bytes[at] < 0x80 {
                    at += 1;
                    u64::from(bytes[at - 1])
                } else {
                    let Ok((value, next)) = wire::varint(bytes, at) else { break 'all };
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
