//! What the engine and the process of a model say to each other, as bytes.
//!
//! A frame is its length (u64) and a body; all numbers are little-endian, texts and bytes have
//! their length (u32) in front. `platforms/python/frames.py` is the other side.
//!
//! | frame | body |
//! |---|---|
//! | hello, to the model | what to load |
//! | ready, from the model | code (i32), message, SignatureDefMap, number of threads (u32) |
//! | call, to the model | id (u64), method, signature, tensors, names of outputs |
//! | answer, from the model | id (u64), code (i32), message, tensors |
//!
//! A tensor is its alias, type (i32), rank (u32), sizes (i64 each), and its elements: dense ones
//! from the next multiple of 16 on, strings as their lengths (u32 each) and then their bytes.

use std::io::{self, Read};

use crate::status::{Code, Status};
use crate::tensor::{num_elements, Buffer, DType, Data, StringsBuilder, Tensor};

/// Elements stand at multiples of this, counted from the start of the body.
const ALIGNMENT: usize = 16;

/// Bytes that are not the frame they should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

type Parsed<T> = std::result::Result<T, Malformed>;

/// Outputs by alias, or why there are none.
pub type Answer = crate::status::Result<Vec<(String, Tensor)>>;

/// What a model says when it is loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Ready {
    pub signature_def_map: Vec<u8>,
    /// How many runs it takes at a time.
    pub threads: usize,
}

/// A hello frame.
pub fn hello(payload: &[u8]) -> Vec<u8> {
    let mut frame = Writer::new();
    frame.0.extend_from_slice(payload);
    frame.finish()
}

/// A call frame.
pub fn call(
    id: u64,
    method: &str,
    signature_name: &str,
    inputs: &[(&str, &Tensor)],
    outputs: &[&str],
) -> Vec<u8> {
    let mut frame = Writer::new();
    frame.0.extend_from_slice(&id.to_le_bytes());
    frame.text(method);
    frame.text(signature_name);
    frame.u32(inputs.len());
    for (alias, tensor) in inputs {
        frame.tensor(alias, tensor);
    }
    frame.u32(outputs.len());
    for output in outputs {
        frame.text(output);
    }
    frame.finish()
}

/// Read the body of the next frame.
///
/// # Errors
/// When the stream ends, or says that it has more than `limit` bytes.
pub fn read(stream: &mut impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    // Most memory is taken as the bytes come.
    let mut body = Vec::with_capacity(length.min(1 << 20) as usize);
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// # Errors
/// When the bytes are no ready frame; the inner error is what the model failed to load with.
pub fn ready(body: &[u8]) -> Parsed<crate::status::Result<Ready>> {
    let mut reader = Reader { body, at: 0 };
    let failure = reader.status()?;
    let signature_def_map = reader.bytes()?.to_vec();
    let threads = reader.u32()?;
    reader.end()?;
    Ok(match failure {
        Some(status) => Err(status),
        None => Ok(Ready { signature_def_map, threads }),
    })
}

/// # Errors
/// When the bytes are no answer frame.
pub fn answer(body: &[u8]) -> Parsed<(u64, Answer)> {
    let mut reader = Reader { body, at: 0 };
    let id = u64::from_le_bytes(reader.array()?);
    if let Some(status) = reader.status()? {
        return Ok((id, Err(status)));
    }
    let count = reader.u32()?;
    let mut tensors = Vec::new();
    for _ in 0..count {
        tensors.push(reader.tensor()?);
    }
    reader.end()?;
    Ok((id, Ok(tensors)))
}

/// A frame as it grows; the first 8 bytes become its length.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(vec![0; 8])
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 8) as u64;
        self.0[..8].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    fn u32(&mut self, value: usize) {
        let value = u32::try_from(value).expect("requests are below 4 GiB");
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn tensor(&mut self, alias: &str, tensor: &Tensor) {
        self.text(alias);
        self.0.extend_from_slice(&tensor.dtype().number().to_le_bytes());
        self.u32(tensor.shape().len());
        for size in tensor.shape() {
            self.0.extend_from_slice(&size.to_le_bytes());
        }
        match tensor.data() {
            Data::Dense(buffer) => {
                let body = self.0.len() - 8;
                self.0.resize(8 + body.next_multiple_of(ALIGNMENT), 0);
                self.0.extend_from_slice(buffer.as_slice());
            }
            Data::Strings(strings) => {
                for string in strings.iter() {
                    self.u32(string.len());
                }
                for string in strings.iter() {
                    self.0.extend_from_slice(string);
                }
            }
        }
    }
}

