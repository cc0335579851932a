//! How floating point numbers are written in REST answers.
//!
//! Six significant digits when they read back to the same value, otherwise nine for a float and
//! seventeen for a double; always with a point or an exponent; denormals are zero; `NaN` and
//! `Infinity` stand bare (specification 2.9).

use std::io::Write;

/// Digits that are tried first.
const SHORT: usize = 6;
/// Digits that tell every float, and every double, from its neighbours.
const FLOAT: usize = 9;
const DOUBLE: usize = 17;

/// A value as decimal digits, the first of them not zero: `digits` × 10^(`exponent` − count + 1).
#[derive(Clone, Copy)]
struct Decimal {
    digits: u64,
    exponent: i32,
}

pub fn write_f32(out: &mut Vec<u8>, value: f32) {
    if !value.is_normal() {
        return write_special(out, f64::from(value));
    }
    let magnitude = value.abs();
    let long = round(f64::from(magnitude), FLOAT);
    // Six digits can only read back when they are within half a unit of the float's last place,
    // which is sixty units of the ninth digit at most.
    if is_near_short(long, 64) {
        let short = round(f64::from(magnitude), SHORT);
        if reads_back_f32(short, magnitude) {
            return write_decimal(out, value < 0.0, short, SHORT);
        }
    }
    write_decimal(out, value < 0.0, long, FLOAT);
}

pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    if !value.is_normal() {
        return write_special(out, value);
    }
    let magnitude = value.abs();
    if is_near_short(round(magnitude, FLOAT), 1) {
        let short = round(magnitude, SHORT);
        if reads_back_f64(short, magnitude) {
            return write_decimal(out, value < 0.0, short, SHORT);
        }
    }
    write_decimal(out, value < 0.0, exact(magnitude, DOUBLE), DOUBLE);
}

/// Whether nine digits are those of a number of six, give or take a few units of the last.
fn is_near_short(long: Decimal, few: u64) -> bool {
    let rest = long.digits % 1000;
    rest <= few || rest >= 1000 - few
}

fn write_special(out: &mut Vec<u8>, value: f64) {
    let text = if value.is_nan() {
        "NaN"
    } else if value.is_infinite() {
        ["Infinity", "-Infinity"][usize::from(value < 0.0)]
    } else {
        ["0.0", "-0.0"][usize::from(value.is_sign_negative())]
    };
    out.extend_from_slice(text.as_bytes());
}

/// `value` × 10^`power`, off by two units in the last place at most; `None` when the power is
/// out of the table.
fn scale(value: f64, power: i32) -> Option<f64> {
    let factor = *POWERS.get(power.unsigned_abs() as usize)?;
    Some(if power >= 0 { value * factor } else { value / factor })
}

/// The `count` digits nearest to a positive normal value.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn round(value: f64, count: usize) -> Decimal {
    let (low, high) = (POWERS[count - 1], POWERS[count]);
    // log10(2) × the binary exponent is the decimal exponent, or one less.
    let binary = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let mut exponent = (binary * 1233) >> 12;
    let places = i32::try_from(count).unwrap_or(i32::MAX) - 1;
    let Some(mut scaled) = scale(value, places - exponent) else { return exact(value, count) };
    if scaled >= high {
        exponent += 1;
        match scale(value, places - exponent) {
            Some(smaller) => scaled = smaller,
            None => return exact(value, count),
        }
    }
    let whole = scaled as u64;
    let rest = scaled - whole as f64;
    // Near a tie or near the next power of ten the small error of `scale` could decide.
    if (rest - 0.5).abs() < 1e-5 || scaled < low || scaled >= high - 1.0 {
        return exact(value, count);
    }
    Decimal { digits: whole + u64::from(rest > 0.5), exponent }
}

