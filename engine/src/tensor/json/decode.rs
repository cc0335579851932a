//! JSON values become tensors.
//!
//! Elements go straight from the text into a buffer of their type, as long as the lists are regular
//! and every value fits. When something does not, [`explain`] goes over the value once more, slowly
//! and in the order in which the server that we replace looks at things, to name what is wrong.

use std::ops::Range;

use super::digits::common_double;
use super::dump::dump;
use super::scan::{Cursor, Kind, Number};
use super::text::{decode_base64, unescape, unescape_into};
use crate::status::{Result, Status};
use crate::tensor::{shape_text, Buffer, DType, Shape, Strings, StringsBuilder, Tensor};

/// The most dimensions the runtime knows.
const MAX_RANK: usize = 254;

/// The tensor of one value.
///
/// The document has been checked; the cursor moves behind the value.
///
/// # Errors
/// INVALID_ARGUMENT for a value that does not fit the type or is not regular; UNIMPLEMENTED for a
/// type that has no values in JSON.
pub fn decode(cursor: &mut Cursor<'_>, dtype: DType) -> Result<Tensor> {
    let mut elements = Elements::new(dtype)?;
    let shape = elements.read(cursor, MAX_RANK)?;
    Ok(elements.build(shape))
}

/// Read a value of numbers from a document that has not been checked: what is read this way is
/// well formed. `None` for anything unusual, with the cursor anywhere.
pub fn decode_unchecked(cursor: &mut Cursor<'_>, dtype: DType) -> Option<Tensor> {
    if dtype == DType::String {
        return None;
    }
    let mut elements = Elements::new(dtype).ok()?;
    let shape = elements.read_regular(cursor, MAX_RANK)?;
    Some(elements.build(shape))
}

/// Collects values of equal shape, one for each row of a tensor.
pub struct Rows {
    elements: Elements,
    /// Shape of a row, and how many elements it has.
    row: Option<(Shape, usize)>,
    count: i64,
}

impl Rows {
    /// # Errors
    /// UNIMPLEMENTED for a type without elements.
    pub fn new(dtype: DType) -> Result<Self> {
        Ok(Self { elements: Elements::new(dtype)?, row: None, count: 0 })
    }

    /// Add the value at the cursor, in a document that has been checked, and move behind it.
    ///
    /// # Errors
    /// As [`decode`], or when the value is not of the size and shape of the first.
    pub fn push(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let before = self.elements.len();
        let shape = self.elements.read(cursor, MAX_RANK - 1)?;
        let size = self.elements.len() - before;
        match &self.row {
            None => self.row = Some((shape, size)),
            Some((_, first)) if *first != size => {
                return Err(Status::invalid_argument(format!(
                    "Expecting tensor size: {first} but got: {size}"
                )));
            }
            Some((first, _)) if *first != shape => {
                return Err(Status::invalid_argument(format!(
                    "Expecting shape {} but got: {}",
                    shape_text(first),
                    shape_text(&shape),
                )));
            }
            Some(_) => {}
        }
        self.count += 1;
        Ok(())
    }

    pub fn build(self) -> Tensor {
        let row = self.row.map(|(shape, _)| shape).unwrap_or_default();
        let shape = std::iter::once(self.count).chain(row).collect();
        self.elements.build(shape)
    }
}

/// Elements of one type.
struct Elements {
    dtype: DType,
    values: Values,
}

enum Values {
    Float(Vec<f32>),
    Double(Vec<f64>),
    Int32(Vec<i32>),
    Int16(Vec<i16>),
    Int8(Vec<i8>),
    UInt8(Vec<u8>),
    Int64(Vec<i64>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Bool(Vec<Bool>),
    Strings(StringsBuilder),
    /// A type that has no values in JSON, only empty lists.
    None(Never),
}

impl Elements {
    fn new(dtype: DType) -> Result<Self> {
        let values = match dtype {
            DType::Float => Values::Float(Vec::new()),
            DType::Double => Values::Double(Vec::new()),
            DType::Int32 => Values::Int32(Vec::new()),
            DType::Int16 => Values::Int16(Vec::new()),
            DType::Int8 => Values::Int8(Vec::new()),
            DType::UInt8 => Values::UInt8(Vec::new()),
            DType::Int64 => Values::Int64(Vec::new()),
            DType::UInt32 => Values::UInt32(Vec::new()),
            DType::UInt64 => Values::UInt64(Vec::new()),
            DType::Bool => Values::Bool(Vec::new()),
            DType::String => Values::Strings(StringsBuilder::default()),
            DType::Resource | DType::Variant => {
                return Err(Status::unimplemented(format!(
                    "Conversion of JSON to type: {}",
                    dtype.short_name()
                )));
            }
            _ => Values::None(Never),
        };
        Ok(Self { dtype, values })
    }

