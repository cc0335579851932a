//! Rows of several tensors as one tensor, and one tensor as rows of several.
//!
//! Joining copies once; a part of an output stands on the output's own memory. Rows are what the
//! first dimension counts.

use std::ops::Range;
use std::sync::Arc;

use crate::status::{Result, Status};
use crate::tensor::{Buffer, DType, Data, Shape, StringArray, Strings, Tensor};

/// Rows of a tensor that is to be joined with others.
#[derive(Clone, Copy)]
pub struct Part<'t> {
    pub tensor: &'t Tensor,
    pub start: usize,
    pub end: usize,
}

impl<'t> Part<'t> {
    pub fn new(tensor: &'t Tensor, rows: &Range<usize>) -> Self {
        Self { tensor, start: rows.start, end: rows.end }
    }

    fn rows(&self) -> usize {
        self.end - self.start
    }
}

/// The number of rows; `None` for a scalar.
pub fn rows(tensor: &Tensor) -> Option<usize> {
    tensor.shape().first().and_then(|&size| usize::try_from(size).ok())
}

/// The sizes of one row.
pub fn row_shape(tensor: &Tensor) -> &[i64] {
    tensor.shape().get(1..).unwrap_or_default()
}

/// What the elements that padding adds are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Copies of the tensor's own first element, as TensorFlow Serving has it.
    FirstElement,
    /// This number; an empty string, where the elements are strings.
    Number(f64),
}

/// Put rows below one another, and below them the first row of the last part that has rows, `extra`
/// times.
///
/// All parts are of one type and row shape.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for them.
pub fn join(parts: &[Part<'_>], extra: usize) -> Result<Tensor> {
    let first = parts[0].tensor;
    let last = parts.iter().rev().find(|part| part.rows() > 0);
    let repeated = last.map(|last| Part { end: last.start + 1, ..*last });
    let repeated = repeated.into_iter().flat_map(|part| std::iter::repeat_n(part, extra));
    let all = parts.iter().copied().chain(repeated);
    let total: usize = all.clone().map(|part| part.rows()).sum();
    let mut shape = first.shape().to_vec();
    shape[0] = total as i64;
    let per_row = elements(row_shape(first));
    let Some(size) = first.dtype().size() else {
        let strings = all.flat_map(|part| {
            let strings = part.tensor.as_strings();
            let indices = part.start * per_row..part.end * per_row;
            indices.filter_map(move |index| Some(strings?.get(index)))
        });
        return Ok(Tensor::strings(shape, Strings::try_copies(strings)?));
    };
    let row = per_row * size;
    let mut buffer = Buffer::try_zeroed(total * row)?;
    let mut rest = buffer.as_mut_slice();
    for part in all {
        let Some(source) = part.tensor.buffer() else { continue };
        let source = &source.as_slice()[part.start * row..part.end * row];
        let (here, after) = rest.split_at_mut(source.len());
        here.copy_from_slice(source);
        rest = after;
    }
    Ok(Tensor::dense(first.dtype(), shape, buffer))
}

/// A tensor of `rows` rows, some at least, as one of `size` rows: the first ones, and copies of the
/// first.
///
/// # Errors
/// As [`join`].
pub fn resized(tensor: &Tensor, rows: usize, size: usize) -> Result<Tensor> {
    let kept = rows.min(size);
    join(&[Part { tensor, start: 0, end: kept }], size - kept)
}

/// Rows of a tensor as a tensor, on the same memory.
pub fn part(tensor: &Arc<Tensor>, rows: Range<usize>) -> Tensor {
    let mut shape = tensor.shape().to_vec();
    shape[0] = rows.len() as i64;
    let per_row = elements(row_shape(tensor));
    match tensor.data() {
        Data::Strings(_) => {
            let strings = PartOfStrings {
                tensor: tensor.clone(),
                start: rows.start * per_row,
                len: rows.len() * per_row,
            };
            Tensor::strings(shape, Strings::Foreign(Box::new(strings)))
        }
        Data::Dense(buffer) => {
            let row = per_row * tensor.dtype().size().unwrap_or_default();
            let bytes = &buffer.as_slice()[rows.start * row..rows.end * row];
            // SAFETY: the elements live, unchanged, for as long as the tensor that is kept.
            let buffer =
                unsafe { Buffer::foreign(bytes.as_ptr(), bytes.len(), Box::new(tensor.clone())) };
            Tensor::dense(tensor.dtype(), shape, buffer)
        }
    }
}

struct PartOfStrings {
    tensor: Arc<Tensor>,
    start: usize,
    len: usize,
}

impl StringArray for PartOfStrings {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> &[u8] {
        assert!(index < self.len);
        self.tensor.as_strings().map_or(&[], |strings| strings.get(self.start + index))
    }
}

/// The largest of each size of a row, over tensors of one rank.
pub fn largest_row<'t>(tensors: impl IntoIterator<Item = &'t Tensor>) -> Shape {
    tensors.into_iter().fold(Shape::new(), |mut largest, tensor| {
        let row = row_shape(tensor);
        largest.resize(row.len().max(largest.len()), 0);
        for (size, &other) in largest.iter_mut().zip(row) {
            *size = other.max(*size);
        }
        largest
    })
}

