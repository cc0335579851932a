//! Decimal numbers, read many digits at a time.
//!
//! A number that is read here has the value that [`Cursor::number`](super::scan::Cursor::number)
//! gives it, at a fraction of the cost; what is unusual is left to that.

use super::scan::{to_double, MAX_EXACT};
use crate::tensor::number::POWERS;

/// The number at the start of `text` and how many bytes it takes, for the commonest: few digits
/// with or without a point among them, no exponent, and something behind them.
///
/// There is no branch on how many digits stand behind the point, because in an image that is what
/// no processor predicts.
#[inline(always)]
#[allow(clippy::inline_always)] // what a number costs is what a large body costs
pub fn common_double(text: &[u8]) -> Option<(f64, usize)> {
    let chunk = text.first_chunk::<16>()?;
    let sign = usize::from(chunk[0] == b'-');
    let others = non_digits(chunk) & !(sign as u32);
    let point = others.trailing_zeros() as usize;
    if point == sign || point > 4 || (point - sign > 1 && chunk[sign] == b'0') {
        return None;
    }
    // A sign counts as a zero in front.
    let digits = (u128::from_le_bytes(*chunk) ^ ZEROS) & !(0xFF * sign as u128);
    if chunk[point] != b'.' {
        let value = to_double(sixteen_digits(digits << (8 * (16 - point))));
        // A negative integer zero is zero.
        let value = if sign == 1 { 0.0 - value } else { value };
        return ends_at(chunk[point]).then_some((value, point));
    }
    let end = (others & (others - 1)).trailing_zeros() as usize;
    if end == 16 {
        return long_double(text, sign, point);
    }
    // What is behind the point moves into its place, and zeros in front of it all.
    let whole = (1 << (8 * point)) - 1;
    let digits = (digits & whole) | ((digits >> 8) & !whole);
    let value = to_double(sixteen_digits(digits << (8 * (17 - end)))) / POWERS[end - point - 1];
    let is_number = end > point + 1 && ends_at(chunk[end]);
    is_number.then_some((if sign == 1 { -value } else { value }, end))
}

/// The same for up to seventeen digits behind the point, which has been found: floats that were
/// widened to doubles before they were written look so.
#[inline(always)]
#[allow(clippy::inline_always)]
fn long_double(text: &[u8], sign: usize, point: usize) -> Option<(f64, usize)> {
    let chunk = text.first_chunk::<32>()?;
    let end = 16 + non_digits(chunk.last_chunk()?).trailing_zeros() as usize;
    let count = end - point - 1;
    if count > 17 || !ends_at(chunk[end]) {
        return None;
    }
    let whole =
        chunk[sign..point].iter().fold(0, |whole, byte| whole * 10 + u64::from(byte - b'0'));
    // The sixteen before the end, without what stands in front of the point; and one more.
    let last = u128::from_le_bytes(*chunk[end - 16..].first_chunk()?) ^ ZEROS;
    let last = sixteen_digits(last & (u128::MAX << (8 * 16_usize.saturating_sub(count))));
    let first = u64::from(count == 17) * u64::from(chunk[point + 1] - b'0');
    let fraction = first * TENS[16] + last;
    let significand = whole.checked_mul(TENS[count])?.checked_add(fraction)?;
    // Beyond, the last digit would be added to what has been rounded.
    if significand / 10 > MAX_EXACT {
        return None;
    }
    let value = to_double(significand) / POWERS[count];
    Some((if sign == 1 { -value } else { value }, end))
}

/// Whether a number can end before this byte, which is no digit.
#[inline]
fn ends_at(byte: u8) -> bool {
    !matches!(byte, b'e' | b'E')
}

const TENS: [u64; 18] = {
    let mut tens = [1; 18];
    let mut at = 1;
    while at < 18 {
        tens[at] = tens[at - 1] * 10;
        at += 1;
    }
    tens
};

/// Sixteen times the digit zero.
const ZEROS: u128 = u128::MAX / 255 * (b'0' as u128);

/// A bit for each byte that is no digit, and one behind them all.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn non_digits(chunk: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_set1_epi8,
        _mm_sub_epi8,
    };
    // SAFETY: every x86-64 processor has SSE2, and sixteen bytes are read of sixteen.
    let digits = unsafe {
        let zero = _mm_set1_epi8(b'0' as i8);
        let digits = _mm_sub_epi8(_mm_loadu_si128(chunk.as_ptr().cast()), zero);
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(digits, _mm_set1_epi8(9)), digits))
    };
    (digits as u32 ^ 0xFFFF) | 1 << 16
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn non_digits(chunk: &[u8; 16]) -> u32 {
    chunk.iter().rev().fold(1, |bits, byte| bits << 1 | u32::from(!byte.is_ascii_digit()))
}

/// The value of sixteen digits, one a byte, the first in the lowest.
#[inline]
fn sixteen_digits(digits: u128) -> u64 {
    eight_digits(digits as u64) * 100_000_000 + eight_digits((digits >> 64) as u64)
}

/// The value of eight digits, one a byte, the first in the lowest: pairs, fours, and all eight are
/// put together, each step in one multiplication.
#[inline]
fn eight_digits(digits: u64) -> u64 {
    let pairs = (digits.wrapping_mul(2561) >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs.wrapping_mul(6_553_601) >> 16) & 0x0000_FFFF_0000_FFFF;
    fours.wrapping_mul(42_949_672_960_001) >> 32
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Cursor, Number};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_has_the_value_that_reading_digit_by_digit_gives(
            text in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,22})?[],e ]?",
        ) {
            // Room behind the number, which is looked into.
            let text = text + &" ".repeat(32);
            if let Some((value, end)) = common_double(text.as_bytes()) {
                let mut slow = Cursor::new(text.as_bytes());
                #[allow(clippy::cast_precision_loss)]
                let expected = match slow.number().unwrap() {
                    Number::Signed(value) => value as f64,
                    Number::Unsigned(value) => value as f64,
                    Number::Double(value) => value,
                };
                prop_assert_eq!(value.to_bits(), expected.to_bits());
                prop_assert_eq!(end, slow.at());
            }
        }

        #[test]
        fn floats_as_they_are_written_are_common(value in 1e-3_f32..999.0, widened: bool) {
            let text = if widened { f64::from(value).to_string() } else { value.to_string() };
            let padded = text.clone() + &" ".repeat(32);

            let end = common_double(padded.as_bytes()).map(|(_, end)| end);

            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            prop_assert!(end == Some(text.len()) || digits > 16, "{} {:?}", text, end);
        }

        #[test]
        fn no_bytes_make_it_panic(text in "[-0-9.eE ,]{0,40}") {
            if let Some((_, end)) = common_double(text.as_bytes()) {
                prop_assert_eq!(Cursor::new(text.as_bytes()).value(), Ok(()));
                prop_assert!(end <= text.len());
            }
        }

        #[test]
        fn every_byte_is_known_for_a_digit_or_not(chunk: [u8; 16]) {
            let bits = (0..16).filter(|&at| !chunk[at].is_ascii_digit()).fold(1 << 16, |bits, at| bits | 1 << at);
            prop_assert_eq!(non_digits(&chunk), bits);
        }
    }
}
