//! Strings of JSON, as they stand in a document that has been checked and in answers.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::Engine;
use std::borrow::Cow;

/// The text of a string that is known to be well formed; bytes that are not UTF-8 stay.
pub fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut text = Vec::with_capacity(raw.len());
    unescape_into(&mut text, raw);
    Cow::Owned(text)
}

/// As [`unescape`], to the end of `text`.
pub fn unescape_into(text: &mut Vec<u8>, mut raw: &[u8]) {
    while let Some(at) = memchr::memchr(b'\\', raw) {
        text.extend_from_slice(&raw[..at]);
        let Some(&letter) = raw.get(at + 1) else { return };
        raw = &raw[at + 2..];
        let byte = match letter {
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = hex4(raw);
                raw = raw.get(4..).unwrap_or_default();
                if let (0xD800..=0xDBFF, Some(low)) = (code, raw.strip_prefix(b"\\u")) {
                    code = 0x10000 + ((code - 0xD800) << 10) + (hex4(low) & 0x3FF);
                    raw = low.get(4..).unwrap_or_default();
                }
                push_code(text, code);
                continue;
            }
            other => other,
        };
        text.push(byte);
    }
    text.extend_from_slice(raw);
}

fn hex4(raw: &[u8]) -> u32 {
    let digits = raw.iter().take(4).filter_map(|&byte| char::from(byte).to_digit(16));
    digits.fold(0, |code, digit| code * 16 + digit)
}

/// The bytes of a code point; also of a lone surrogate, which no `char` can be.
#[allow(clippy::cast_possible_truncation)] // six bits and a mark each
fn push_code(text: &mut Vec<u8>, code: u32) {
    let tail = |shift: u32| 0x80 | ((code >> shift) & 0x3F) as u8;
    match code {
        0..=0x7F => text.push(code as u8),
        0x80..=0x7FF => text.extend([0xC0 | (code >> 6) as u8, tail(0)]),
        0x800..=0xFFFF => text.extend([0xE0 | (code >> 12) as u8, tail(6), tail(0)]),
        _ => text.extend([0xF0 | (code >> 18) as u8, tail(12), tail(6), tail(0)]),
    }
}

/// Write a string with its quotation marks; only what has to be is escaped, and bytes that are
/// not UTF-8 stay as they are.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'"');
    let mut plain = 0;
    for (at, &byte) in text.iter().enumerate() {
        let letter = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x0C => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            ..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        out.extend([b'\\', letter]);
        if letter == b'u' {
            out.extend([b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decode base64 to the end of `out`: the standard alphabet, with all of its padding or none, and
/// white space anywhere. False, with `out` as it was, for anything else.
pub fn decode_base64(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let start = out.len();
    let is_whole = |text: &[u8]| {
        let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
        padding == 0 || (text.len() % 4 == 0 && padding <= 2)
    };
    if is_whole(text) && LENIENT.decode_vec(text, out).is_ok() {
        return true;
    }
    out.truncate(start);
    if !text.iter().any(|&byte| is_space(byte)) {
        return false;
    }
    let dense: Vec<u8> = text.iter().copied().filter(|&byte| !is_space(byte)).collect();
    let decoded = is_whole(&dense) && LENIENT.decode_vec(&dense, out).is_ok();
    if !decoded {
        out.truncate(start);
    }
    decoded
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Write bytes as base64 with padding.
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    // Exactly this many characters are written, so that there is always room.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = LENIENT.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_become_the_bytes_they_stand_for() {
        for (raw, expected) in [
            (&br"plain"[..], &b"plain"[..]),
            (br#"\"\\\/\b\f\n\r\t"#, b"\"\\/\x08\x0c\n\r\t"),
            (br"\u0041\u00e9\u20AC", "Aé€".as_bytes()),
            (br"\ud83c\udf4e!", "🍎!".as_bytes()),
            (br"\udc00", b"\xED\xB0\x80"),
            (br"a\u0000b", b"a\0b"),
            (b"\xFF\xFE", b"\xFF\xFE"),
        ] {
            assert_eq!(unescape(raw), expected);
        }
    }

    #[test]
    fn only_what_has_to_be_is_escaped() {
        let mut out = Vec::new();
        write_string(&mut out, b"a\"\\/\x08\x0c\n\r\t\x01\x1f\x7f\xC3\xA9\xFF");

        assert_eq!(out, b"\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001F\x7f\xC3\xA9\xFF\"");
    }

    #[test]
    fn base64_is_lenient_where_the_recordings_are() {
        for (text, expected) in [
            (&b"YQ=="[..], Some(&b"a"[..])),
            (b"YQ", Some(b"a")),
            (b"YR==", Some(b"a")),
            (b" Y Q = = ", Some(b"a")),
            (b"", Some(b"")),
            (b"/+8=", Some(b"\xFF\xEF")),
            (b"YWI", Some(b"ab")),
            (b"_-8=", None),
            (b"!!!", None),
            (b"YWJjZ", None),
            (b"YQ==YQ==", None),
            (b"YQ=", None),
            (b"YWJj=", None),
            (b"=", None),
            (b"====", None),
        ] {
            let mut out = b"kept".to_vec();
            let decoded = decode_base64(&mut out, text);

            assert_eq!(decoded.then(|| &out[4..]), expected, "{text:?}");
            assert_eq!(&out[..4], b"kept");
        }
    }

    proptest! {
        #[test]
        fn base64_comes_back(bytes: Vec<u8>) {
            let (mut text, mut out) = (Vec::new(), Vec::new());
            write_base64(&mut text, &bytes);
            prop_assert!(decode_base64(&mut out, &text));
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn a_string_comes_back(text: String) {
            let mut out = Vec::new();
            write_string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.clone());
            prop_assert_eq!(unescape(&out[1..out.len() - 1]).into_owned(), text.into_bytes());
        }
    }
}
