//! NumPy's `.npy` files, one tensor each, to tensors and back.
//!
//! Little- and big-endian numbers, booleans, complex numbers, and strings of fixed width are read,
//! in C and in Fortran order; what is written is little-endian and in C order. `bfloat16` is two
//! bytes of no type, as `ml_dtypes` has it. Objects are never unpickled.

use super::proto::Limits;
use super::{
    num_elements, shape_text, Buffer, DType, Data, Shape, Strings, StringsBuilder, Tensor,
};
use crate::status::{Result, Status};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The length of the header, magic and all, is a multiple of this.
const ALIGNMENT: usize = 64;
/// Bytes that a string takes in the runtime beside its characters.
const STRING_SIZE: usize = 24;
/// Largest rank the runtime knows.
const MAX_RANK: usize = 254;

/// What the elements are: kind and bytes of one, as in a `descr`, and the type they become.
const KINDS: [(char, usize, DType); 15] = [
    ('f', 4, DType::Float),
    ('f', 8, DType::Double),
    ('f', 2, DType::Half),
    ('i', 1, DType::Int8),
    ('i', 2, DType::Int16),
    ('i', 4, DType::Int32),
    ('i', 8, DType::Int64),
    ('u', 1, DType::UInt8),
    ('u', 2, DType::UInt16),
    ('u', 4, DType::UInt32),
    ('u', 8, DType::UInt64),
    ('b', 1, DType::Bool),
    ('c', 8, DType::Complex64),
    ('c', 16, DType::Complex128),
    ('V', 2, DType::BFloat16),
];

/// What the header of a file says.
struct Header {
    kind: char,
    /// Bytes of one element.
    size: usize,
    is_big_endian: bool,
    is_fortran: bool,
    shape: Shape,
}

/// The tensor in a file.
///
/// # Errors
/// INVALID_ARGUMENT when it is none, or of a type that tensors do not have; RESOURCE_EXHAUSTED
/// beyond the limits.
pub fn decode(file: &[u8], limits: Limits) -> Result<Tensor> {
    let (header, data) = header(file)?;
    let elements = num_elements(&header.shape).filter(|_| header.shape.len() <= MAX_RANK);
    let elements = elements
        .ok_or_else(|| invalid(format!("shape {} makes no tensor", shape_text(&header.shape))))?;
    let promised = elements.checked_mul(header.size);
    if promised != Some(data.len()) {
        return Err(invalid(format!(
            "shape {} and {} bytes an element do not make the {} bytes that follow the header",
            shape_text(&header.shape),
            header.size,
            data.len()
        )));
    }
    let in_c_order;
    let data = if header.is_fortran && header.shape.len() > 1 && header.size > 0 {
        in_c_order = transposed(data, &header.shape, header.size);
        &in_c_order
    } else {
        data
    };
    if matches!(header.kind, 'S' | 'U') {
        if elements.saturating_mul(STRING_SIZE) > limits.max_bytes {
            return Err(Status::resource_exhausted(format!(
                "{elements} strings take more than the {} bytes that are accepted in one tensor \
                 of this request",
                limits.max_bytes
            )));
        }
        return strings(&header, data, elements);
    }
    let dtype = KINDS.iter().find(|row| (row.0, row.1) == (header.kind, header.size));
    let dtype = dtype.map(|row| row.2).ok_or_else(|| {
        invalid(format!(
            "elements of {} bytes of kind '{}' are not taken",
            header.size, header.kind
        ))
    })?;
    if dtype == DType::Bool && data.iter().any(|&byte| byte > 1) {
        return Err(invalid("a boolean is neither 0 nor 1".to_owned()));
    }
    let mut buffer = Buffer::copy_of(data);
    if header.is_big_endian {
        // A complex number is two numbers.
        let size = if header.kind == 'c' { header.size / 2 } else { header.size };
        buffer.as_mut_slice().chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    Ok(Tensor::dense(dtype, header.shape, buffer))
}

fn invalid(what: String) -> Status {
    Status::invalid_argument(format!("The body is no .npy file: {what}"))
}

/// The header, and what follows it.
fn header(file: &[u8]) -> Result<(Header, &[u8])> {
    let cut = || invalid("it ends in its header".to_owned());
    let rest = file.strip_prefix(MAGIC);
    let rest = rest.ok_or_else(|| invalid("it does not begin with \\x93NUMPY".to_owned()))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        version => return Err(invalid(format!("version {version} is not known"))),
    };
    let (text, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| invalid("its header is no text".into()))?;
    Ok((dictionary(text)?, data))
}

