//! The grammar of JSON, as the server that we replace reads it.
//!
//! A [`Cursor`] steps over a document without building anything: it says where a value ends, or
//! what is wrong and at which byte. It is iterative, so nesting costs bits and not stack. Beyond
//! the standard it takes `NaN`, `Inf` and `Infinity` with an optional sign, a byte order mark, and
//! any bytes in strings from the space up; it stops after the first value (specification 2.6).

use std::fmt;
use std::ops::Range;

use super::digits::non_digits;
use crate::tensor::number::POWERS;

/// What may be wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    DocumentEmpty,
    ValueInvalid,
    ObjectMissName,
    ObjectMissColon,
    ObjectMissCommaOrCurlyBracket,
    ArrayMissCommaOrSquareBracket,
    StringUnicodeEscapeInvalidHex,
    StringUnicodeSurrogateInvalid,
    StringEscapeInvalid,
    StringMissQuotationMark,
    NumberTooBig,
    NumberMissFraction,
    NumberMissExponent,
}

impl Reason {
    pub fn text(self) -> &'static str {
        match self {
            Reason::DocumentEmpty => "The document is empty.",
            Reason::ValueInvalid => "Invalid value.",
            Reason::ObjectMissName => "Missing a name for object member.",
            Reason::ObjectMissColon => "Missing a colon after a name of object member.",
            Reason::ObjectMissCommaOrCurlyBracket => {
                "Missing a comma or '}' after an object member."
            }
            Reason::ArrayMissCommaOrSquareBracket => {
                "Missing a comma or ']' after an array element."
            }
            Reason::StringUnicodeEscapeInvalidHex => {
                "Incorrect hex digit after \\u escape in string."
            }
            Reason::StringUnicodeSurrogateInvalid => "The surrogate pair in string is invalid.",
            Reason::StringEscapeInvalid => "Invalid escape character in string.",
            Reason::StringMissQuotationMark => "Missing a closing quotation mark in string.",
            Reason::NumberTooBig => "Number too big to be stored in double.",
            Reason::NumberMissFraction => "Miss fraction part in number.",
            Reason::NumberMissExponent => "Miss exponent in number.",
        }
    }
}

/// What is wrong, and the offset of the byte where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub reason: Reason,
    pub offset: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset: {}", self.reason.text(), self.offset)
    }
}

pub type Scan<T> = Result<T, SyntaxError>;

/// A number as it was written: integers keep their exact value, all else is a double.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Signed(i64),
    /// Above what a signed integer holds.
    Unsigned(u64),
    Double(f64),
}

/// Type of a value, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    False,
    True,
    Object,
    Array,
    String,
    Number,
}

impl Kind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "Null",
            Kind::False => "False",
            Kind::True => "True",
            Kind::Object => "Object",
            Kind::Array => "Array",
            Kind::String => "String",
            Kind::Number => "Number",
        }
    }
}

