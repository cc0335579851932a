//! Compressed bodies, of requests and of answers.
//!
//! One member that is whole, sound and alone is the body; anything else counts as no body at all.
//! What grows too large, or too much larger than it was, is refused before it is all there.

use std::io::{ErrorKind, Read};

use flate2::bufread::{GzDecoder, GzEncoder};
use flate2::Compression;

use crate::app::Options;

/// So much may come of anything.
const FREE: usize = 1 << 20;

/// What may become of a compressed body.
#[derive(Clone, Copy, Debug)]
pub struct Inflation {
    pub max_bytes: usize,
    /// What a byte may become, beyond a mebibyte that may come of anything.
    pub max_ratio: usize,
}

impl Inflation {
    pub fn of(options: &Options) -> Self {
        Self {
            max_bytes: options.max_body_bytes.min(options.max_inflated_bytes),
            max_ratio: options.max_inflation_ratio,
        }
    }
}

/// More came out than is allowed, or than there is memory for.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// What was compressed, empty when it was not sound.
///
/// # Errors
/// When there is more of it than is allowed, or than there is memory for.
pub fn inflate(compressed: &[u8], inflation: &Inflation) -> Result<Vec<u8>, TooLarge> {
    let by_ratio = compressed.len().saturating_mul(inflation.max_ratio);
    let allowed = inflation.max_bytes.min(FREE.max(by_ratio));
    let mut decoder = GzDecoder::new(compressed);
    let mut body = Vec::new();
    let usual = compressed.len().saturating_mul(4).min(allowed);
    body.try_reserve_exact(usual).map_err(|_| TooLarge)?;
    let read = decoder.by_ref().take(allowed as u64 + 1).read_to_end(&mut body);
    let is_too_large = |error: &std::io::Error| error.kind() == ErrorKind::OutOfMemory;
    if body.len() > allowed || read.as_ref().is_err_and(is_too_large) {
        return Err(TooLarge);
    }
    let is_sound = read.is_ok() && decoder.into_inner().is_empty();
    Ok(if is_sound { body } else { Vec::new() })
}

/// Compress the body of an answer, quickly rather than well.
pub fn deflate(body: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(body.len() / 4);
    // Reading from memory cannot fail.
    let _ = GzEncoder::new(body, Compression::fast()).read_to_end(&mut compressed);
    compressed
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write;
    use std::io::Write;

    const RATIO: usize = 200;

    fn inflated(compressed: &[u8], max_bytes: usize) -> Result<Vec<u8>, TooLarge> {
        inflate(compressed, &Inflation { max_bytes, max_ratio: RATIO })
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn only_one_sound_member_is_a_body() {
        let sound = deflate(b"{\"instances\": [1.0]}");
        assert_eq!(inflated(&sound, 1000).unwrap(), b"{\"instances\": [1.0]}");

        let mut bad_sum = sound.clone();
        let at = bad_sum.len() - 6;
        bad_sum[at] ^= 1;
        let twice = [sound.clone(), sound.clone()].concat();
        let trailing = [sound.clone(), b"x".to_vec()].concat();
        for unsound in
            [&bad_sum[..], &twice, &trailing, &sound[..sound.len() - 3], b"plain", b"", b"\x78\x9c"]
        {
            assert_eq!(inflated(unsound, 1000), Ok(Vec::new()), "{unsound:?}");
        }
    }

    #[test]
    fn what_grows_too_large_is_refused() {
        let zeros = deflate(&vec![0; 1000]);
        assert!(inflated(&zeros, 1000).is_ok());
        assert_eq!(inflated(&zeros, 999), Err(TooLarge));

        let bomb = deflate(&vec![0; 3 << 20]);
        assert!(bomb.len() * RATIO < 3 << 20, "not a bomb");
        assert_eq!(inflated(&bomb, 64 << 20), Err(TooLarge));
        let free = deflate(&vec![0; FREE]);
        assert_eq!(inflated(&free, 64 << 20).unwrap().len(), FREE);
    }

    #[test]
    fn what_is_kept_is_inflated_or_refused() {
        crate::corpus::each("gzip", |input| {
            if let Ok(body) = inflated(input, 1 << 20) {
                assert!(body.len() <= 1 << 20);
            }
        });
    }

    #[test]
    fn what_is_compressed_is_inflated() {
        let body = b"{\"predictions\": [1.0, 1.0, 1.0, 1.0]}".repeat(100);
        let compressed = super::deflate(&body);
        assert!(compressed.len() < body.len() / 10);
        assert_eq!(inflated(&compressed, 1 << 20), Ok(body));
    }
}
