//! Protobuf's wire format, read in place and written into a growing buffer.
//!
//! Only what the request path needs: the messages that carry tensors are large, and are taken
//! apart without building anything in between. Everything else uses the generated types.

use std::ops::Range;

pub const VARINT: u8 = 0;
pub const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The value of one field as it stands on the wire; bytes as a range of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Varint(u64),
    Fixed64(u64),
    Bytes(Range<usize>),
    Fixed32(u32),
    Group,
}

/// Walks the fields of a message.
#[derive(Clone)]
pub struct Reader<'m> {
    message: &'m [u8],
    at: usize,
    end: usize,
}

/// How deep groups may nest; messages of ours have none, so that this only bounds junk.
const MAX_GROUP_DEPTH: usize = 100;

impl<'m> Reader<'m> {
    pub fn new(message: &'m [u8]) -> Self {
        Self { message, at: 0, end: message.len() }
    }

    /// A reader of a message inside another; ranges stay positions in the outer one.
    pub fn within(message: &'m [u8], range: Range<usize>) -> Self {
        Self { message, at: range.start, end: range.end }
    }

    /// The next field and its number, `None` at the end.
    ///
    /// # Errors
    /// When the bytes are no message.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(u32, Field)>, Malformed> {
        if self.at == self.end {
            return Ok(None);
        }
        let (number, kind) = self.tag()?;
        let field = self.field(number, kind, 0)?;
        Ok(Some((number, field)))
    }

    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let number = tag >> 3;
        if number == 0 {
            return Err(Malformed);
        }
        Ok((number, (tag & 7) as u8))
    }

    fn field(&mut self, number: u32, kind: u8, depth: usize) -> Result<Field, Malformed> {
        Ok(match kind {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                let end = self.at.checked_add(length).ok_or(Malformed)?;
                if end > self.end {
                    return Err(Malformed);
                }
                let range = self.at..end;
                self.at = end;
                Field::Bytes(range)
            }
            3 => {
                if depth == MAX_GROUP_DEPTH {
                    return Err(Malformed);
                }
                loop {
                    let (inner, kind) = self.tag()?;
                    if kind == 4 {
                        break if inner == number { Ok(Field::Group) } else { Err(Malformed) };
                    }
                    self.field(inner, kind, depth + 1)?;
                }?
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(Malformed),
        })
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let (value, next) = varint(&self.message[..self.end], self.at)?;
        self.at = next;
        Ok(value)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.message[..self.end].get(self.at..).and_then(<[u8]>::first_chunk::<N>);
        self.at += N;
        bytes.copied().ok_or(Malformed)
    }
}

/// The varint at `at`, and where the next thing begins.
///
/// # Errors
/// When the bytes end first, or it is longer than ten bytes.
pub fn varint(bytes: &[u8], mut at: usize) -> Result<(u64, usize), Malformed> {
    let mut value: u64 = 0;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(at).ok_or(Malformed)?;
        at += 1;
        // Bits beyond the sixty-fourth are dropped, as other decoders do.
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok((value, at));
        }
    }
    Err(Malformed)
}

/// Whether bytes are whole varints one after another.
pub fn varints_are_whole(bytes: &[u8]) -> bool {
    let mut run = 0;
    for &byte in bytes {
        run = if byte < 0x80 { 0 } else { run + 1 };
        if run >= 10 {
            return false;
        }
    }
    run == 0
}

/// A varint as an `int32` field reads it: the low 32 bits.
#[allow(clippy::cast_possible_truncation)]
pub fn int32(value: u64) -> i32 {
    value as i32
}

/// A varint as an `int64` field reads it.
#[allow(clippy::cast_possible_wrap)]
pub fn int64(value: u64) -> i64 {
    value as i64
}

/// Check that a `string` field is text.
///
/// # Errors
/// When it is not UTF-8.
pub fn utf8(bytes: &[u8]) -> Result<(), Malformed> {
    text(bytes).map(drop)
}

/// The text of a `string` field.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// Bytes of a value as a varint.
pub fn varint_len(value: u64) -> usize {
    // Seven bits a byte; zero takes one.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub fn tag_len(number: u32) -> usize {
    varint_len(u64::from(number) << 3)
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_tag(out: &mut Vec<u8>, number: u32, kind: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(kind));
}

/// Tag and four bytes.
pub fn put_fixed32(out: &mut Vec<u8>, number: u32, value: u32) {
    put_tag(out, number, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Tag, length and bytes.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Length of what [`put_bytes`] writes for `len` bytes.
pub fn bytes_len(number: u32, len: usize) -> usize {
    tag_len(number) + varint_len(len as u64) + len
}

/// Bytes of the header before a message on a gRPC stream.
pub const FRAME_HEADER: usize = 5;

/// A serialized message under construction, with room before it for the header of its frame, so
/// that what was written is sent without being moved.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

impl Message {
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    pub fn with_capacity(len: usize) -> Self {
        let mut bytes = Vec::with_capacity(FRAME_HEADER + len);
        bytes.resize(FRAME_HEADER, 0);
        Self(bytes)
    }

    /// As [`Message::with_capacity`]; `None` when there is no memory for so much.
    pub fn try_with_capacity(len: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(FRAME_HEADER + len).ok()?;
        bytes.resize(FRAME_HEADER, 0);
        Some(Self(bytes))
    }

    /// What is written to; only ever appended to.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Append a message, which merges it into what is there.
    pub fn append(&mut self, message: &impl prost::Message) {
        message.encode(&mut self.0).expect("a vector grows");
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0[FRAME_HEADER..]
    }

    /// The message alone.
    pub fn into_vec(mut self) -> Vec<u8> {
        self.0.drain(..FRAME_HEADER);
        self.0
    }

    /// The message behind its frame header.
    ///
    /// # Panics
    /// Above 4 GiB, which protobuf excludes.
    pub fn into_frame(mut self) -> bytes::Bytes {
        let len = u32::try_from(self.0.len() - FRAME_HEADER).expect("messages are below 4 GiB");
        self.0[1..FRAME_HEADER].copy_from_slice(&len.to_be_bytes());
        self.0.into()
    }
}

impl<M: prost::Message> From<&M> for Message {
    fn from(message: &M) -> Self {
        let mut made = Self::with_capacity(message.encoded_len());
        made.append(message);
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_that_ends_early_or_has_a_bad_tag_is_malformed() {
        for bytes in [
            &b"\x0a\x05ab"[..], // five bytes promised, two there
            b"\x08",            // a tag and no value
            b"\x0d\x01\x02",    // half of a fixed32
            b"\x00\x01",        // field number zero
            b"\x0e",            // wire type six
            b"\x0b\x08\x01",    // a group that does not end
            b"\x0b\x14",        // a group that ends as another
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            let mut reader = Reader::new(bytes);
            let mut last = reader.next();
            while let Ok(Some(_)) = last {
                last = reader.next();
            }
            assert_eq!(last, Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn groups_and_unknown_fields_are_stepped_over() {
        let mut reader = Reader::new(b"\x0b\x08\x01\x0c\x12\x01a");

        assert_eq!(reader.next(), Ok(Some((1, Field::Group))));
        assert_eq!(reader.next(), Ok(Some((2, Field::Bytes(6..7)))));
        assert_eq!(reader.next(), Ok(None));
    }

    proptest! {
        #[test]
        fn varints_round_trip_at_the_length_foretold(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);

            prop_assert_eq!(out.len(), varint_len(value));
            prop_assert_eq!(varint(&out, 0), Ok((value, out.len())));
            prop_assert!(varints_are_whole(&out));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
