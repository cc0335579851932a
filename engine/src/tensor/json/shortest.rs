//! Doubles as they appear in messages: few digits that read back to the same value.
//!
//! This is Grisu2 with the rounding of the server that we replace, which gives up rounding after
//! nine digits of the fraction, so that its last digit may be one that is not the nearest.

use std::io::Write;

/// A binary number without a sign: `f` × 2^`e`.
#[derive(Clone, Copy)]
struct Binary {
    f: u64,
    e: i32,
}

impl Binary {
    fn normalized(self) -> Self {
        let shift = self.f.leading_zeros();
        Self { f: self.f << shift, e: self.e - signed(shift) }
    }

    fn times(self, other: Self) -> Self {
        let product = u128::from(self.f) * u128::from(other.f) + (1 << 63);
        let f = u64::try_from(product >> 64).unwrap_or(u64::MAX);
        Self { f, e: self.e + other.e + 64 }
    }
}

/// Write a finite double; with a point or an exponent, plain between 10⁻⁶ and 10²¹.
pub fn write(out: &mut Vec<u8>, value: f64) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value == 0.0 {
        return out.extend_from_slice(b"0.0");
    }
    let (digits, power) = digits(value.abs());
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let point = count + power;
    let at = usize::try_from(point).unwrap_or_default();
    if power >= 0 && point <= 21 {
        out.extend_from_slice(&digits);
        out.resize(out.len() + power.unsigned_abs() as usize, b'0');
        out.extend_from_slice(b".0");
    } else if point > 0 && point <= 21 {
        out.extend_from_slice(&digits[..at]);
        out.push(b'.');
        out.extend_from_slice(&digits[at..]);
    } else if point > -6 && point <= 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + point.unsigned_abs() as usize, b'0');
        out.extend_from_slice(&digits);
    } else {
        out.push(digits[0]);
        if count > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        let _ = write!(out, "e{}", point - 1);
    }
}

