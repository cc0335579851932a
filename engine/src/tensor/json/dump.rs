//! A value as it is shown in a message.
//!
//! Four spaces of indentation, arrays on one line, and an end, perhaps in the middle, once there
//! are enough bytes. A value that has no text, such as NaN, ends it too.

use std::io::Write;

use super::scan::{Cursor, Kind, Number};
use super::shortest;
use super::text::{unescape, write_string};

/// Once so much is written, nothing follows.
const ENOUGH: usize = 256;

/// The text of the value that begins at the cursor, in a document that has been checked.
pub fn dump(cursor: Cursor<'_>) -> String {
    let mut dump = Dump { cursor, out: Vec::with_capacity(ENOUGH + 32), open: Vec::new() };
    dump.run();
    String::from_utf8_lossy(&dump.out).into_owned()
}

struct Dump<'b> {
    cursor: Cursor<'b>,
    out: Vec<u8>,
    /// The containers that are open: true for an object.
    open: Vec<bool>,
}

impl Dump<'_> {
    /// Write until the value or the room ends; `None` says no more than that.
    fn run(&mut self) -> Option<()> {
        loop {
            match self.cursor.kind() {
                Kind::Object => {
                    self.cursor.eat(b'{');
                    self.write(b"{")?;
                    self.cursor.skip_space();
                    if !self.cursor.eat(b'}') {
                        self.open.push(true);
                        self.member()?;
                        continue;
                    }
                    self.write(b"}")?;
                }
                Kind::Array => {
                    self.cursor.eat(b'[');
                    self.write(b"[")?;
                    self.cursor.skip_space();
                    if !self.cursor.eat(b']') {
                        self.open.push(false);
                        continue;
                    }
                    self.write(b"]")?;
                }
                _ => self.scalar()?,
            }
            while let Some(&is_object) = self.open.last() {
                if self.cursor.eat_comma() {
                    if is_object {
                        self.out.push(b',');
                        self.member()?;
                    } else {
                        self.out.extend_from_slice(b", ");
                    }
                    break;
                }
                self.cursor.eat(if is_object { b'}' } else { b']' });
                self.open.pop();
                if is_object {
                    self.new_line();
                }
                self.write(if is_object { b"}" } else { b"]" })?;
            }
            if self.open.is_empty() {
                return None;
            }
        }
    }

    fn member(&mut self) -> Option<()> {
        self.new_line();
        let name = self.cursor.member().ok()?;
        write_string(&mut self.out, &unescape(&self.cursor.bytes()[name]));
        self.check()?;
        // The colon comes with the value, as a comma does.
        self.out.extend_from_slice(b": ");
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        let bytes = self.cursor.bytes();
        match self.cursor.kind() {
            Kind::Null => self.word(b"null"),
            Kind::True => self.word(b"true"),
            Kind::False => self.word(b"false"),
            Kind::String => {
                let text = self.cursor.string().ok()?;
                write_string(&mut self.out, &unescape(&bytes[text]));
                self.check()
            }
            _ => {
                match self.cursor.number().ok()? {
                    Number::Signed(value) => write!(self.out, "{value}").ok()?,
                    Number::Unsigned(value) => write!(self.out, "{value}").ok()?,
                    Number::Double(value) if value.is_finite() => {
                        shortest::write(&mut self.out, value);
                    }
                    Number::Double(_) => return None,
                }
                self.check()
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.cursor.literal(word).ok()?;
        self.write(word)
    }

    fn write(&mut self, text: &[u8]) -> Option<()> {
        self.out.extend_from_slice(text);
        self.check()
    }

    fn check(&self) -> Option<()> {
        (self.out.len() < ENOUGH).then_some(())
    }

    fn new_line(&mut self) {
        self.out.push(b'\n');
        self.out.resize(self.out.len() + 4 * self.open.len(), b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(document: &str) -> String {
        dump(Cursor::new(document.as_bytes()))
    }

    #[test]
    fn values_show_as_recorded() {
        for (document, expected) in [
            ("true", "true"),
            ("5", "5"),
            ("NaN", ""),
            (r#""x\u0041""#, r#""xA""#),
            ("1e3", "1000.0"),
            ("18446744073709551616", "18446744073709553000.0"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1e21", "1e21"),
            ("1.5e-7", "1.5e-7"),
            ("0.000001", "0.000001"),
            ("-0.0", "-0.0"),
            ("-0", "0"),
            ("{}", "{}"),
            ("[ ]", "[]"),
            ("[1,[2.0, 3]]", "[1, [2.0, 3]]"),
            (r#"{"a":1,"b":[{}]}"#, "{\n    \"a\": 1,\n    \"b\": [{}]\n}"),
            (r#"{"a":{"x":1.0}}"#, "{\n    \"a\": {\n        \"x\": 1.0\n    }\n}"),
            ("[1, NaN, 2]", "[1, "),
        ] {
            assert_eq!(text(document), expected, "{document}");
        }
    }

    #[test]
    fn a_long_value_ends_after_the_token_that_reaches_the_limit() {
        let long = format!("\"{}\"", "x".repeat(600));
        assert_eq!(text(&long), long);

        let list = text(&format!("[{}]", vec!["1.0"; 100].join(",")));
        assert_eq!(list.len(), 259);
        assert!(list.ends_with("1.0"));

        assert_eq!(text(&"[".repeat(100_000)).len(), 256);

        // With its indentation and quotation marks the name has 255 bytes.
        let name = "k".repeat(247);
        assert!(text(&format!("{{\"{name}\":[1]}}")).ends_with("k\": ["));
    }
}