/// Read the literal of a dictionary that the header is.
fn dictionary(text: &str) -> Result<Header> {
    let unreadable = || invalid("its header is not the dictionary that NumPy writes".to_owned());
    let inside = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let mut rest = inside.ok_or_else(unreadable)?.trim_start();
    let (mut descr, mut order, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(unreadable)?;
        let after = after.trim_start().strip_prefix(':').ok_or_else(unreadable)?.trim_start();
        rest = match key {
            "descr" => {
                let (value, after) = quoted(after).ok_or_else(|| {
                    invalid("its elements have fields; one plain type is taken".to_owned())
                })?;
                descr = Some(value);
                after
            }
            "fortran_order" => {
                let (value, after) = match (after.strip_prefix("True"), after.strip_prefix("False"))
                {
                    (Some(after), _) => (true, after),
                    (_, Some(after)) => (false, after),
                    _ => return Err(unreadable()),
                };
                order = Some(value);
                after
            }
            "shape" => {
                let inside = after.strip_prefix('(').and_then(|after| after.split_once(')'));
                let (sizes, after) = inside.ok_or_else(unreadable)?;
                let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
                let sizes: Option<Shape> = sizes.map(|size| size.parse().ok()).collect();
                shape = Some(sizes.ok_or_else(unreadable)?);
                after
            }
            _ => return Err(unreadable()),
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    let (Some(descr), Some(is_fortran), Some(shape)) = (descr, order, shape) else {
        return Err(unreadable());
    };
    let untyped = || invalid(format!("its elements are {descr:?}, which is not taken"));
    let mut letters = descr.chars();
    let (Some(order), Some(kind)) = (letters.next(), letters.next()) else {
        return Err(untyped());
    };
    let size: usize = letters.as_str().parse().map_err(|_| untyped())?;
    // Characters of a 'U' are four bytes each.
    let size = if kind == 'U' { size.checked_mul(4).ok_or_else(untyped)? } else { size };
    let is_big_endian = match order {
        '<' | '|' | '=' => false,
        '>' => true,
        _ => return Err(untyped()),
    };
    Ok(Header { kind, size, is_big_endian, is_fortran, shape })
}

/// What stands in quotes at the beginning, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// Elements in Fortran order, in C order.
fn transposed(data: &[u8], shape: &[i64], size: usize) -> Vec<u8> {
    let sizes: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
    let mut strides = vec![size; sizes.len()];
    for axis in 1..sizes.len() {
        strides[axis] = strides[axis - 1].saturating_mul(sizes[axis - 1]);
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; sizes.len()];
    while out.len() < data.len() {
        let at: usize = index.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            if index[axis] < sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Strings of fixed width; what they are filled up with does not count.
fn strings(header: &Header, data: &[u8], elements: usize) -> Result<Tensor> {
    let mut strings = StringsBuilder::default();
    for at in 0..elements {
        let element = &data[at * header.size..(at + 1) * header.size];
        let start = strings.bytes_mut().len();
        if header.kind == 'S' {
            let end = element.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            strings.bytes_mut().extend_from_slice(&element[..end]);
        } else {
            let mut text = String::new();
            for unit in element.chunks_exact(4) {
                let unit = [unit[0], unit[1], unit[2], unit[3]];
                let code = if header.is_big_endian {
                    u32::from_be_bytes(unit)
                } else {
                    u32::from_le_bytes(unit)
                };
                let character = char::from_u32(code);
                text.push(character.ok_or_else(|| invalid("a string is no text".to_owned()))?);
            }
            strings.bytes_mut().extend_from_slice(text.trim_end_matches('\0').as_bytes());
        }
        strings.end_from(start);
    }
    Ok(Tensor::strings(header.shape.clone(), strings.build()))
}

/// The file that holds a tensor. Strings become bytes of one width.
///
/// # Errors
/// INVALID_ARGUMENT for a type that NumPy does not have, and for strings that end with a NUL,
/// which would be lost.
pub fn encode(tensor: &Tensor) -> Result<Vec<u8>> {
    let (descr, width) = match tensor.data() {
        Data::Strings(strings) => {
            let width = width(strings)?;
            (format!("|S{width}"), width)
        }
        Data::Dense(_) => {
            let dtype = tensor.dtype();
            let row = KINDS.iter().find(|row| row.2 == dtype).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "application/x-npy has no elements of type {}",
                    dtype.short_name()
                ))
            })?;
            let order = if row.1 == 1 { '|' } else { '<' };
            (format!("{order}{}{}", row.0, row.1), row.1)
        }
    };
    let sizes: String = tensor.shape().iter().map(|size| format!("{size}, ")).collect();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // A tuple of one keeps its comma, a longer one does not need it.
    if tensor.shape().len() > 1 || tensor.shape().is_empty() {
        header = header.replace(", )", ")");
    } else {
        header = header.replace(", )", ",)");
    }
    let before = MAGIC.len() + 4;
    let padded = (before + header.len() + 1).next_multiple_of(ALIGNMENT);
    header.push_str(&" ".repeat(padded - before - header.len() - 1));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| {
        Status::invalid_argument("application/x-npy has no place for so many dimensions")
    })?;
    let mut file = Vec::with_capacity(padded + tensor.num_elements() * width);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&[1, 0]);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    match tensor.data() {
        Data::Dense(buffer) => file.extend_from_slice(buffer.as_slice()),
        Data::Strings(strings) => {
            for element in strings.iter() {
                file.extend_from_slice(element);
                file.resize(file.len() + width - element.len(), 0);
            }
        }
    }
    Ok(file)
}

