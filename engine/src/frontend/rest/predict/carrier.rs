//! Types that JSON has no values for in TensorFlow Serving, carried by types that it has.
//!
//! Halves are read and written as floats, 16-bit unsigned integers as wider ones, and a complex
//! number as the list of its two parts: the innermost dimension of the carrier has size two.

use half::{bf16, f16};

use crate::status::{Result, Status};
use crate::tensor::{Buffer, DType, Tensor};

/// The type that values of a type are read as.
pub fn carrier(dtype: DType) -> DType {
    match dtype {
        DType::Half | DType::BFloat16 | DType::Complex64 => DType::Float,
        DType::Complex128 => DType::Double,
        DType::UInt16 => DType::Int32,
        dtype => dtype,
    }
}

/// What was read as the carrier of `dtype`, as `dtype`.
///
/// # Errors
/// INVALID_ARGUMENT when a value does not fit, or a complex number is no pair.
pub fn narrow(tensor: Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    match dtype {
        DType::Half => Ok(each(&tensor, dtype, |value| f16::from_f32(value).to_bits())),
        DType::BFloat16 => Ok(each(&tensor, dtype, |value| bf16::from_f32(value).to_bits())),
        DType::UInt16 => {
            let values = tensor.buffer().map(Buffer::elements::<i32>).unwrap_or_default();
            match values.iter().find(|&&value| u16::try_from(value).is_err()) {
                None => Ok(each(&tensor, dtype, |value: i32| value as u16)),
                Some(value) => Err(Status::invalid_argument(format!(
                    "JSON Value: {value} is out of the range of type: uint16"
                ))),
            }
        }
        _ => complex(tensor, dtype),
    }
}

/// A tensor that an answer has, of a type that JSON has values for.
pub fn widen(tensor: Tensor) -> Tensor {
    match tensor.dtype() {
        DType::Half => each(&tensor, DType::Float, |bits| f16::from_bits(bits).to_f32()),
        DType::BFloat16 => each(&tensor, DType::Float, |bits| bf16::from_bits(bits).to_f32()),
        DType::UInt16 => each(&tensor, DType::Int32, |value: u16| i32::from(value)),
        dtype @ (DType::Complex64 | DType::Complex128) => {
            let shape = tensor.shape().iter().copied().chain([2]).collect();
            let buffer = tensor.buffer().map(Buffer::as_slice).unwrap_or_default();
            Tensor::dense(carrier(dtype), shape, Buffer::copy_of(buffer))
        }
        _ => tensor,
    }
}

fn each<From: crate::tensor::Plain, To: crate::tensor::Plain>(
    tensor: &Tensor,
    dtype: DType,
    convert: impl Fn(From) -> To,
) -> Tensor {
    let values = tensor.buffer().map(Buffer::elements::<From>).unwrap_or_default();
    let mut buffer = Buffer::zeroed(values.len() * size_of::<To>());
    for (to, &from) in buffer.elements_mut().iter_mut().zip(values) {
        *to = convert(from);
    }
    Tensor::dense(dtype, tensor.shape().to_vec(), buffer)
}

fn complex(tensor: Tensor, dtype: DType) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let innermost = shape.pop();
    let buffer = tensor.buffer().map(Buffer::as_slice).unwrap_or_default();
    match innermost {
        Some(2) => Ok(Tensor::dense(dtype, shape, Buffer::copy_of(buffer))),
        // An empty list has no pairs in it that could be wrong.
        Some(0) => Ok(Tensor::dense(dtype, tensor.shape().to_vec(), Buffer::zeroed(0))),
        _ => Err(Status::invalid_argument(format!(
            "A value of type: {} is a list of two numbers, its real and its imaginary part",
            dtype.short_name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<T: crate::tensor::Plain>(dtype: DType, shape: &[i64], values: &[T]) -> Tensor {
        let mut buffer = Buffer::zeroed(size_of_val(values));
        buffer.elements_mut().copy_from_slice(values);
        Tensor::dense(dtype, shape.to_vec(), buffer)
    }

    #[test]
    fn values_come_back_as_they_went() {
        for (dtype, carried) in [
            (DType::Half, tensor(DType::Float, &[2], &[1.5_f32, -2.0])),
            (DType::BFloat16, tensor(DType::Float, &[1, 1], &[0.25_f32])),
            (DType::UInt16, tensor(DType::Int32, &[2], &[0, 65535])),
            (DType::Complex64, tensor(DType::Float, &[1, 2], &[1.0_f32, 2.0])),
            (DType::Complex128, tensor(DType::Double, &[2], &[1.0, 2.0])),
            (DType::Int8, tensor(DType::Int8, &[1], &[3_i8])),
        ] {
            let (shape, bytes) = {
                let bytes = carried.buffer().unwrap().as_slice().to_vec();
                (carried.shape().to_vec(), bytes)
            };
            let narrowed = narrow(carried, dtype).unwrap();
            assert_eq!(narrowed.dtype(), dtype);
            let widened = widen(narrowed);
            assert_eq!(widened.dtype(), carrier(dtype));
            assert_eq!(widened.shape(), shape);
            assert_eq!(widened.buffer().unwrap().as_slice(), bytes);
        }
    }

    #[test]
    fn a_complex_number_is_a_pair() {
        let shape = |shape: &[i64], values: &[f32]| {
            let tensor = tensor(DType::Float, shape, values);
            narrow(tensor, DType::Complex64).map(|tensor| tensor.shape().to_vec())
        };
        assert_eq!(shape(&[3, 2], &[0.0; 6]).unwrap(), [3]);
        assert!(shape(&[2], &[0.0; 2]).unwrap().is_empty());
        assert_eq!(shape(&[0], &[]).unwrap(), [0]);
        assert!(shape(&[], &[0.0]).is_err());
        assert!(shape(&[2, 1], &[0.0; 2]).is_err());
    }

    #[test]
    fn integers_do_not_wrap() {
        for value in [-1, 65536] {
            assert!(narrow(tensor(DType::Int32, &[1], &[value]), DType::UInt16).is_err());
        }
    }
}