/// Make the rows of a tensor as large as `row`, elements added behind those that are there.
///
/// # Errors
/// INVALID_ARGUMENT when the rank is not between 1 and 6, the tensor has no elements, or its type
/// cannot be padded; RESOURCE_EXHAUSTED when there is no memory for it.
pub fn pad(tensor: &Tensor, row: &[i64], fill: Fill) -> Result<Tensor> {
    const MAX_RANK: usize = 6;
    if !(1..=MAX_RANK).contains(&tensor.shape().len()) {
        return Err(Status::invalid_argument("Only tensors with rank from 1 to 6 can be padded."));
    }
    if tensor.num_elements() == 0 {
        return Err(Status::invalid_argument("Got empty tensor in batch of non-empty tensors."));
    }
    let mut shape = vec![tensor.shape()[0]];
    shape.extend_from_slice(row);
    let total = crate::tensor::num_elements(&shape)
        .ok_or_else(|| Status::invalid_argument("The padded tensor would be too large"))?;
    match tensor.data() {
        Data::Strings(strings) => {
            let filler = match fill {
                Fill::FirstElement => strings.get(0),
                Fill::Number(_) => &[],
            };
            let padded = padded_indices(tensor.shape(), &shape)
                .map(|source| source.map_or(filler, |index| strings.get(index)));
            let padded = Strings::try_copies(padded)?;
            Ok(Tensor::strings(shape, padded))
        }
        Data::Dense(buffer) => {
            let size = tensor.dtype().size().unwrap_or_default();
            let source = buffer.as_slice();
            let filler = match fill {
                Fill::FirstElement => source[..size].to_vec(),
                Fill::Number(number) => element(tensor.dtype(), number)?,
            };
            let mut padded = Buffer::try_zeroed(total * size)?;
            let cells = padded.as_mut_slice().chunks_exact_mut(size);
            for (cell, index) in cells.zip(padded_indices(tensor.shape(), &shape)) {
                let from = index.map_or(&filler[..], |at| &source[at * size..(at + 1) * size]);
                cell.copy_from_slice(from);
            }
            Ok(Tensor::dense(tensor.dtype(), shape, padded))
        }
    }
}

/// Cut the rows of a tensor down to `row`, each size of which is at most the tensor's.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for them.
pub fn cut(tensor: &Tensor, row: &[i64]) -> Result<Tensor> {
    let mut shape = vec![tensor.shape()[0]];
    shape.extend_from_slice(row);
    let total = elements(&shape);
    // Where the elements of the small tensor stand in the large one.
    let kept = padded_indices(&shape, tensor.shape()).enumerate();
    let kept = kept.filter_map(|(at, index)| index.map(|_| at));
    match tensor.data() {
        Data::Strings(strings) => {
            let kept = Strings::try_copies(kept.map(|at| strings.get(at)))?;
            Ok(Tensor::strings(shape.clone(), kept))
        }
        Data::Dense(buffer) => {
            let size = tensor.dtype().size().unwrap_or_default();
            let mut made = Buffer::try_zeroed(total * size)?;
            for (cell, at) in made.as_mut_slice().chunks_exact_mut(size).zip(kept) {
                cell.copy_from_slice(&buffer.as_slice()[at * size..(at + 1) * size]);
            }
            Ok(Tensor::dense(tensor.dtype(), shape.clone(), made))
        }
    }
}

/// For each element of a tensor of shape `large`, in order, the element of one of shape `small` at
/// the same place, if there is one.
fn padded_indices<'s>(
    small: &'s [i64],
    large: &'s [i64],
) -> impl Iterator<Item = Option<usize>> + Clone + 's {
    let mut place = vec![0_i64; large.len()];
    (0..elements(large)).map(move |_| {
        let inside = place.iter().zip(small).all(|(at, size)| at < size);
        let index = place.iter().zip(small).fold(0, |index, (at, size)| index * size + at);
        for (at, size) in place.iter_mut().zip(large).rev() {
            *at += 1;
            if *at < *size {
                break;
            }
            *at = 0;
        }
        inside.then_some(index as usize)
    })
}