/// A place in a document. Past the end it reads NUL, which ends a document too.
#[derive(Clone, Copy)]
pub struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    /// At the first value of a document.
    pub fn new(bytes: &'b [u8]) -> Self {
        let mut cursor = Self { bytes, at: 0 };
        // Each byte of the mark is skipped on its own.
        for byte in [0xEF, 0xBB, 0xBF] {
            cursor.eat(byte);
        }
        cursor.skip_space();
        cursor
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    pub fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// What has not been stepped over.
    #[inline]
    pub fn rest(&self) -> &'b [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Step over `byte` if it is next.
    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    #[inline]
    pub fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// Step over a comma and the space around it; false when there is none.
    #[inline]
    pub fn eat_comma(&mut self) -> bool {
        if self.peek() != b',' {
            self.skip_space();
            if self.peek() != b',' {
                return false;
            }
        }
        self.at += 1;
        if self.peek() <= b' ' {
            self.skip_space();
        }
        true
    }

    /// Type of the value that begins here.
    pub fn kind(&self) -> Kind {
        match self.peek() {
            b'n' => Kind::Null,
            b'f' => Kind::False,
            b't' => Kind::True,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            _ => Kind::Number,
        }
    }

    fn error<T>(&self, reason: Reason) -> Scan<T> {
        Err(SyntaxError { reason, offset: self.at })
    }

    fn error_at<T>(reason: Reason, offset: usize) -> Scan<T> {
        Err(SyntaxError { reason, offset })
    }

    /// Step over the only value of a document.
    ///
    /// # Errors
    /// What is wrong with it; an empty document is an error of its own.
    pub fn document(&mut self) -> Scan<()> {
        if let b']' | b'}' | b',' | b':' | 0 = self.peek() {
            return self.error(Reason::DocumentEmpty);
        }
        self.value()
    }

    /// Step over the value that begins here, of any depth.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn value(&mut self) -> Scan<()> {
        let mut open = Brackets::default();
        loop {
            match self.peek() {
                b'{' => {
                    self.at += 1;
                    self.skip_space();
                    if !self.eat(b'}') {
                        self.member()?;
                        open.push(true);
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.skip_space();
                    if !self.eat(b']') {
                        open.push(false);
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value has ended; so do the containers that close here.
            loop {
                let Some(is_object) = open.last() else { return Ok(()) };
                self.skip_space();
                let next = self.peek();
                if next == b',' {
                    self.at += 1;
                    self.skip_space();
                    if is_object {
                        self.member()?;
                    }
                    break;
                }
                if is_object {
                    if next != b'}' {
                        return self.error(Reason::ObjectMissCommaOrCurlyBracket);
                    }
                } else if next != b']' {
                    return self.error(Reason::ArrayMissCommaOrSquareBracket);
                }
                self.at += 1;
                open.pop();
            }
        }
    }

    /// Step over a member's name, the colon and the space around it; gives where the name's text
    /// stands, without the quotation marks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn member(&mut self) -> Scan<Range<usize>> {
        if self.peek() != b'"' {
            return self.error(Reason::ObjectMissName);
        }
        let name = self.string()?;
        self.skip_space();
        if !self.eat(b':') {
            return self.error(Reason::ObjectMissColon);
        }
        self.skip_space();
        Ok(name)
    }

    /// Step over the end of an object.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn end_object(&mut self) -> Scan<()> {
        if self.eat(b'}') {
            return Ok(());
        }
        self.error(Reason::ObjectMissCommaOrCurlyBracket)
    }

    fn scalar(&mut self) -> Scan<()> {
        match self.peek() {
            b'"' => self.string().map(drop),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b']' | b'}' | b',' | b':' | 0 => self.error(Reason::ValueInvalid),
            _ => self.skip_number(),
        }
    }

    /// Step over a word.
    ///
    /// # Errors
    /// When it is another, at the first byte that differs.
    pub fn literal(&mut self, word: &[u8]) -> Scan<()> {
        for &byte in word {
            if !self.eat(byte) {
                return self.error(Reason::ValueInvalid);
            }
        }
        Ok(())
    }

    /// Step over a string; gives where its text stands, escapes and all, without the quotation
    /// marks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn string(&mut self) -> Scan<Range<usize>> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') => self.escape()?,
                None | Some(0) => return self.error(Reason::StringMissQuotationMark),
                Some(..=0x1F) => return self.error(Reason::StringEscapeInvalid),
                Some(_) => self.at += 1 + self.plain_after(),
            }
        }
    }

    /// How many of the bytes after this one are plain for certain, looking at eight at a time.
    #[inline]
    fn plain_after(&self) -> usize {
        const ONES: u64 = u64::MAX / 255;
        let mut at = self.at + 1;
        while let Some(Ok(chunk)) = self.bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
            let word = u64::from_le_bytes(chunk);
            // The high bit of each byte that is zero, or below the space; others may follow it.
            let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
            let special = zeros(word ^ (ONES * u64::from(b'"')))
                | zeros(word ^ (ONES * u64::from(b'\\')))
                | (word.wrapping_sub(ONES * 0x20) & !word);
            if special & (ONES * 0x80) != 0 {
                break;
            }
            at += 8;
        }
        at - self.at - 1
    }

    fn escape(&mut self) -> Scan<()> {
        let start = self.at;
        self.at += 1;
        let letter = self.peek();
        self.at += 1;
        match letter {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                if let 0xD800..=0xDBFF = self.hex4(start)? {
                    let is_pair = self.eat(b'\\')
                        && self.eat(b'u')
                        && matches!(self.hex4(start)?, 0xDC00..=0xDFFF);
                    if !is_pair {
                        return Self::error_at(Reason::StringUnicodeSurrogateInvalid, start);
                    }
                }
                Ok(())
            }
            _ => Self::error_at(Reason::StringEscapeInvalid, start),
        }
    }

    fn hex4(&mut self, escape: usize) -> Scan<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = char::from(self.peek()).to_digit(16) else {
                return Self::error_at(Reason::StringUnicodeEscapeInvalidHex, escape);
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    #[inline]
    fn eat_digits(&mut self) -> usize {
        let start = self.at;
        while let Some(chunk) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            let count = non_digits(chunk).trailing_zeros() as usize;
            self.at += count;
            if count < 16 {
                return self.at - start;
            }
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at - start
    }

    /// Step over a number without working out its value where it cannot be too big.
    #[inline]
    fn skip_number(&mut self) -> Scan<()> {
        let start = self.at;
        self.eat(b'-');
        let first = self.peek();
        let digits = self.eat_digits();
        let is_plain = digits > 0 && digits < 300 && (first != b'0' || digits == 1);
        if is_plain {
            if self.eat(b'.') && self.eat_digits() == 0 {
                return self.error(Reason::NumberMissFraction);
            }
            if !matches!(self.peek(), b'e' | b'E') {
                return Ok(());
            }
        }
        self.at = start;
        self.number().map(drop)
    }

    /// Read the number that begins here.
    ///
    /// The value is that of the server we replace: at most seventeen digits count, and the power
    /// of ten is applied in one or two rounded operations, so that the last bits of a double may
    /// differ from the nearest one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn number(&mut self) -> Scan<Number> {
        let start = self.at;
        let negative = self.eat(b'-');
        let whole = match self.peek() {
            b'0'..=b'9' => self.whole(start)?,
            b'N' | b'I' => {
                let value = self.not_finite(negative)?;
                if !matches!(self.peek(), b'.' | b'e' | b'E') {
                    return Ok(Number::Double(value));
                }
                // With a fraction or an exponent it counts as the digit zero.
                Whole::Small(0, 0)
            }
            _ => return self.error(Reason::ValueInvalid),
        };
        let fraction = self.eat(b'.');
        if fraction && !self.peek().is_ascii_digit() {
            return self.error(Reason::NumberMissFraction);
        }
        let (mut significand, mut power) = match whole {
            Whole::Small(small, _) if !fraction && !matches!(self.peek(), b'e' | b'E') => {
                return Ok(integer(small, negative));
            }
            Whole::Small(small, digits) if fraction => self.fraction(small, digits),
            Whole::Small(small, _) => (to_double(small), 0),
            Whole::Large(large, sign_digits) => {
                let (large, taken) =
                    if fraction { self.tail(large, sign_digits) } else { (large, 0) };
                (large, -taken)
            }
        };
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            power += self.exponent(start, power)?;
        }
        significand = scale_by_ten(significand, power);
        Ok(Number::Double(if negative { -significand } else { significand }))
    }

    /// Not a number, or infinity, whose name may begin where the other's breaks off.
    fn not_finite(&mut self, negative: bool) -> Scan<f64> {
        if [b'N', b'a', b'N'].into_iter().all(|letter| self.eat(letter)) {
            return Ok(f64::NAN);
        }
        self.literal(b"Inf")?;
        if self.peek() == b'i' {
            self.literal(b"inity")?;
        }
        Ok(if negative { f64::NEG_INFINITY } else { f64::INFINITY })
    }

    /// The digits before the point.
    fn whole(&mut self, start: usize) -> Scan<Whole> {
        let negative = self.bytes[start] == b'-';
        let limit = if negative { 1 << 63 } else { u64::MAX };
        if self.eat(b'0') {
            return Ok(Whole::Small(0, 0));
        }
        let mut small = 0u64;
        let mut digits = 0;
        while let Some(&digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            let digit = u64::from(digit - b'0');
            let larger = small.checked_mul(10).and_then(|tens| tens.checked_add(digit));
            match larger.filter(|&larger| larger <= limit) {
                Some(larger) => small = larger,
                None => return self.large(start, small, digits - 1),
            }
            digits += 1;
            self.at += 1;
        }
        // The first digit does not count.
        Ok(Whole::Small(small, digits - 1))
    }

    /// The rest of the digits of an integer that no integer type holds.
    fn large(&mut self, start: usize, small: u64, digits: u32) -> Scan<Whole> {
        let mut large = to_double(small);
        while let Some(&digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            if large >= f64::MAX / 10.0 {
                return Self::error_at(Reason::NumberTooBig, start);
            }
            large = large * 10.0 + f64::from(digit - b'0');
            self.at += 1;
        }
        Ok(Whole::Large(large, digits))
    }

    /// The digits after the point, added to the integer before it; and the power of ten that
    /// makes up for it.
    #[inline]
    fn fraction(&mut self, mut significand: u64, mut digits: u32) -> (f64, i32) {
        let mut power = 0;
        while let Some(&digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            if significand > MAX_EXACT {
                break;
            }
            significand = significand * 10 + u64::from(digit - b'0');
            power -= 1;
            digits += u32::from(significand != 0);
            self.at += 1;
        }
        let (significand, taken) = self.tail(to_double(significand), digits);
        (significand, power - taken)
    }

    /// Further digits after the point, up to the seventeenth; the others are passed over.
    #[inline]
    fn tail(&mut self, mut significand: f64, mut digits: u32) -> (f64, i32) {
        let mut taken = 0;
        while let Some(&digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            if digits < 17 {
                significand = significand * 10.0 + f64::from(digit - b'0');
                taken += 1;
                digits += u32::from(significand > 0.0);
            }
            self.at += 1;
        }
        (significand, taken)
    }

    fn exponent(&mut self, start: usize, power: i32) -> Scan<i32> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        if !self.peek().is_ascii_digit() {
            return self.error(Reason::NumberMissExponent);
        }
        let limit = i64::from(308 - power);
        let mut exponent = i64::from(self.peek() - b'0');
        self.at += 1;
        while let Some(&digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            exponent = (exponent * 10 + i64::from(digit - b'0')).min(1_000_000_000);
            // A single digit is not checked, and can make an infinity.
            if !negative && exponent > limit {
                return Self::error_at(Reason::NumberTooBig, start);
            }
            self.at += 1;
        }
        let exponent = i32::try_from(exponent).unwrap_or(i32::MAX);
        Ok(if negative { -exponent } else { exponent })
    }
}