/// Digits of a positive double, and the power of ten of the last one.
fn digits(value: f64) -> (Vec<u8>, i32) {
    const HIDDEN: u64 = 1 << 52;
    let bits = value.to_bits();
    let biased = i32::try_from(bits >> 52).unwrap_or_default();
    let fraction = bits & (HIDDEN - 1);
    let exact = if biased == 0 {
        Binary { f: fraction, e: -1074 }
    } else {
        Binary { f: fraction | HIDDEN, e: biased - 1075 }
    };
    let high = Binary { f: (exact.f << 1) + 1, e: exact.e - 1 }.normalized();
    let mut low = if exact.f == HIDDEN {
        Binary { f: (exact.f << 2) - 1, e: exact.e - 2 }
    } else {
        Binary { f: (exact.f << 1) - 1, e: exact.e - 1 }
    };
    low = Binary { f: low.f << (low.e - high.e), e: high.e };

    let (power, factor) = cached_power(high.e);
    let middle = exact.normalized().times(factor);
    let high = high.times(factor);
    let low = low.times(factor);
    let (high_f, low_f) = (high.f - 1, low.f + 1);
    generate(middle.f, Binary { f: high_f, e: high.e }, high_f - low_f, power)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // truncation is what finds the next power
fn cached_power(e: i32) -> (i32, Binary) {
    let wanted = f64::from(-61 - e) * std::f64::consts::LOG10_2 + 347.0;
    let index = (wanted.ceil() as usize >> 3) + 1;
    let (f, e) = POWERS[index];
    (348 - 8 * i32::try_from(index).unwrap_or_default(), Binary { f, e: i32::from(e) })
}

fn generate(middle: u64, high: Binary, mut delta: u64, power: i32) -> (Vec<u8>, i32) {
    let shift = high.e.unsigned_abs();
    let one = 1u64 << shift;
    let distance = high.f - middle;
    let mut whole = high.f >> shift;
    let mut rest = high.f & (one - 1);
    let mut digits = Vec::with_capacity(20);
    let push = |digits: &mut Vec<u8>, digit: u64| {
        if digit != 0 || !digits.is_empty() {
            digits.push(b'0' + u8::try_from(digit).unwrap_or_default());
        }
    };
    let mut places = whole.checked_ilog10().unwrap_or_default().min(8) + 1;
    while places > 0 {
        places -= 1;
        let unit = 10u64.pow(places);
        push(&mut digits, whole / unit);
        whole %= unit;
        let left = (whole << shift) + rest;
        if left <= delta {
            round(&mut digits, delta, left, unit << shift, distance);
            return (digits, power + signed(places));
        }
    }
    let mut fraction = 0;
    loop {
        rest *= 10;
        delta = delta.wrapping_mul(10);
        push(&mut digits, rest >> shift);
        rest &= one - 1;
        fraction += 1;
        if rest < delta {
            let distance = if fraction < 9 { distance * 10u64.pow(fraction) } else { 0 };
            round(&mut digits, delta, rest, one, distance);
            return (digits, power - signed(fraction));
        }
    }
}

fn signed(small: u32) -> i32 {
    i32::try_from(small).unwrap_or(i32::MAX)
}

/// Lower the last digit while that comes nearer to the value.
fn round(digits: &mut [u8], delta: u64, mut rest: u64, unit: u64, distance: u64) {
    while rest < distance
        && delta - rest >= unit
        && (rest + unit < distance || distance - rest > rest + unit - distance)
    {
        if let Some(last) = digits.last_mut() {
            *last -= 1;
        }
        rest += unit;
    }
}

/// Powers of ten from 10⁻³⁴⁸ on in steps of 10⁸: 64 bits, and their power of two.
#[rustfmt::skip]
#[allow(clippy::unreadable_literal)] // nobody reads them
static POWERS: [(u64, i16); 87] = [
    (0xfa8fd5a0081c0288, -1220), (0xbaaee17fa23ebf76, -1193), (0x8b16fb203055ac76, -1166),
    (0xcf42894a5dce35ea, -1140), (0x9a6bb0aa55653b2d, -1113), (0xe61acf033d1a45df, -1087),
    (0xab70fe17c79ac6ca, -1060), (0xff77b1fcbebcdc4f, -1034), (0xbe5691ef416bd60c, -1007),
    (0x8dd01fad907ffc3c, -980), (0xd3515c2831559a83, -954), (0x9d71ac8fada6c9b5, -927),
    (0xea9c227723ee8bcb, -901), (0xaecc49914078536d, -874), (0x823c12795db6ce57, -847),
    (0xc21094364dfb5637, -821), (0x9096ea6f3848984f, -794), (0xd77485cb25823ac7, -768),
    (0xa086cfcd97bf97f4, -741), (0xef340a98172aace5, -715), (0xb23867fb2a35b28e, -688),
    (0x84c8d4dfd2c63f3b, -661), (0xc5dd44271ad3cdba, -635), (0x936b9fcebb25c996, -608),
    (0xdbac6c247d62a584, -582), (0xa3ab66580d5fdaf6, -555), (0xf3e2f893dec3f126, -529),
    (0xb5b5ada8aaff80b8, -502), (0x87625f056c7c4a8b, -475), (0xc9bcff6034c13053, -449),
    (0x964e858c91ba2655, -422), (0xdff9772470297ebd, -396), (0xa6dfbd9fb8e5b88f, -369),
    (0xf8a95fcf88747d94, -343), (0xb94470938fa89bcf, -316), (0x8a08f0f8bf0f156b, -289),
    (0xcdb02555653131b6, -263), (0x993fe2c6d07b7fac, -236), (0xe45c10c42a2b3b06, -210),
    (0xaa242499697392d3, -183), (0xfd87b5f28300ca0e, -157), (0xbce5086492111aeb, -130),
    (0x8cbccc096f5088cc, -103), (0xd1b71758e219652c, -77), (0x9c40000000000000, -50),
    (0xe8d4a51000000000, -24), (0xad78ebc5ac620000, 3), (0x813f3978f8940984, 30),
    (0xc097ce7bc90715b3, 56), (0x8f7e32ce7bea5c70, 83), (0xd5d238a4abe98068, 109),
    (0x9f4f2726179a2245, 136), (0xed63a231d4c4fb27, 162), (0xb0de65388cc8ada8, 189),
    (0x83c7088e1aab65db, 216), (0xc45d1df942711d9a, 242), (0x924d692ca61be758, 269),
    (0xda01ee641a708dea, 295), (0xa26da3999aef774a, 322), (0xf209787bb47d6b85, 348),
    (0xb454e4a179dd1877, 375), (0x865b86925b9bc5c2, 402), (0xc83553c5c8965d3d, 428),
    (0x952ab45cfa97a0b3, 455), (0xde469fbd99a05fe3, 481), (0xa59bc234db398c25, 508),
    (0xf6c69a72a3989f5c, 534), (0xb7dcbf5354e9bece, 561), (0x88fcf317f22241e2, 588),
    (0xcc20ce9bd35c78a5, 614), (0x98165af37b2153df, 641), (0xe2a0b5dc971f303a, 667),
    (0xa8d9d1535ce3b396, 694), (0xfb9b7cd9a4a7443c, 720), (0xbb764c4ca7a44410, 747),
    (0x8bab8eefb6409c1a, 774), (0xd01fef10a657842c, 800), (0x9b10a4e5e9913129, 827),
    (0xe7109bfba19c0c9d, 853), (0xac2820d9623bf429, 880), (0x80444b5e7aa7cf85, 907),
    (0xbf21e44003acdd2d, 933), (0x8e679c2f5e44ff8f, 960), (0xd433179d9c8cb841, 986),
    (0x9e19db92b4e31ba9, 1013), (0xeb96bf6ebadf77d9, 1039), (0xaf87023b9bf0ee6b, 1066),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: f64) -> String {
        let mut out = Vec::new();
        write(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_print_as_recorded() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.5, "1.5"),
            (-2.0, "-2.0"),
            (1000.0, "1000.0"),
            (18_446_744_073_709_551_616.0, "18446744073709553000.0"),
            (1e21, "1e21"),
            (1e20, "100000000000000000000.0"),
            (1.5e-7, "1.5e-7"),
            (0.000_001, "0.000001"),
            (0.1, "0.1"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e308"),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    proptest! {
        #[test]
        fn a_double_reads_back(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(text(value).parse(), Ok(value));
        }
    }
}
