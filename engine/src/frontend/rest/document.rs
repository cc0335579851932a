//! The JSON document of a request: checked once as a whole, its members found.

use crate::status::{Result, Status};
use crate::tensor::json::decode::decode_unchecked;
use crate::tensor::json::dump::dump;
use crate::tensor::json::scan::{Cursor, Kind, SyntaxError};
use crate::tensor::json::text::unescape;
use crate::tensor::{DType, Tensor};

/// A request's object: where the members that matter begin. Of several of the same name the first
/// one counts.
#[derive(Default)]
pub struct Document<'b> {
    body: &'b [u8],
    start: usize,
    signature_name: Option<usize>,
    instances: Option<usize>,
    inputs: Option<usize>,
    context: Option<usize>,
    examples: Option<usize>,
    output_filter: Option<usize>,
    tasks: Option<usize>,
    decoded: Option<Tensor>,
}

impl<'b> Document<'b> {
    /// Check the whole document.
    ///
    /// `guess` is asked for the type that the values of `instances` or `inputs` will have, should
    /// there be only one input; it is given the signature's name if that stood before them. With a
    /// guess they are read in the same pass that checks them, when that works out.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is not well formed or not an object.
    pub fn parse(body: &'b [u8], guess: impl Fn(Option<&str>) -> Option<DType>) -> Result<Self> {
        if body.is_empty() {
            return Err(Status::invalid_argument("JSON Parse error: The document is empty"));
        }
        let mut cursor = Cursor::new(body);
        let mut document = Self { body, start: cursor.at(), ..Self::default() };
        let is_object = cursor.kind() == Kind::Object;
        let scanned = if is_object { document.scan(&mut cursor, guess) } else { cursor.document() };
        if let Err(error) = scanned {
            return Err(Status::invalid_argument(format!("JSON Parse error: {error}")));
        }
        if !is_object {
            return Err(document.refuse("Is not object"));
        }
        Ok(document)
    }

    fn scan(
        &mut self,
        cursor: &mut Cursor<'b>,
        guess: impl Fn(Option<&str>) -> Option<DType>,
    ) -> std::result::Result<(), SyntaxError> {
        cursor.eat(b'{');
        cursor.skip_space();
        if cursor.eat(b'}') {
            return Ok(());
        }
        loop {
            let name = unescape(&self.body[cursor.member()?]);
            let at = cursor.at();
            let is_values = matches!(&*name, b"instances" | b"inputs");
            let member = match &*name {
                b"signature_name" => Some(&mut self.signature_name),
                b"instances" => Some(&mut self.instances),
                b"inputs" => Some(&mut self.inputs),
                b"context" => Some(&mut self.context),
                b"examples" => Some(&mut self.examples),
                b"output_filter" => Some(&mut self.output_filter),
                b"tasks" => Some(&mut self.tasks),
                _ => None,
            };
            let is_first = member.as_ref().is_some_and(|member| member.is_none());
            if let Some(member) = member {
                member.get_or_insert(at);
            }
            if is_first && is_values && cursor.peek() == b'[' {
                let name = self.signature_name().ok().flatten();
                let dtype = guess(name.as_deref());
                self.decoded = dtype.and_then(|dtype| decode_unchecked(cursor, dtype));
            }
            if cursor.at() == at || self.decoded.is_none() {
                cursor.go_to(at);
                cursor.value()?;
            }
            if !cursor.eat_comma() {
                break;
            }
        }
        cursor.end_object()
    }