    fn len(&self) -> usize {
        match &self.values {
            Values::Float(values) => values.len(),
            Values::Double(values) => values.len(),
            Values::Int32(values) => values.len(),
            Values::Int16(values) => values.len(),
            Values::Int8(values) => values.len(),
            Values::UInt8(values) => values.len(),
            Values::Int64(values) => values.len(),
            Values::UInt32(values) => values.len(),
            Values::UInt64(values) => values.len(),
            Values::Bool(values) => values.len(),
            Values::Strings(builder) => builder.len(),
            Values::None(_) => 0,
        }
    }

    fn read(&mut self, cursor: &mut Cursor<'_>, max_rank: usize) -> Result<Shape> {
        let start = *cursor;
        match self.read_regular(cursor, max_rank) {
            Some(shape) => Ok(shape),
            None => Err(explain(start, self.dtype, max_rank)),
        }
    }

    fn read_regular(&mut self, cursor: &mut Cursor<'_>, max_rank: usize) -> Option<Shape> {
        match &mut self.values {
            Values::Float(values) => regular(cursor, values, max_rank),
            Values::Double(values) => regular(cursor, values, max_rank),
            Values::Int32(values) => regular(cursor, values, max_rank),
            Values::Int16(values) => regular(cursor, values, max_rank),
            Values::Int8(values) => regular(cursor, values, max_rank),
            Values::UInt8(values) => regular(cursor, values, max_rank),
            Values::Int64(values) => regular(cursor, values, max_rank),
            Values::UInt32(values) => regular(cursor, values, max_rank),
            Values::UInt64(values) => regular(cursor, values, max_rank),
            Values::Bool(values) => regular(cursor, values, max_rank),
            Values::Strings(builder) => regular(cursor, builder, max_rank),
            Values::None(never) => regular(cursor, never, max_rank),
        }
    }

    fn build(self, shape: Shape) -> Tensor {
        let buffer = match self.values {
            Values::Float(values) => Buffer::adopt(values),
            Values::Double(values) => Buffer::adopt(values),
            Values::Int32(values) => Buffer::adopt(values),
            Values::Int16(values) => Buffer::adopt(values),
            Values::Int8(values) => Buffer::adopt(values),
            Values::UInt8(values) => Buffer::adopt(values),
            Values::Int64(values) => Buffer::adopt(values),
            Values::UInt32(values) => Buffer::adopt(values),
            Values::UInt64(values) => Buffer::adopt(values),
            Values::Bool(values) => {
                Buffer::copy_of(&values.iter().map(|value| u8::from(value.0)).collect::<Vec<_>>())
            }
            Values::Strings(builder) => {
                let strings: Strings = builder.build();
                return Tensor::strings(shape, strings);
            }
            Values::None(_) => Buffer::zeroed(0),
        };
        Tensor::dense(self.dtype, shape, buffer)
    }
}

/// Something that takes elements off a cursor.
trait Sink {
    /// Take the element at the cursor; false when it is none of this type.
    fn take(&mut self, cursor: &mut Cursor<'_>) -> bool;
}

/// A number or truth value with an element type.
trait Element: Sized {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self>;
}

impl<T: Element> Sink for Vec<T> {
    #[inline]
    fn take(&mut self, cursor: &mut Cursor<'_>) -> bool {
        let Some(element) = T::read(cursor) else { return false };
        self.push(element);
        true
    }
}

impl Element for f32 {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // overflow is infinity and underflow zero
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let value = f64::read(cursor)? as f32;
        Some(if value.is_subnormal() { 0.0f32.copysign(value) } else { value })
    }
}

impl Element for f64 {
    #[inline]
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        if let Some((value, length)) = common_double(cursor.rest()) {
            cursor.go_to(cursor.at() + length);
            return Some(value);
        }
        let (value, behind) = any_double(*cursor)?;
        cursor.go_to(behind);
        Some(value)
    }
}