fn elements(shape: &[i64]) -> usize {
    crate::tensor::num_elements(shape).expect("a shape that was checked")
}

/// A number as an element of a type.
fn element(dtype: DType, number: f64) -> Result<Vec<u8>> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(match dtype {
        DType::Float => (number as f32).to_ne_bytes().to_vec(),
        DType::Double => number.to_ne_bytes().to_vec(),
        DType::Half => half::f16::from_f64(number).to_ne_bytes().to_vec(),
        DType::BFloat16 => half::bf16::from_f64(number).to_ne_bytes().to_vec(),
        DType::Int8 | DType::QInt8 => (number as i8).to_ne_bytes().to_vec(),
        DType::UInt8 | DType::QUInt8 => (number as u8).to_ne_bytes().to_vec(),
        DType::Int16 | DType::QInt16 => (number as i16).to_ne_bytes().to_vec(),
        DType::UInt16 | DType::QUInt16 => (number as u16).to_ne_bytes().to_vec(),
        DType::Int32 | DType::QInt32 => (number as i32).to_ne_bytes().to_vec(),
        DType::UInt32 => (number as u32).to_ne_bytes().to_vec(),
        DType::Int64 => (number as i64).to_ne_bytes().to_vec(),
        DType::UInt64 => (number as u64).to_ne_bytes().to_vec(),
        DType::Bool => vec![u8::from(number != 0.0)],
        DType::Complex64 => [(number as f32).to_ne_bytes(), 0_f32.to_ne_bytes()].concat(),
        DType::Complex128 => [number.to_ne_bytes(), 0_f64.to_ne_bytes()].concat(),
        _ => return Err(Status::invalid_argument("Unsupported type")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ints(shape: &[i64], values: &[i32]) -> Tensor {
        let mut buffer = Buffer::zeroed(values.len() * 4);
        buffer.elements_mut::<i32>().copy_from_slice(values);
        Tensor::dense(DType::Int32, shape.to_vec(), buffer)
    }

    fn words(shape: &[i64], values: &[&str]) -> Tensor {
        Tensor::strings(shape.to_vec(), values.iter().collect())
    }

    fn seen(tensor: &Tensor) -> (Vec<i64>, Vec<String>) {
        let values = match tensor.data() {
            Data::Dense(buffer) => buffer.elements::<i32>().iter().map(i32::to_string).collect(),
            Data::Strings(strings) => {
                strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
            }
        };
        (tensor.shape().to_vec(), values)
    }

    fn shown(shape: &[i64], values: &[&str]) -> (Vec<i64>, Vec<String>) {
        (shape.to_vec(), values.iter().map(|&value| value.to_owned()).collect())
    }

    #[test]
    fn extra_rows_repeat_the_first_row_of_the_last_part() {
        let (one, other) = (ints(&[1, 2], &[1, 2]), ints(&[2, 2], &[3, 4, 5, 6]));
        let parts = [Part::new(&one, &(0..1)), Part::new(&other, &(0..2))];
        let (a, bc) = (words(&[1], &["a"]), words(&[2], &["b", "c"]));
        let strings = [Part::new(&a, &(0..1)), Part::new(&bc, &(0..2))];

        assert_eq!(
            seen(&join(&parts, 2).unwrap()),
            shown(&[5, 2], &["1", "2", "3", "4", "5", "6", "3", "4", "3", "4"])
        );
        assert_eq!(seen(&join(&strings, 1).unwrap()), shown(&[4], &["a", "b", "c", "b"]));
    }

    #[test]
    fn rows_without_elements_join_and_part_like_others() {
        let (one, other) = (ints(&[1, 0], &[]), ints(&[2, 0], &[]));
        let joined =
            Arc::new(join(&[Part::new(&one, &(0..1)), Part::new(&other, &(0..2))], 1).unwrap());

        assert_eq!(seen(&joined), shown(&[4, 0], &[]));
        assert_eq!(seen(&part(&joined, 1..3)), shown(&[2, 0], &[]));
    }

    #[test]
    fn padding_fills_with_the_tensors_own_first_element_or_with_a_number() {
        let square = ints(&[1, 2, 2], &[1, 2, 3, 4]);
        for (fill, expected) in [
            (Fill::FirstElement, ["1", "2", "1", "3", "4", "1", "1", "1", "1"]),
            (Fill::Number(-7.0), ["1", "2", "-7", "3", "4", "-7", "-7", "-7", "-7"]),
        ] {
            let padded = pad(&square, &[3, 3], fill).unwrap();
            assert_eq!(seen(&padded), shown(&[1, 3, 3], &expected));
            assert_eq!(seen(&cut(&padded, &[2, 2]).unwrap()), seen(&square));
        }
        let row = words(&[1, 1], &["a"]);
        assert_eq!(
            seen(&pad(&row, &[2], Fill::FirstElement).unwrap()),
            shown(&[1, 2], &["a", "a"])
        );
        assert_eq!(seen(&pad(&row, &[2], Fill::Number(0.0)).unwrap()), shown(&[1, 2], &["a", ""]));
    }

    #[test]
    fn what_cannot_be_padded() {
        for (tensor, fill, expected) in [
            (
                ints(&[], &[1]),
                Fill::FirstElement,
                "Only tensors with rank from 1 to 6 can be padded.",
            ),
            (
                ints(&[1; 7], &[1]),
                Fill::FirstElement,
                "Only tensors with rank from 1 to 6 can be padded.",
            ),
            (
                ints(&[1, 0], &[]),
                Fill::FirstElement,
                "Got empty tensor in batch of non-empty tensors.",
            ),
            (
                Tensor::dense(DType::Float8E5M2, vec![1, 1], Buffer::zeroed(1)),
                Fill::Number(1.0),
                "Unsupported type",
            ),
        ] {
            let row = vec![2; tensor.shape().len().saturating_sub(1)];
            assert_eq!(pad(&tensor, &row, fill).unwrap_err().message, expected);
        }
    }

    #[test]
    fn what_there_is_no_memory_for_is_refused() {
        // Nobody touches it; so many of them are more than addresses there are.
        let wide = Tensor::dense(DType::UInt8, vec![1, 1 << 28], Buffer::zeroed(1 << 28));
        let row = Part::new(&wide, &(0..1));
        let refused = join(&[row], (1 << 20) - 1).map(drop).unwrap_err();
        assert_eq!(refused, Status::no_memory(1 << 48));

        let small = Tensor::dense(DType::UInt8, vec![1, 1], Buffer::zeroed(1));
        let refused = pad(&small, &[1 << 48], Fill::FirstElement).map(drop).unwrap_err();
        assert_eq!(refused, Status::no_memory(1 << 48));

        let long = Tensor::strings(vec![1], [vec![b'x'; 1 << 20]].into_iter().collect());
        let refused = join(&[Part::new(&long, &(0..1))], (1 << 12) - 1).map(drop).unwrap_err();
        assert_eq!(refused, Status::no_memory((1 << 32) + (8 << 12)));
    }

    proptest! {
        #[test]
        fn what_was_joined_comes_apart_again(
            rows in prop::collection::vec(0_usize..4, 1..5),
            width in 0_i64..3,
            extra in 0_usize..3,
            strings: bool,
        ) {
            let mut value = 0;
            let tensors: Vec<Tensor> = rows.iter().map(|&rows| {
                let values: Vec<i32> = (0..rows as i64 * width).map(|_| {
                    value += 1;
                    value
                }).collect();
                let shape = [rows as i64, width];
                if strings {
                    let texts: Vec<String> = values.iter().map(i32::to_string).collect();
                    Tensor::strings(shape.to_vec(), texts.iter().collect())
                } else {
                    ints(&shape, &values)
                }
            }).collect();
            // Only a row that is there can be repeated.
            let extra = if rows.iter().all(|&rows| rows == 0) { 0 } else { extra };
            let parts: Vec<Part<'_>> = tensors
                .iter()
                .zip(&rows)
                .map(|(tensor, &rows)| Part::new(tensor, &(0..rows)))
                .collect();
            let joined = Arc::new(join(&parts, extra).unwrap());

            prop_assert_eq!(super::rows(&joined), Some(rows.iter().sum::<usize>() + extra));
            let mut start = 0;
            for (tensor, rows) in tensors.iter().zip(rows) {
                prop_assert_eq!(seen(&part(&joined, start..start + rows)), seen(tensor));
                start += rows;
            }
        }

        #[test]
        fn padding_keeps_every_element_at_its_place(
            small in prop::collection::vec(1_i64..4, 1..4),
            more in prop::collection::vec(0_i64..3, 4),
        ) {
            let values: Vec<i32> = (0..elements(&small) as i32).collect();
            let tensor = ints(&small, &values);
            let row: Vec<i64> = small[1..].iter().zip(more).map(|(size, more)| size + more).collect();
            let padded = pad(&tensor, &row, Fill::FirstElement).unwrap();

            prop_assert_eq!(row_shape(&padded), &row[..]);
            prop_assert_eq!(seen(&cut(&padded, &small[1..]).unwrap()), seen(&tensor));
        }
    }
}
