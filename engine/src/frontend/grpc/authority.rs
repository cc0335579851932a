//! The authority that gRPC's C core sends over a Unix socket, made one that HTTP libraries take.
//!
//! Python, C++ and Ruby clients name a Unix socket by its path with the slashes escaped:
//! `:authority: tmp%2Fs.sock`. That is no authority by RFC 3986, and the HTTP/2 library resets every
//! such stream. The bytes of a connection are therefore walked before it reads them: in HEADERS
//! frames a `%` in the value of `:authority` becomes a `-`. The length stays, and with it the state
//! of header compression. The C core writes these values without Huffman coding; values with it
//! are left alone.

/// Bytes of the preface that a client begins with.
const PREFACE: usize = 24;
/// Bytes of the header of a frame.
const FRAME_HEADER: usize = 9;
/// Header blocks above this are passed on as they are; the library refuses them anyway.
const MAX_BLOCK: usize = 64 << 10;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Index of `:authority` in the static table of HPACK.
const AUTHORITY: usize = 1;

/// Rewrites the bytes of one connection as they arrive.
#[derive(Debug)]
pub struct Rewriter {
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes are passed on.
    Pass(usize),
    /// The header of the next frame, as far as it is there.
    Header(Vec<u8>),
    /// A HEADERS frame, header and payload, as far as it is there; and its whole length.
    Frame(Vec<u8>, usize),
}

impl Default for Rewriter {
    fn default() -> Self {
        Self { state: State::Pass(PREFACE) }
    }
}

impl Rewriter {
    /// Take what was read, and append what is to be passed on.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Pass(left) => {
                    let count = bytes.len().min(*left);
                    out.extend_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    *left -= count;
                    if *left == 0 {
                        self.state = State::Header(Vec::with_capacity(FRAME_HEADER));
                    }
                }
                State::Header(header) => {
                    bytes = fill(header, FRAME_HEADER, bytes);
                    if header.len() < FRAME_HEADER {
                        return;
                    }
                    let length = usize::from(header[0]) << 16
                        | usize::from(header[1]) << 8
                        | usize::from(header[2]);
                    if header[3] == HEADERS && length <= MAX_BLOCK {
                        let frame = std::mem::take(header);
                        self.state = State::Frame(frame, FRAME_HEADER + length);
                        self.finish_frame(out);
                    } else {
                        out.append(header);
                        self.state = if length == 0 {
                            State::Header(Vec::with_capacity(FRAME_HEADER))
                        } else {
                            State::Pass(length)
                        };
                    }
                }
                State::Frame(frame, length) => {
                    bytes = fill(frame, *length, bytes);
                    self.finish_frame(out);
                }
            }
        }
    }

    fn finish_frame(&mut self, out: &mut Vec<u8>) {
        let State::Frame(frame, length) = &mut self.state else { return };
        if frame.len() < *length {
            return;
        }
        rewrite_frame(frame);
        out.append(frame);
        self.state = State::Header(Vec::with_capacity(FRAME_HEADER));
    }
}

/// Move bytes until `target` has `length`; what is left.
fn fill<'b>(target: &mut Vec<u8>, length: usize, bytes: &'b [u8]) -> &'b [u8] {
    let count = bytes.len().min(length - target.len());
    target.extend_from_slice(&bytes[..count]);
    &bytes[count..]
}

fn rewrite_frame(frame: &mut [u8]) {
    let flags = frame[4];
    let (mut start, mut end) = (FRAME_HEADER, frame.len());
    if flags & PADDED != 0 {
        let Some(&padding) = frame.get(start) else { return };
        start += 1;
        end = end.saturating_sub(usize::from(padding));
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    if start < end {
        // A block that makes no sense is the library's to refuse.
        let _ = rewrite_block(&mut frame[start..end]);
    }
}

/// Walk the fields of a header block; `None` where it makes no sense.
fn rewrite_block(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let (is_literal, prefix) = match first {
            0x80.. => (false, 7),
            0x40.. => (true, 6),
            0x20.. => (false, 5),
            _ => (true, 4),
        };
        let (index, next) = integer(block, at, prefix)?;
        at = next;
        if !is_literal {
            continue;
        }
        let mut is_authority = index == AUTHORITY;
        if index == 0 {
            let (name, _, next) = string(block, at)?;
            is_authority = &block[name] == b":authority";
            at = next;
        }
        let (value, is_huffman, next) = string(block, at)?;
        if is_authority && !is_huffman {
            for byte in block[value].iter_mut().filter(|byte| **byte == b'%') {
                *byte = b'-';
            }
        }
        at = next;
    }
    Some(())
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1), and where the next thing begins.
fn integer(block: &[u8], at: usize, prefix: u32) -> Option<(usize, usize)> {
    let limit = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(at)?) & limit;
    let mut at = at + 1;
    if value == limit {
        for shift in (0..28).step_by(7) {
            let byte = *block.get(at)?;
            at += 1;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, at));
            }
        }
        return None;
    }
    Some((value, at))
}

/// Where the characters of a string are, whether they are Huffman coded, and what follows.
fn string(block: &[u8], at: usize) -> Option<(std::ops::Range<usize>, bool, usize)> {
    let is_huffman = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length).filter(|&end| end <= block.len())?;
    Some((start..end, is_huffman, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [vec![b'p'; PREFACE], frames.concat()].concat()
    }

    fn rewritten(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            rewriter.feed(piece, &mut out);
        }
        out
    }

    #[test]
    fn only_the_authority_changes_however_the_bytes_are_split() {
        // :method POST, :authority as a literal with the name's index, "%" in another value.
        let block = b"\x83\x41\x0atmp%2Fs.so\x40\x01a\x02%x";
        let named = b"\x00\x0a:authority\x03a%b";
        let padded = [&[2][..], block, &[0, 0]].concat();
        let with_priority = [&[0; 5][..], block].concat();
        let input = connection(&[
            frame(4, 0, b""),
            frame(HEADERS, 0x4, block),
            frame(0, 0, b"%data"),
            frame(HEADERS, PADDED, &padded),
            frame(HEADERS, PRIORITY, &with_priority),
            frame(HEADERS, 0, named),
        ]);
        let mut expected = input.clone();
        let mut replace = |from: &[u8], to: &[u8]| {
            while let Some(at) = expected.windows(from.len()).position(|w| w == from) {
                expected[at..at + from.len()].copy_from_slice(to);
            }
        };
        replace(b"tmp%2F", b"tmp-2F");
        replace(b"a%b", b"a-b");
        for piece in [1, 2, 7, 1000] {
            assert_eq!(rewritten(&input, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn huffman_coded_values_are_left_alone() {
        let input = connection(&[frame(HEADERS, 0, b"\x41\x82%%")]);

        assert_eq!(rewritten(&input, 1000), input);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_change_their_number(bytes: Vec<u8>, piece in 1..50_usize) {
            let input = connection(&[frame(HEADERS, 0xff, &bytes[..bytes.len().min(255)])]);

            prop_assert_eq!(rewritten(&input, piece).len(), input.len());
        }
    }
}