/// The integer part of a number.
enum Whole {
    /// It, and its digits after the first.
    Small(u64, u32),
    /// The same, above what an integer type holds.
    Large(f64, u32),
}

/// Up to here every integer is a double.
pub(super) const MAX_EXACT: u64 = (1 << 53) - 1;

#[allow(clippy::cast_precision_loss)] // that is what reading it as a double means
pub(super) fn to_double(integer: u64) -> f64 {
    integer as f64
}

#[allow(clippy::cast_possible_wrap)] // 2⁶³ wraps to what its negation is
fn integer(magnitude: u64, negative: bool) -> Number {
    if negative {
        // At most 2⁶³, so the negation is exact.
        return Number::Signed((magnitude as i64).wrapping_neg());
    }
    i64::try_from(magnitude).map_or(Number::Unsigned(magnitude), Number::Signed)
}

fn scale_by_ten(significand: f64, power: i32) -> f64 {
    let apply = |value: f64, power: i32| {
        let Some(factor) = POWERS.get(power.unsigned_abs() as usize) else { return 0.0 };
        if power < 0 {
            value / factor
        } else {
            value * factor
        }
    };
    if power < -308 {
        apply(apply(significand, -308), power.saturating_add(308))
    } else {
        apply(significand, power)
    }
}

/// The containers that are open, one bit each: set for an object.
#[derive(Default)]
struct Brackets {
    full: Vec<u64>,
    word: u64,
    depth: usize,
}