    fn at(&self, member: Option<usize>) -> Option<Cursor<'b>> {
        let mut cursor = Cursor::new(self.body);
        cursor.go_to(member?);
        Some(cursor)
    }

    /// The name of the signature, if there is one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is not a string.
    pub fn signature_name(&self) -> Result<Option<String>> {
        let Some(mut cursor) = self.at(self.signature_name) else { return Ok(None) };
        if cursor.kind() == Kind::String {
            if let Ok(text) = cursor.string() {
                let name = unescape(&self.body[text]);
                return Ok(Some(String::from_utf8_lossy(&name).into_owned()));
            }
        }
        Err(self.refuse("not formatted correctly. 'signature_name' key must be a string value."))
    }

    pub fn instances(&self) -> Option<Cursor<'b>> {
        self.at(self.instances)
    }

    pub fn inputs(&self) -> Option<Cursor<'b>> {
        self.at(self.inputs)
    }

    pub fn context(&self) -> Option<Cursor<'b>> {
        self.at(self.context)
    }

    pub fn examples(&self) -> Option<Cursor<'b>> {
        self.at(self.examples)
    }

    /// The aliases of the outputs that are wanted; empty for all.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is not a list of strings.
    pub fn output_filter(&self) -> Result<Vec<String>> {
        self.read(self.output_filter, "output_filter", "a list of strings")
            .map(Option::unwrap_or_default)
    }

    /// The tasks of a request with several.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there are none, or they are not what `expected` says.
    pub fn tasks<T: serde::de::DeserializeOwned>(&self, expected: &str) -> Result<T> {
        self.read(self.tasks, "tasks", expected)?
            .ok_or_else(|| Status::invalid_argument(format!("'tasks' must be {expected}")))
    }

    fn read<T: serde::de::DeserializeOwned>(
        &self,
        member: Option<usize>,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>> {
        let Some(mut cursor) = self.at(member) else { return Ok(None) };
        let start = cursor.at();
        let end = cursor.value().map(|()| cursor.at());
        let value = end.ok().and_then(|end| serde_json::from_slice(&self.body[start..end]).ok());
        match value {
            Some(value) => Ok(Some(value)),
            None => Err(Status::invalid_argument(format!("'{name}' must be {expected}"))),
        }
    }

    /// The values of `instances` or `inputs`, if they were read along with the check.
    pub fn take_decoded(&mut self) -> Option<Tensor> {
        self.decoded.take()
    }

    /// The error that shows the document and says what is wrong with it.
    pub fn refuse(&self, what: &str) -> Status {
        let mut cursor = Cursor::new(self.body);
        cursor.go_to(self.start);
        Status::invalid_argument(format!("JSON Value: {} {what}", dump(cursor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(body: &str) -> std::result::Result<Document<'_>, String> {
        let guess = |_: Option<&str>| Some(DType::Float);
        Document::parse(body.as_bytes(), guess).map_err(|status| status.message.into_owned())
    }

    #[test]
    fn the_first_member_of_a_name_counts() {
        let body = r#"{"inputs":1,"signature_name":"a","signature_name":5,"\u0069nputs":2}"#;
        let document = parse(body).unwrap();

        assert_eq!(document.inputs().unwrap().peek(), b'1');
        assert_eq!(document.signature_name().unwrap().as_deref(), Some("a"));
        assert!(document.instances().is_none());
    }

    #[test]
    fn documents_that_are_no_objects_are_refused() {
        for (body, expected) in [
            ("", "JSON Parse error: The document is empty"),
            ("   ", "JSON Parse error: The document is empty. at offset: 3"),
            ("5", "JSON Value: 5 Is not object"),
            ("NaN", "JSON Value:  Is not object"),
            (
                "[1, 2",
                "JSON Parse error: Missing a comma or ']' after an array element. at offset: 5",
            ),
            ("{\"instances\":[1.0,,2.0]}", "JSON Parse error: Invalid value. at offset: 18"),
            ("{,}", "JSON Parse error: Missing a name for object member. at offset: 1"),
        ] {
            assert_eq!(parse(body).err().as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn regular_numbers_are_read_in_the_same_pass() {
        let mut document = parse(r#"{"instances": [[1, 2], [3, 4.5]], "x": 1} rest"#).unwrap();
        assert_eq!(document.take_decoded().unwrap().shape(), [2, 2]);

        assert!(parse(r#"{"instances": [[1], [2, 3]]}"#).unwrap().take_decoded().is_none());
    }

    proptest! {
        #[test]
        fn reading_along_changes_nothing_that_is_seen(text in "\\{\"in(puts|stances)\":[\\[\\]{}\"a:, 0-9.eE-]{0,24}\\}?") {
            let read = parse(&text).map(|document| document.instances().is_some());
            let plain = Document::parse(text.as_bytes(), |_| None)
                .map(|document| document.instances().is_some())
                .map_err(|status| status.message.into_owned());
            prop_assert_eq!(read, plain);
        }
    }
}