struct Reader<'b> {
    body: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Parsed<&'b [u8]> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.body.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn u32(&mut self) -> Parsed<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn bytes(&mut self) -> Parsed<&'b [u8]> {
        let length = self.u32()?;
        self.take(length)
    }

    fn text(&mut self) -> Parsed<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }

    /// Code and message; `None` when all is well.
    fn status(&mut self) -> Parsed<Option<Status>> {
        let code = Code::from_number(i32::from_le_bytes(self.array()?));
        let message = self.text()?;
        Ok((code != Code::Ok).then(|| Status::new(code, message)))
    }

    fn tensor(&mut self) -> Parsed<(String, Tensor)> {
        let alias = self.text()?;
        let dtype = DType::from_number(i32::from_le_bytes(self.array()?)).ok_or(Malformed)?;
        let rank = self.u32()?;
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(i64::from_le_bytes(self.array()?));
        }
        let elements = num_elements(&shape).ok_or(Malformed)?;
        let tensor = if let Some(size) = dtype.size() {
            self.at = self.at.next_multiple_of(ALIGNMENT);
            let data = self.take(elements.checked_mul(size).ok_or(Malformed)?)?;
            Tensor::dense(dtype, shape, Buffer::copy_of(data))
        } else if dtype == DType::String {
            let lengths = self.take(elements.checked_mul(4).ok_or(Malformed)?)?;
            let mut strings = StringsBuilder::default();
            for length in lengths.chunks_exact(4) {
                let length = u32::from_le_bytes(length.try_into().map_err(|_| Malformed)?);
                strings.push(self.take(length as usize)?);
            }
            Tensor::strings(shape, strings.build())
        } else {
            return Err(Malformed);
        };
        Ok((alias, tensor))
    }

    fn end(&self) -> Parsed<()> {
        if self.at == self.body.len() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer frame's body as the model's side writes it.
    fn answer_body(id: u64, tensors: &[(&str, &Tensor)]) -> Vec<u8> {
        let mut frame = Writer(Vec::new());
        frame.0.extend_from_slice(&[0; 8]);
        frame.0.extend_from_slice(&id.to_le_bytes());
        frame.0.extend_from_slice(&0_i32.to_le_bytes());
        frame.text("");
        frame.u32(tensors.len());
        for (alias, tensor) in tensors {
            frame.tensor(alias, tensor);
        }
        frame.finish().split_off(8)
    }

    #[test]
    fn tensors_come_back_as_they_were_sent() {
        let floats =
            Tensor::dense(DType::Float, vec![1, 2], Buffer::copy_of(&[1, 2, 3, 4, 5, 6, 7, 8]));
        let strings = Tensor::strings(vec![3], ["a", "", "bc"].into_iter().collect());
        let none = Tensor::dense(DType::Double, vec![0, 5], Buffer::zeroed(0));
        let body = answer_body(7, &[("s", &strings), ("f", &floats), ("none", &none)]);

        let (id, answer) = answer(&body).unwrap();

        let answer = answer.unwrap();
        assert_eq!(id, 7);
        let shapes: Vec<_> = answer.iter().map(|(alias, t)| (alias.as_str(), t.shape())).collect();
        assert_eq!(shapes, [("s", &[3][..]), ("f", &[1, 2]), ("none", &[0, 5])]);
        let texts: Vec<_> = answer[0].1.as_strings().unwrap().iter().collect();
        assert_eq!(texts, [&b"a"[..], b"", b"bc"]);
        assert_eq!(answer[1].1.buffer().unwrap().as_slice(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_frame_that_ends_early_or_is_too_long_is_an_error() {
        let frame = hello(b"abc");

        assert_eq!(read(&mut &frame[..], 3).unwrap(), b"abc");
        assert!(read(&mut &frame[..], 2).is_err());
        assert!(read(&mut &frame[..frame.len() - 1], 3).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = answer(&body);
            let _ = ready(&body);
        }

        #[test]
        fn no_answer_that_was_cut_or_changed_makes_it_panic(cut in 0_usize..200, at in 0_usize..200, with: u8) {
            let strings = Tensor::strings(vec![2, 1], ["a", "bc"].into_iter().collect());
            let doubles = Tensor::dense(DType::Double, vec![2], Buffer::zeroed(16));
            let mut body = answer_body(1, &[("s", &strings), ("d", &doubles)]);
            let length = body.len();
            body[at % length] = with;
            body.truncate(length - cut % length);
            let _ = answer(&body);
        }
    }
}