/// Most bytes that strings of one width may take: one long one makes all of them long.
const MAX_STRING_BYTES: usize = 1 << 30;

/// The width that all strings fit into.
fn width(strings: &Strings) -> Result<usize> {
    // NumPy has no strings of width zero that are worth the name.
    let mut width = 1;
    for element in strings.iter() {
        if element.last() == Some(&0) {
            return Err(Status::invalid_argument(
                "application/x-npy cannot hold a string that ends with a NUL",
            ));
        }
        width = width.max(element.len());
    }
    if strings.len().saturating_mul(width) > MAX_STRING_BYTES {
        return Err(Status::invalid_argument(
            "application/x-npy would make all strings as long as the longest, which is too much",
        ));
    }
    Ok(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;
    use proptest::prelude::*;

    fn file(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    fn read(file: &[u8]) -> Result<Tensor> {
        decode(file, Limits { max_bytes: 1 << 20 })
    }

    #[test]
    fn numbers_of_either_order_are_read() {
        let little = read(&file("'<i2'", "False", "(2, 2)", &[1, 0, 2, 0, 3, 0, 4, 0])).unwrap();
        assert_eq!(little.shape(), [2, 2]);
        assert_eq!(little.buffer().unwrap().elements::<i16>(), [1, 2, 3, 4]);

        let big = read(&file("'>i2'", "False", "(2,)", &[0, 1, 1, 0])).unwrap();
        assert_eq!(big.buffer().unwrap().elements::<i16>(), [1, 256]);

        let complex = read(&file("'>c8'", "False", "()", &[63, 128, 0, 0, 64, 0, 0, 0])).unwrap();
        assert_eq!(complex.dtype(), DType::Complex64);
        assert_eq!(complex.buffer().unwrap().elements::<f32>(), [1.0, 2.0]);
    }

    #[test]
    fn fortran_order_is_turned() {
        let tensor = read(&file("'|u1'", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6])).unwrap();

        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.buffer().unwrap().as_slice(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn strings_lose_what_they_are_filled_up_with() {
        let of = |tensor: &Tensor| -> Vec<Vec<u8>> {
            tensor.as_strings().unwrap().iter().map(<[u8]>::to_vec).collect()
        };
        let bytes = read(&file("'|S3'", "False", "(2,)", b"a\0bcd\0")).unwrap();
        assert_eq!(of(&bytes), [&b"a\0b"[..], b"cd"]);
        let text = read(&file("'<U2'", "False", "(1,)", b"\xe4\0\0\0\0\0\0\0")).unwrap();
        assert_eq!(of(&text), ["ä".as_bytes()]);
    }

    #[test]
    fn what_is_no_file_of_one_tensor_is_refused() {
        for (bytes, expected) in [
            (b"PK\x03\x04".to_vec(), "does not begin with"),
            (b"\x93NUMPY".to_vec(), "ends in its header"),
            (b"\x93NUMPY\x04\0\0\0".to_vec(), "version 4"),
            (b"\x93NUMPY\x02\0\xff\xff\xff\xff{".to_vec(), "ends in its header"),
            (file("'|O'", "False", "(1,)", b"x"), "not taken"),
            (file("[('a', '<f4')]", "False", "(1,)", b"x"), "fields"),
            (file("'<f16'", "False", "(1,)", &[0; 16]), "16 bytes of kind 'f'"),
            (file("'<f4'", "False", "(2,)", &[0; 4]), "do not make the 4 bytes"),
            (file("'<f4'", "False", "(-1,)", &[]), "makes no tensor"),
            (file("'<f4'", "Maybe", "(1,)", &[0; 4]), "dictionary"),
            (file("'<f4'", "False", "(4294967296, 4294967296)", &[]), "makes no tensor"),
            (file("'|b1'", "False", "(1,)", &[2]), "boolean"),
            (file("'<U1'", "False", "(1,)", &[0, 0xd8, 0, 0]), "no text"),
        ] {
            let status = read(&bytes).err().unwrap();
            assert_eq!(status.code, Code::InvalidArgument);
            assert!(status.message.contains(expected), "{status}");
        }
        let many = read(&file("'|S0'", "False", "(1000000,)", &[])).err().unwrap();
        assert_eq!(many.code, Code::ResourceExhausted);
    }

    #[test]
    fn headers_are_laid_out_as_numpy_wants_them() {
        for (shape, expected) in [
            (&[][..], "{'descr': '|u1', 'fortran_order': False, 'shape': (), }"),
            (&[1], "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"),
            (&[1, 1], "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1), }"),
        ] {
            let tensor = Tensor::dense(DType::UInt8, shape.to_vec(), Buffer::zeroed(1));
            let file = encode(&tensor).unwrap();
            assert_eq!((file.len() - 1) % 64, 0);
            assert_eq!(
                String::from_utf8_lossy(&file[10..]).trim_end_matches(['\n', ' ', '\0']),
                expected
            );
        }
    }

    #[test]
    fn what_is_kept_is_read_or_refused() {
        crate::corpus::each("npy", |input| drop(read(input)));
    }

    proptest! {
        #[test]
        fn tensors_round_trip(row in prop::sample::select(KINDS.to_vec()), bytes: Vec<u8>) {
            let (_, size, dtype) = row;
            let mut bytes = bytes[..bytes.len() / size * size].to_vec();
            if dtype == DType::Bool {
                for byte in &mut bytes {
                    *byte &= 1;
                }
            }
            let shape = vec![1, i64::try_from(bytes.len() / size).unwrap()];
            let tensor = Tensor::dense(dtype, shape.clone(), Buffer::copy_of(&bytes));
            let decoded = read(&encode(&tensor).unwrap()).unwrap();

            prop_assert_eq!(decoded.dtype(), dtype);
            prop_assert_eq!(decoded.shape(), &shape[..]);
            prop_assert_eq!(decoded.buffer().unwrap().as_slice(), &bytes[..]);
        }

        #[test]
        fn no_header_makes_the_reader_panic(
            descr in "'[<>|=]?[a-zA-Z][0-9]{0,3}'",
            shape in "\\([0-9, -]{0,12}\\)",
            order in "(True|False)",
            data: Vec<u8>,
        ) {
            let _ = read(&file(&descr, &order, &shape, &data));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = read(&[MAGIC, &bytes].concat());
        }
    }
}