impl Brackets {
    fn push(&mut self, is_object: bool) {
        if self.depth % 64 == 0 && self.depth > 0 {
            self.full.push(self.word);
        }
        self.word = self.word << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.word >>= 1;
        if self.depth % 64 == 0 && self.depth > 0 {
            self.word = self.full.pop().unwrap_or_default();
        }
    }

    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.word & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(document: &[u8]) -> String {
        match Cursor::new(document).document() {
            Ok(()) => "OK".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn documents_are_taken_or_refused_as_recorded() {
        let at = |text: &str, offset: usize| format!("{text} at offset: {offset}");
        let comma = "Missing a comma or '}' after an object member.";
        for (document, expected) in [
            (&b"{\"a\":1}garbage"[..], "OK".to_owned()),
            (b"{\"a\":01}", at(comma, 6)),
            (b"{\"a\":[1,]}", at("Invalid value.", 8)),
            (b"{\"a\":1,}", at("Missing a name for object member.", 7)),
            (b"instances = [1, 2]", at("Invalid value.", 0)),
            (b"[1,2]", "OK".to_owned()),
            (b"{\"a\":1e400}", at("Number too big to be stored in double.", 5)),
            (b"{\"a\":1e309}", at("Number too big to be stored in double.", 5)),
            (b"{\"a\":0e99999999999}", at("Number too big to be stored in double.", 5)),
            (b"{\"a\":1e-400}", "OK".to_owned()),
            (b"{\"a\":NaN}", "OK".to_owned()),
            (b"{\"a\":-NaN}", "OK".to_owned()),
            (b"{\"a\":-Inf}", "OK".to_owned()),
            (b"{\"a\":Infinity}", "OK".to_owned()),
            (b"{\"a\":Infinit}", at("Invalid value.", 12)),
            (b"{\"a\":nan}", at("Invalid value.", 6)),
            (b"{\"a\":+1}", at("Invalid value.", 5)),
            (b"{\"a\":.5}", at("Invalid value.", 5)),
            (b"{\"a\":- 1}", at("Invalid value.", 6)),
            (b"{\"a\":1.}", at("Miss fraction part in number.", 7)),
            (b"{\"a\":1e}", at("Miss exponent in number.", 7)),
            (b"{\"a\":0x10}", at(comma, 6)),
            (b"{\"a\":\"\\u12\"}", at("Incorrect hex digit after \\u escape in string.", 6)),
            (b"{\"a\":\"\\ud800\"}", at("The surrogate pair in string is invalid.", 6)),
            (b"{\"a\":\"\\ud800\\u0041\"}", at("The surrogate pair in string is invalid.", 6)),
            (b"{\"a\":\"\\udc00\"}", "OK".to_owned()),
            (b"{\"a\":\"\\x\"}", at("Invalid escape character in string.", 6)),
            (b"{\"a\":\"\x01\"}", at("Invalid escape character in string.", 6)),
            (b"{\"a\":\"12345678\x01\"}", at("Invalid escape character in string.", 14)),
            (b"{\"a\":\"\xFF\xFE\x7F\"}", "OK".to_owned()),
            (b"{\"a\":\"abc", at("Missing a closing quotation mark in string.", 9)),
            (b"{\"a\":\"a\0c\"", at("Missing a closing quotation mark in string.", 7)),
            (b"{'a':1}", at("Missing a name for object member.", 1)),
            (b"{a:1}", at("Missing a name for object member.", 1)),
            (b"{\"a\" 1}", at("Missing a colon after a name of object member.", 5)),
            (b"{\"a\":1 \"b\":2}", at(comma, 7)),
            (b"{\"a\":tru}", at("Invalid value.", 8)),
            (b"{\"a\":1", at(comma, 6)),
            (b"   ", at("The document is empty.", 3)),
            (b"]", at("The document is empty.", 0)),
            (b"\xEF\xBB\xBF{\"a\":1}", "OK".to_owned()),
            (b"\xEF\xBB\xBF{\"a\":1", at(comma, 9)),
            (b"{\"a\":[1 2]}", at("Missing a comma or ']' after an array element.", 8)),
            (b"{\"a\":[1}", at("Missing a comma or ']' after an array element.", 7)),
            (b"{\"a\":[", at("Invalid value.", 6)),
            (b"{\"a\":\x0C1}", at("Invalid value.", 5)),
            (b"// c\n{}", at("Invalid value.", 0)),
            (b"{\"a\":1}   {\"b\":2}", "OK".to_owned()),
            (b"{\"a\":\0", at("Invalid value.", 5)),
            (b" { \"a\" : [ { } , [ ] , null , true , false , -1.5E+3 ] } ", "OK".to_owned()),
        ] {
            assert_eq!(check(document), expected, "{:?}", String::from_utf8_lossy(document));
        }
    }

    #[test]
    fn numbers_keep_their_type_and_value() {
        use Number::{Double, Signed, Unsigned};
        for (text, expected) in [
            ("0", Signed(0)),
            ("-0", Signed(0)),
            ("-0.0", Double(-0.0)),
            ("-0e0", Double(-0.0)),
            ("9223372036854775807", Signed(i64::MAX)),
            ("9223372036854775808", Unsigned(1 << 63)),
            ("18446744073709551615", Unsigned(u64::MAX)),
            ("18446744073709551616", Double(18_446_744_073_709_551_616.0)),
            ("-9223372036854775808", Signed(i64::MIN)),
            ("-9223372036854775809", Double(-9_223_372_036_854_775_808.0)),
            ("1E5", Double(1e5)),
            ("1e0005", Double(1e5)),
            ("1e-0", Double(1.0)),
            ("1e-400", Double(0.0)),
            // One division by a rounded power of ten, not the nearest double.
            ("1e-45", Double(1.000_000_000_000_000_1e-45)),
            ("1.7976931348623157e308", Double(f64::MAX)),
            ("Infinity", Double(f64::INFINITY)),
            ("-Inf", Double(f64::NEG_INFINITY)),
            ("NInfinity", Double(f64::INFINITY)),
            ("InfE5", Double(0.0)),
            ("-NaN.5", Double(-0.5)),
            ("0.30000000000000004", Double(0.300_000_000_000_000_04)),
            // Added up digit by digit, with a rounding each.
            ("123456789012345678901234567890.5", Double(1.234_567_890_123_456_6e29)),
        ] {
            let number = Cursor::new(text.as_bytes()).number();

            assert_eq!(number.map(|number| format!("{number:?}")), Ok(format!("{expected:?}")));
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let depth = 500_000;
        let deep = [vec![b'['; depth], vec![b']'; depth]].concat();
        assert_eq!(check(&deep), "OK");
        let deep = [b"{\"a\":".repeat(depth), b"1".to_vec(), vec![b'}'; depth]].concat();
        assert_eq!(check(&deep), "OK");
        let mixed = [b"[{\"a\":".repeat(1000), b"1".to_vec(), b"}]".repeat(1000)].concat();
        assert_eq!(check(&mixed), "OK");
        let crossed = [b"[{\"a\":".repeat(100), b"1".to_vec(), b"]}".repeat(100)].concat();
        assert_eq!(
            check(&crossed),
            "Missing a comma or '}' after an object member. at offset: 601"
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_well_formed_document_ends_where_it_ends(value in json(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value)
            } else {
                serde_json::to_string(&value)
            }.unwrap();
            let mut cursor = Cursor::new(text.as_bytes());
            prop_assert_eq!(cursor.document(), Ok(()));
            prop_assert_eq!(cursor.at(), text.len());
        }

        #[test]
        fn a_document_cut_short_is_refused(value in json(), cut in 0.0..1.0) {
            let text = serde_json::to_string(&serde_json::json!([value])).unwrap();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let cut = (cut * text.len() as f64) as usize;
            prop_assert!(Cursor::new(&text.as_bytes()[..cut]).document().is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&b"{}[]:,\"\\ntfalseru0123456789.eE+-NIif \n"[..]),
                any::<u8>(),
            ], 0..64)) {
            let mut cursor = Cursor::new(&bytes);
            let taken = cursor.document();
            // What serde_json takes, this takes: it is the more lenient of the two.
            if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() {
                prop_assert_eq!(taken, Ok(()));
            }
            let at = taken.map_or_else(|error| error.offset, |()| cursor.at());
            prop_assert!(at <= bytes.len());
        }

        #[test]
        fn a_double_is_within_a_few_units_of_the_nearest(value: f64) {
            prop_assume!(value.is_normal());
            let text = format!("{value:e}");
            let Ok(Number::Double(read)) = Cursor::new(text.as_bytes()).number() else {
                return Ok(());
            };
            prop_assert!(read.to_bits().abs_diff(value.to_bits()) <= 3, "{} {}", read, value);
        }
    }
}