/// A double and where it ends. Out of line, with a cursor of its own, so that the caller's stays
/// in registers.
#[cold]
#[inline(never)]
#[allow(clippy::cast_precision_loss)]
fn any_double(mut cursor: Cursor<'_>) -> Option<(f64, usize)> {
    let value = match cursor.number().ok()? {
        Number::Signed(value) => value as f64,
        Number::Unsigned(value) => value as f64,
        Number::Double(value) => value,
    };
    // Denormals count as zero on the way in, as they do on the way out.
    let value = if value.is_subnormal() { 0.0f64.copysign(value) } else { value };
    Some((value, cursor.at()))
}

impl Element for i64 {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        match cursor.number().ok()? {
            Number::Signed(value) => Some(value),
            _ => None,
        }
    }
}

impl Element for u64 {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        match cursor.number().ok()? {
            Number::Signed(value) => u64::try_from(value).ok(),
            Number::Unsigned(value) => Some(value),
            Number::Double(_) => None,
        }
    }
}

impl Element for i32 {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        i32::try_from(i64::read(cursor)?).ok()
    }
}

impl Element for u32 {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        u32::try_from(i64::read(cursor)?).ok()
    }
}

macro_rules! wrapping {
    ($($t:ty),*) => { $(
        impl Element for $t {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it wraps
            fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
                i32::read(cursor).map(|value| value as $t)
            }
        }
    )* };
}
wrapping!(i16, i8, u8);

struct Bool(bool);

impl Element for Bool {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        match cursor.peek() {
            b't' => cursor.literal(b"true").ok().map(|()| Bool(true)),
            b'f' => cursor.literal(b"false").ok().map(|()| Bool(false)),
            _ => None,
        }
    }
}

impl Sink for StringsBuilder {
    fn take(&mut self, cursor: &mut Cursor<'_>) -> bool {
        let start = self.bytes_mut().len();
        let is_string = read_bytes(cursor, self.bytes_mut());
        if is_string {
            self.end_from(start);
        }
        is_string
    }
}

/// The type of which there are no values.
struct Never;

impl Sink for Never {
    fn take(&mut self, _: &mut Cursor<'_>) -> bool {
        false
    }
}