/// As [`round`], correct for every value, and slow.
fn exact(value: f64, count: usize) -> Decimal {
    let mut text = [0; 40];
    let mut rest = &mut text[..];
    write!(rest, "{value:.*e}", count - 1).expect("the longest text is shorter");
    let left = rest.len();
    let used = text.len() - left;
    let mut decimal = Decimal { digits: 0, exponent: 0 };
    let mut bytes = text[..used].iter();
    for &byte in bytes.by_ref() {
        match byte {
            b'0'..=b'9' => decimal.digits = decimal.digits * 10 + u64::from(byte - b'0'),
            b'.' => {}
            _ => break,
        }
    }
    let mut negative = false;
    for &byte in bytes {
        match byte {
            b'-' => negative = true,
            _ => decimal.exponent = decimal.exponent * 10 + i32::from(byte - b'0'),
        }
    }
    if negative {
        decimal.exponent = -decimal.exponent;
    }
    decimal
}

/// Whether six digits read as a float are `value` again.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::float_cmp)]
fn reads_back_f32(short: Decimal, value: f32) -> bool {
    let power = short.exponent - 5;
    let Some(wide) = scale(short.digits as f64, power) else { return parse_f32(short) == value };
    // A float keeps 23 of the 52 bits; what is dropped must not be next to a tie, where the small
    // error of `scale` could decide.
    let dropped = wide.to_bits() & ((1 << 29) - 1);
    if dropped.abs_diff(1 << 28) < 16 || wide >= f64::from(f32::MAX) {
        return parse_f32(short) == value;
    }
    wide as f32 == value
}

#[allow(clippy::cast_precision_loss)]
fn reads_back_f64(short: Decimal, value: f64) -> bool {
    let power = short.exponent - 5;
    if power.abs() <= 22 {
        // Both operands are exact, so the one operation rounds correctly.
        return scale(short.digits as f64, power) == Some(value);
    }
    format!("{}e{power}", short.digits).parse() == Ok(value)
}

fn parse_f32(short: Decimal) -> f32 {
    format!("{}e{}", short.digits, short.exponent - 5).parse().unwrap_or(f32::NAN)
}

fn write_decimal(out: &mut Vec<u8>, negative: bool, decimal: Decimal, count: usize) {
    let Decimal { digits, exponent } = decimal;
    let mut buffer = itoa::Buffer::new();
    // The first digit is not zero, so that there are `count` of them.
    let buffer = buffer.format(digits).as_bytes();
    let kept = buffer.iter().rposition(|&digit| digit != b'0').map_or(1, |at| at + 1);
    let text = &buffer[..kept];
    if negative {
        out.push(b'-');
    }
    let places = usize::try_from(exponent).ok().filter(|&exponent| exponent < count);
    match places {
        Some(exponent) if kept > exponent + 1 => {
            out.extend_from_slice(&text[..=exponent]);
            out.push(b'.');
            out.extend_from_slice(&text[exponent + 1..]);
        }
        Some(exponent) => {
            out.extend_from_slice(&buffer[..=exponent]);
            out.extend_from_slice(b".0");
        }
        None if (-4..0).contains(&exponent) => {
            out.extend_from_slice(&b"0.000"[..=exponent.unsigned_abs() as usize]);
            out.extend_from_slice(text);
        }
        None => {
            out.push(text[0]);
            if kept > 1 {
                out.push(b'.');
                out.extend_from_slice(&text[1..]);
            }
            out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
            let exponent = exponent.unsigned_abs();
            if exponent < 10 {
                out.push(b'0');
            }
            out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
        }
    }
}