/// Write the bytes that the string or base64 object at the cursor means; false for anything else.
pub fn read_bytes(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> bool {
    match cursor.kind() {
        Kind::String => {
            let Ok(text) = cursor.string() else { return false };
            unescape_into(out, &cursor.bytes()[text]);
            true
        }
        Kind::Object => {
            let Some(text) = base64_object(cursor) else { return false };
            decode_base64(out, &unescape(&cursor.bytes()[text]))
        }
        _ => false,
    }
}

/// Where the text of the base64 object at the cursor stands; the cursor moves behind the object.
/// `None`, and the cursor stays, when it is something else.
pub fn base64_object(cursor: &mut Cursor<'_>) -> Option<Range<usize>> {
    let mut ahead = *cursor;
    if !ahead.eat(b'{') {
        return None;
    }
    ahead.skip_space();
    let name = ahead.member().ok()?;
    if *unescape(&ahead.bytes()[name]) != *b"b64" || ahead.kind() != Kind::String {
        return None;
    }
    let text = ahead.string().ok()?;
    ahead.skip_space();
    if !ahead.eat(b'}') {
        return None;
    }
    *cursor = ahead;
    Some(text)
}

/// Read nested lists, all of the same size at the same level, of elements that the sink takes.
/// What is read is well formed, even when the document has not been checked.
fn regular<S: Sink>(cursor: &mut Cursor<'_>, sink: &mut S, max_rank: usize) -> Option<Shape> {
    const UNKNOWN: i64 = -1;
    let mut shape: Shape = Vec::new();
    let mut counts: Vec<i64> = Vec::new();
    let mut depth = 0;
    let mut rank = None;
    loop {
        let mut is_closed = false;
        if cursor.eat(b'[') {
            if rank == Some(depth) || depth == max_rank {
                return None;
            }
            if rank.is_none() {
                shape.push(UNKNOWN);
                counts.push(0);
            }
            counts[depth] = 0;
            depth += 1;
            cursor.skip_space();
            if !cursor.eat(b']') {
                continue;
            }
            rank.get_or_insert(depth);
            is_closed = true;
        } else {
            if *rank.get_or_insert(depth) != depth || !sink.take(cursor) {
                return None;
            }
            let Some(level) = depth.checked_sub(1) else { return Some(shape) };
            let mut count = 1;
            let mut here = *cursor;
            while here.eat_comma() {
                if !sink.take(&mut here) {
                    return None;
                }
                count += 1;
            }
            *cursor = here;
            counts[level] = count;
        }
        // A list ends here, and perhaps the ones around it.
        loop {
            if !is_closed && !cursor.eat(b']') {
                return None;
            }
            is_closed = false;
            depth -= 1;
            if shape[depth] == UNKNOWN {
                shape[depth] = counts[depth];
            } else if shape[depth] != counts[depth] {
                return None;
            }
            if depth == 0 {
                return Some(shape);
            }
            counts[depth - 1] += 1;
            if cursor.eat_comma() {
                break;
            }
        }
    }
}

/// What is wrong with the value at the cursor, which [`regular`] did not take.
fn explain(start: Cursor<'_>, dtype: DType, max_rank: usize) -> Status {
    match find_fault(start, dtype, max_rank) {
        Err(status) => status,
        Ok(()) => Status::internal("The JSON value could not be converted."),
    }
}

fn find_fault(start: Cursor<'_>, dtype: DType, max_rank: usize) -> Result<()> {
    let rank = depth_of_first(start, max_rank + 1);
    if rank > max_rank {
        return Err(Status::invalid_argument(format!(
            "JSON Value is nested more than {max_rank} levels deep, and a tensor has at most \
             {MAX_RANK} dimensions"
        )));
    }
    let sizes = list_sizes(start, rank);
    // The first element at each level suggests the shape; its lists are the first to open.
    let shape: Shape = sizes.iter().take(rank).copied().map(i64::from).collect();
    let mut element = Elements::new(dtype)?;
    let mut sizes = sizes.into_iter();
    let mut cursor = start;
    let mut level = 0;
    loop {
        if cursor.kind() == Kind::Array {
            if level >= rank {
                return Err(Status::invalid_argument(format!(
                    "Encountered list at unexpected level: {level} expected < {rank}"
                )));
            }
            let size = sizes.next().map_or(0, i64::from);
            if size != shape[level] {
                return Err(Status::invalid_argument(format!(
                    "Encountered list at unexpected size: {size} at level: {level} expected \
                     size: {}",
                    shape[level]
                )));
            }
            cursor.eat(b'[');
            cursor.skip_space();
            level += 1;
            if size > 0 {
                continue;
            }
        } else {
            if level != rank {
                return Err(Status::invalid_argument(format!(
                    "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at \
                     level: {rank}",
                    dump(cursor),
                    level + 1,
                )));
            }
            let value = cursor;
            if element.read_regular(&mut cursor, 0).is_none() {
                return Err(misfit(value, dtype));
            }
        }
        while level > 0 && !cursor.eat_comma() {
            cursor.eat(b']');
            level -= 1;
        }
        if level == 0 {
            return Ok(());
        }
    }
}

/// How many lists open at the start of the value, one in the other; `most` at most.
fn depth_of_first(mut cursor: Cursor<'_>, most: usize) -> usize {
    let mut depth = 0;
    while depth < most && cursor.eat(b'[') {
        cursor.skip_space();
        depth += 1;
    }
    depth
}

/// The sizes of the lists in the value, in the order in which they open; those below `rank` levels
/// are elements like others.
fn list_sizes(start: Cursor<'_>, rank: usize) -> Vec<u32> {
    let mut sizes: Vec<u32> = Vec::new();
    let mut open = Vec::with_capacity(rank);
    let mut cursor = start;
    loop {
        if open.len() < rank && cursor.eat(b'[') {
            open.push(sizes.len());
            sizes.push(0);
            cursor.skip_space();
            if cursor.peek() != b']' {
                continue;
            }
        } else {
            let _ = cursor.value();
            if let Some(&list) = open.last() {
                sizes[list] += 1;
            }
        }
        while !open.is_empty() && !cursor.eat_comma() {
            cursor.eat(b']');
            open.pop();
            if let Some(&list) = open.last() {
                sizes[list] += 1;
            }
        }
        if open.is_empty() {
            return sizes;
        }
    }
}

fn misfit(value: Cursor<'_>, dtype: DType) -> Status {
    let name = dtype.short_name();
    match Elements::new(dtype).map(|elements| elements.values) {
        Ok(Values::Strings(_)) if value.kind() == Kind::Object => {
            if base64_object(&mut value.clone()).is_some() {
                return Status::invalid_argument("Unable to base64 decode");
            }
            Status::invalid_argument(format!(
                "JSON Value: {} not formatted correctly for base64 data",
                dump(value)
            ))
        }
        Ok(Values::None(_)) => Status::unimplemented(format!(
            "Conversion of JSON Value: {} to type: {name}",
            dump(value)
        )),
        _ => Status::invalid_argument(format!(
            "JSON Value: {} Type: {} is not of expected type: {name}",
            dump(value),
            value.kind().name(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Plain;
    use proptest::prelude::*;

    fn column(text: &str, dtype: DType) -> Result<Tensor> {
        decode(&mut Cursor::new(text.as_bytes()), dtype)
    }

    fn fault(text: &str, dtype: DType) -> String {
        column(text, dtype).unwrap_err().to_string()
    }

    fn elements<T: Plain>(tensor: &Tensor) -> &[T] {
        tensor.buffer().unwrap().elements()
    }

    #[test]
    fn the_shape_is_that_of_the_nesting() {
        for (text, shape) in [
            ("1", &[][..]),
            ("[]", &[0]),
            ("[1, 2]", &[2]),
            ("[[1], [2], [3]]", &[3, 1]),
            ("[[[]]]", &[1, 1, 0]),
            ("[[], []]", &[2, 0]),
            (" [ [ 1 , 2 ] , [ 3 , 4 ] ] ", &[2, 2]),
        ] {
            assert_eq!(column(text, DType::Float).unwrap().shape(), shape, "{text}");
        }
    }

    #[test]
    fn numbers_become_elements_of_the_type_of_the_signature() {
        let text = "[1.5, -2, 3e10, 1e-50, 1e50, -1e-40, NaN]";
        let tensor = column(text, DType::Float).unwrap();
        let bits: Vec<u32> = elements::<f32>(&tensor).iter().map(|value| value.to_bits()).collect();
        let expected = [1.5f32, -2.0, 3e10, 0.0, f32::INFINITY, -0.0, f32::NAN].map(f32::to_bits);
        assert_eq!(bits, expected);

        let tensor = column("[1e300, 1e-320, 18446744073709551616]", DType::Double).unwrap();
        assert_eq!(elements::<f64>(&tensor), [1e300, 0.0, 18_446_744_073_709_551_616.0]);
        let tensor = column("[1, -128, 300]", DType::Int8).unwrap();
        assert_eq!(elements::<i8>(&tensor), [1, -128, 44]);
        let tensor = column("[1, -32768, 40000]", DType::Int16).unwrap();
        assert_eq!(elements::<i16>(&tensor), [1, -32768, -25536]);
        let tensor = column("[0, 4294967295]", DType::UInt32).unwrap();
        assert_eq!(elements::<u32>(&tensor), [0, u32::MAX]);
        let tensor = column("[0, 18446744073709551615]", DType::UInt64).unwrap();
        assert_eq!(elements::<u64>(&tensor), [0, u64::MAX]);
        let tensor = column("[true, false]", DType::Bool).unwrap();
        assert_eq!(elements::<u8>(&tensor), [1, 0]);
        assert_eq!(column("[[]]", DType::Half).unwrap().shape(), [1, 0]);
    }

    #[test]
    fn strings_are_text_or_base64() {
        let text = r#"["a\n", {"b64": "AP+A"}, { "b\u00364" : "" } ]"#;
        let tensor = column(text, DType::String).unwrap();

        let strings = tensor.as_strings().unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a\n"[..], b"\0\xFF\x80", b""]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        use DType::{Bool, Float, Half, Int32, Int64, String, UInt32, UInt64};
        let object = "{\n    \"b64\": \"YQ==\"\n}";
        let invalid = |text: &str| format!("INVALID_ARGUMENT: {text}");
        let misfit = |value: &str, kind: &str, dtype: &str| {
            invalid(&format!("JSON Value: {value} Type: {kind} is not of expected type: {dtype}"))
        };
        for (text, dtype, expected) in [
            (r#"["x"]"#, Float, misfit(r#""x""#, "String", "float")),
            ("null", Float, misfit("null", "Null", "float")),
            ("true", Int32, misfit("true", "True", "int32")),
            ("1.0", Int32, misfit("1.0", "Number", "int32")),
            ("1e3", Int64, misfit("1000.0", "Number", "int64")),
            ("2147483648", Int32, misfit("2147483648", "Number", "int32")),
            ("9223372036854775808", Int64, misfit("9223372036854775808", "Number", "int64")),
            ("-1", UInt32, misfit("-1", "Number", "uint32")),
            ("-1", UInt64, misfit("-1", "Number", "uint64")),
            ("NaN", Int64, misfit("", "Number", "int64")),
            ("1", Bool, misfit("1", "Number", "bool")),
            ("7", String, misfit("7", "Number", "string")),
            (r#"{"b64":"YQ=="}"#, Float, misfit(object, "Object", "float")),
            (r#"{"b64":"*"}"#, String, invalid("Unable to base64 decode")),
            ("{}", String, invalid("JSON Value: {} not formatted correctly for base64 data")),
            (
                "[[1.0, 2.0], [3.0]]",
                Float,
                invalid("Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
            ),
            (
                "[1.0, [2.0]]",
                Float,
                invalid("Encountered list at unexpected level: 1 expected < 1"),
            ),
            (
                "[[1.0], 2.0]",
                Float,
                invalid(
                    "JSON Value: 2.0 found at incorrect level: 2 in the JSON DOM. Expected at \
                     level: 2",
                ),
            ),
            // The list's size is looked at before its elements are.
            (
                r#"[[1, 2], ["x", 2, 3]]"#,
                Float,
                invalid("Encountered list at unexpected size: 3 at level: 1 expected size: 2"),
            ),
            ("1.0", Half, "UNIMPLEMENTED: Conversion of JSON Value: 1.0 to type: half".to_owned()),
        ] {
            assert_eq!(fault(text, dtype), expected, "{text}");
        }
    }

    #[test]
    fn a_tensor_has_at_most_254_dimensions() {
        let nested = |depth: usize| format!("{}0{}", "[".repeat(depth), "]".repeat(depth));

        assert_eq!(column(&nested(254), DType::Float).unwrap().shape(), [1; 254]);
        for depth in [255, 100_000] {
            let fault = fault(&nested(depth), DType::Float);
            assert!(fault.contains("nested more than 254 levels deep"), "{fault}");
        }
        let later = format!("[1, {}]", nested(100_000));
        let expected = "INVALID_ARGUMENT: Encountered list at unexpected level: 1 expected < 1";
        assert_eq!(fault(&later, DType::Float), expected);
    }

    #[test]
    fn rows_have_one_shape() {
        let mut rows = Rows::new(DType::Float).unwrap();
        let mut push = |text: &str| {
            rows.push(&mut Cursor::new(text.as_bytes())).map_err(|status| status.to_string())
        };
        assert_eq!(push("[1, 2]"), Ok(()));
        assert_eq!(push("[3, 4]"), Ok(()));
        let size = "INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1";
        assert_eq!(push("[1]"), Err(size.to_owned()));
        let shape = "INVALID_ARGUMENT: Expecting shape [2] but got: [2,1]";
        assert_eq!(push("[[1], [2]]"), Err(shape.to_owned()));
    }

    fn nested() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            8 => any::<i16>().prop_map(Into::into),
            1 => Just(serde_json::json!("x")),
            1 => Just(serde_json::json!({"a": [1]})),
        ];
        leaf.prop_recursive(4, 32, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(Into::into)
        })
    }

    proptest! {
        #[test]
        fn whatever_is_refused_is_explained(value in nested(), as_int: bool) {
            let dtype = if as_int { DType::Int32 } else { DType::String };
            if let Err(status) = column(&value.to_string(), dtype) {
                prop_assert_eq!(status.code, crate::status::Code::InvalidArgument);
            }
        }

        #[test]
        fn whatever_is_taken_has_no_fault(value in nested()) {
            let text = value.to_string();
            let taken = column(&text, DType::Int32).is_ok();
            let fault = find_fault(Cursor::new(text.as_bytes()), DType::Int32, MAX_RANK);
            prop_assert_eq!(taken, fault.is_ok());
        }

        #[test]
        fn unchecked_text_is_read_only_when_it_is_well_formed(text in "[\\[\\], 0-9.eE-]{0,24}") {
            let mut cursor = Cursor::new(text.as_bytes());
            if decode_unchecked(&mut cursor, DType::Float).is_some() {
                let mut again = Cursor::new(text.as_bytes());
                prop_assert_eq!(again.value(), Ok(()));
                prop_assert_eq!(again.at(), cursor.at());
            }
        }
    }
}