/// Powers of ten, each the nearest double; those up to 22 are exact.
pub(super) static POWERS: [f64; 309] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32,
    1e33, 1e34, 1e35, 1e36, 1e37, 1e38, 1e39, 1e40, 1e41, 1e42, 1e43, 1e44, 1e45, 1e46, 1e47, 1e48,
    1e49, 1e50, 1e51, 1e52, 1e53, 1e54, 1e55, 1e56, 1e57, 1e58, 1e59, 1e60, 1e61, 1e62, 1e63, 1e64,
    1e65, 1e66, 1e67, 1e68, 1e69, 1e70, 1e71, 1e72, 1e73, 1e74, 1e75, 1e76, 1e77, 1e78, 1e79, 1e80,
    1e81, 1e82, 1e83, 1e84, 1e85, 1e86, 1e87, 1e88, 1e89, 1e90, 1e91, 1e92, 1e93, 1e94, 1e95, 1e96,
    1e97, 1e98, 1e99, 1e100, 1e101, 1e102, 1e103, 1e104, 1e105, 1e106, 1e107, 1e108, 1e109, 1e110,
    1e111, 1e112, 1e113, 1e114, 1e115, 1e116, 1e117, 1e118, 1e119, 1e120, 1e121, 1e122, 1e123,
    1e124, 1e125, 1e126, 1e127, 1e128, 1e129, 1e130, 1e131, 1e132, 1e133, 1e134, 1e135, 1e136,
    1e137, 1e138, 1e139, 1e140, 1e141, 1e142, 1e143, 1e144, 1e145, 1e146, 1e147, 1e148, 1e149,
    1e150, 1e151, 1e152, 1e153, 1e154, 1e155, 1e156, 1e157, 1e158, 1e159, 1e160, 1e161, 1e162,
    1e163, 1e164, 1e165, 1e166, 1e167, 1e168, 1e169, 1e170, 1e171, 1e172, 1e173, 1e174, 1e175,
    1e176, 1e177, 1e178, 1e179, 1e180, 1e181, 1e182, 1e183, 1e184, 1e185, 1e186, 1e187, 1e188,
    1e189, 1e190, 1e191, 1e192, 1e193, 1e194, 1e195, 1e196, 1e197, 1e198, 1e199, 1e200, 1e201,
    1e202, 1e203, 1e204, 1e205, 1e206, 1e207, 1e208, 1e209, 1e210, 1e211, 1e212, 1e213, 1e214,
    1e215, 1e216, 1e217, 1e218, 1e219, 1e220, 1e221, 1e222, 1e223, 1e224, 1e225, 1e226, 1e227,
    1e228, 1e229, 1e230, 1e231, 1e232, 1e233, 1e234, 1e235, 1e236, 1e237, 1e238, 1e239, 1e240,
    1e241, 1e242, 1e243, 1e244, 1e245, 1e246, 1e247, 1e248, 1e249, 1e250, 1e251, 1e252, 1e253,
    1e254, 1e255, 1e256, 1e257, 1e258, 1e259, 1e260, 1e261, 1e262, 1e263, 1e264, 1e265, 1e266,
    1e267, 1e268, 1e269, 1e270, 1e271, 1e272, 1e273, 1e274, 1e275, 1e276, 1e277, 1e278, 1e279,
    1e280, 1e281, 1e282, 1e283, 1e284, 1e285, 1e286, 1e287, 1e288, 1e289, 1e290, 1e291, 1e292,
    1e293, 1e294, 1e295, 1e296, 1e297, 1e298, 1e299, 1e300, 1e301, 1e302, 1e303, 1e304, 1e305,
    1e306, 1e307, 1e308,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_f32(value: f32) -> String {
        let mut out = Vec::new();
        write_f32(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn text_f64(value: f64) -> String {
        let mut out = Vec::new();
        write_f64(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    /// The rule as the specification words it, with `%g` spelled out.
    fn by_the_rule(value: f64, digits: usize, reads_back: impl Fn(&str) -> bool) -> String {
        let general = |digits: usize| {
            let scientific = format!("{value:.*e}", digits - 1);
            let (mantissa, exponent) = scientific.split_once('e').unwrap();
            let exponent: i32 = exponent.parse().unwrap();
            let strip = |text: &str| {
                if text.contains('.') {
                    text.trim_end_matches('0').trim_end_matches('.').to_owned()
                } else {
                    text.to_owned()
                }
            };
            let places = i32::try_from(digits).unwrap() - 1 - exponent;
            if exponent < -4 || places < 0 {
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{}e{sign}{:02}", strip(mantissa), exponent.abs())
            } else {
                strip(&format!("{value:.*}", usize::try_from(places).unwrap()))
            }
        };
        let mut text = general(6);
        if !reads_back(&text) {
            text = general(digits);
        }
        if !text.contains(['.', 'e']) {
            text.push_str(".0");
        }
        text
    }

    fn rule_f32(value: f32) -> String {
        by_the_rule(f64::from(value), 9, |text| text.parse() == Ok(value))
    }

    fn rule_f64(value: f64) -> String {
        by_the_rule(value, 17, |text| text.parse() == Ok(value))
    }

    #[test]
    fn numbers_print_as_recorded() {
        for (value, float, double) in [
            (0.0, "0.0", "0.0"),
            (-0.0, "-0.0", "-0.0"),
            (1.0, "1.0", "1.0"),
            (0.1, "0.1", "0.1"),
            (2.5, "2.5", "2.5"),
            (1.0 / 3.0, "0.333333343", "0.33333333333333331"),
            (100_000.0, "100000.0", "100000.0"),
            (999_999.0, "999999.0", "999999.0"),
            (1e6, "1e+06", "1e+06"),
            (1_234_567.0, "1234567.0", "1234567.0"),
            (9e6, "9e+06", "9e+06"),
            (16_777_216.0, "16777216.0", "16777216.0"),
            (123_456_792.0, "123456792.0", "123456792.0"),
            (1e-4, "0.0001", "0.0001"),
            (1e-5, "1e-05", "1e-05"),
            (3e-5, "3e-05", "3e-05"),
            (555_557.5, "555557.5", "555557.5"),
            (1e10, "1e+10", "1e+10"),
            (f64::from(f32::MAX), "3.40282347e+38", "3.4028234663852886e+38"),
            (f64::from(f32::MIN_POSITIVE), "1.17549435e-38", "1.1754943508222875e-38"),
            (99_999.95, "99999.9531", "99999.949999999997"),
            (-123.456, "-123.456", "-123.456"),
            (f64::NAN, "NaN", "NaN"),
            (f64::INFINITY, "Infinity", "Infinity"),
            (f64::NEG_INFINITY, "-Infinity", "-Infinity"),
        ] {
            #[allow(clippy::cast_possible_truncation)]
            let narrow = value as f32;
            assert_eq!(text_f32(narrow), float, "{value}");
            assert_eq!(text_f64(value), double, "{value}");
        }
        assert_eq!(text_f32(1e-45), "0.0");
        assert_eq!(text_f64(5e-324), "0.0");
        assert_eq!(text_f64(f64::MAX), "1.7976931348623157e+308");
        assert_eq!(text_f64(1e-300), "1e-300");
    }

    #[test]
    fn every_power_of_ten_and_its_neighbours_follow_the_rule() {
        for power in -37..=38 {
            let value: f32 = format!("1e{power}").parse().unwrap();
            for bits in value.to_bits() - 3..=value.to_bits() + 3 {
                let value = f32::from_bits(bits);
                assert_eq!(text_f32(value), rule_f32(value));
            }
        }
        for power in -307..=308 {
            let value: f64 = format!("1e{power}").parse().unwrap();
            for bits in value.to_bits() - 3..=value.to_bits() + 3 {
                let value = f64::from_bits(bits);
                assert_eq!(text_f64(value), rule_f64(value));
            }
        }
    }

    #[test]
    fn floats_all_over_the_range_follow_the_rule() {
        // A step that is odd and large meets every exponent with changing low bits.
        for bits in (0..=u32::MAX).step_by(20_011) {
            let value = f32::from_bits(bits);
            if value.is_normal() {
                assert_eq!(text_f32(value), rule_f32(value), "{bits:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_float_follows_the_rule_and_reads_back(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_normal());
            prop_assert_eq!(text_f32(value), rule_f32(value));
            prop_assert_eq!(text_f32(value).parse(), Ok(value));
        }

        #[test]
        fn a_double_follows_the_rule_and_reads_back(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_normal());
            prop_assert_eq!(text_f64(value), rule_f64(value));
            prop_assert_eq!(text_f64(value).parse(), Ok(value));
        }

        #[test]
        fn a_number_people_write_follows_the_rule(digits in -99_999_999i32..99_999_999, places in 0i32..12) {
            let value = f64::from(digits) / 10f64.powi(places);
            prop_assume!(value.is_normal());
            prop_assert_eq!(text_f64(value), rule_f64(value));
            #[allow(clippy::cast_possible_truncation)]
            let value = value as f32;
            prop_assert_eq!(text_f32(value), rule_f32(value));
        }
    }
}
