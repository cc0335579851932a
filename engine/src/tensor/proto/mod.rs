//! `TensorProto` bytes to tensors and back, by the rules of the runtime's own decoder.

mod decode;
mod encode;

pub use decode::{decode, Limits};
pub use encode::{encode, Encoder, Encoding};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::status::{Code, Result};
    use crate::tensor::{Buffer, DType, Tensor};
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    fn proto(dtype: DType, shape: &[i64], fill: impl FnOnce(&mut pb::TensorProto)) -> Bytes {
        let dim =
            shape.iter().map(|&size| pb::tensor_shape_proto::Dim { size, ..Default::default() });
        let mut proto = pb::TensorProto {
            dtype: dtype.number(),
            tensor_shape: Some(pb::TensorShapeProto { dim: dim.collect(), unknown_rank: false }),
            ..pb::TensorProto::default()
        };
        fill(&mut proto);
        proto.encode_to_vec().into()
    }

    fn floats(shape: &[i64], values: &[f32]) -> Result<Vec<f32>> {
        let message = proto(DType::Float, shape, |proto| proto.float_val = values.to_vec());
        let tensor = decode(&message, Limits::default())?;
        Ok(tensor.buffer().unwrap().elements().to_vec())
    }

    #[test]
    fn too_few_values_repeat_the_last_and_too_many_are_left_out() {
        assert_eq!(floats(&[4], &[1.0, 2.0]).unwrap(), [1.0, 2.0, 2.0, 2.0]);
        assert_eq!(floats(&[1], &[1.0, 2.0]).unwrap(), [1.0]);
        assert_eq!(floats(&[2], &[]).unwrap(), [0.0, 0.0]);
        assert_eq!(floats(&[], &[3.0, 4.0]).unwrap(), [3.0]);
        assert!(floats(&[0, 5], &[3.0]).unwrap().is_empty());
    }

    #[test]
    fn values_in_another_types_field_do_not_count() {
        let message = proto(DType::Double, &[2], |proto| proto.float_val = vec![7.0, 8.0]);
        let tensor = decode(&message, Limits::default()).unwrap();

        assert_eq!(tensor.buffer().unwrap().elements::<f64>(), [0.0, 0.0]);
    }

    #[test]
    fn small_integers_are_cut_to_their_width() {
        let message = proto(DType::UInt8, &[4], |proto| proto.int_val = vec![300, -1, 256, 255]);
        let tensor = decode(&message, Limits::default()).unwrap();

        assert_eq!(tensor.buffer().unwrap().as_slice(), [44, 255, 0, 255]);
    }

    #[test]
    fn half_of_a_complex_number_does_not_count() {
        let values = vec![1.0, 2.0, 3.0];
        let message = proto(DType::Complex64, &[2], |proto| proto.scomplex_val = values);
        let tensor = decode(&message, Limits::default()).unwrap();

        assert_eq!(tensor.buffer().unwrap().elements::<f32>(), [1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn content_wins_and_has_to_fit() {
        for (dtype, shape, content, fits) in [
            (DType::Int16, &[2][..], &[1, 0, 2, 0][..], true),
            (DType::Int16, &[2], &[1, 0, 2], false),
            (DType::Int16, &[2], &[1, 0, 2, 0, 3, 0], false),
            (DType::Int16, &[0], &[1, 0, 2], true),
            (DType::Bool, &[2], &[0, 1], true),
            (DType::Bool, &[2], &[0, 2], false),
            (DType::String, &[2], b"\x01\x02abc", true),
            (DType::String, &[2], b"\x01\x02ab", false),
            (DType::String, &[2], b"\x01\x02abcd", false),
            (DType::String, &[1], b"\xff", false),
            (DType::String, &[1], b"\x81\x80\x80\x80\x10a", true),
            (DType::String, &[1], b"\x81\x80\x80\x80\x80\0a", false),
        ] {
            let message = proto(dtype, shape, |proto| {
                proto.tensor_content = Bytes::copy_from_slice(content);
                proto.int_val = vec![9, 9];
            });
            let decoded = decode(&message, Limits::default());
            assert_eq!(decoded.is_ok(), fits, "{dtype:?} {shape:?} {content:?}");
        }
    }

    #[test]
    fn what_asks_for_more_than_it_may_is_refused_before_anything_is_taken() {
        let limits = Limits { max_bytes: 1 << 20 };
        for (dtype, shape, code) in [
            (DType::Float, &[1 << 18][..], None),
            (DType::Float, &[(1 << 18) + 1], Some(Code::ResourceExhausted)),
            (DType::String, &[1 << 27], Some(Code::ResourceExhausted)),
            (DType::Float, &[1 << 40], Some(Code::InvalidArgument)),
            (DType::Float, &[1 << 32, 1 << 32], Some(Code::InvalidArgument)),
            (DType::Float, &[-1], Some(Code::InvalidArgument)),
            (DType::Float, &[-2, -3], Some(Code::InvalidArgument)),
            (DType::Float, &[1; 254], None),
            (DType::Float, &[1; 255], Some(Code::InvalidArgument)),
            (DType::Resource, &[], Some(Code::InvalidArgument)),
            (DType::Variant, &[], Some(Code::InvalidArgument)),
        ] {
            let decoded = decode(&proto(dtype, shape, |_| ()), limits);
            assert_eq!(decoded.err().map(|status| status.code), code, "{dtype:?} {shape:?}");
        }
    }

    /// Every type whose elements are plain memory, with bytes that make whole elements.
    fn dense() -> impl Strategy<Value = (DType, Vec<u8>)> {
        let types: Vec<DType> = (1..=33)
            .filter_map(DType::from_number)
            .filter(|dtype| dtype.size().is_some() && *dtype != DType::Bool)
            .collect();
        (prop::sample::select(types), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
            |(dtype, mut bytes)| {
                let size = dtype.size().unwrap_or(1);
                bytes.truncate(bytes.len() / size * size);
                (dtype, bytes)
            },
        )
    }

    #[test]
    fn what_is_kept_is_decoded_or_refused() {
        let limits = Limits { max_bytes: 1 << 16 };
        crate::corpus::each("protobuf", |input| {
            // Tensors stand within requests; both are tried as one.
            for start in [0, 7, 9, 12].into_iter().filter(|&start| start < input.len()) {
                let _ = decode(&Bytes::copy_from_slice(&input[start..]), limits);
            }
        });
    }

    proptest! {
        #[test]
        fn dense_tensors_round_trip_in_both_encodings((dtype, bytes) in dense(), content: bool) {
            let elements = bytes.len() / dtype.size().unwrap();
            let shape = vec![i64::try_from(elements).unwrap(), 1];
            let tensor = Tensor::dense(dtype, shape.clone(), Buffer::copy_of(&bytes));
            let encoding = if content { Encoding::Content } else { Encoding::Typed };

            let encoder = Encoder::new(&tensor, encoding);
            let encoded = encode(&tensor, encoding);
            prop_assert_eq!(encoder.len(), encoded.len());
            let decoded = decode(&encoded.into(), Limits::default()).unwrap();

            prop_assert_eq!(decoded.dtype(), dtype);
            prop_assert_eq!(decoded.shape(), &shape[..]);
            prop_assert_eq!(decoded.buffer().unwrap().as_slice(), &bytes[..]);
        }

        #[test]
        fn strings_round_trip_in_both_encodings(strings: Vec<Vec<u8>>, content: bool) {
            let shape = vec![i64::try_from(strings.len()).unwrap()];
            let tensor = Tensor::strings(shape, strings.iter().collect());
            let encoding = if content { Encoding::Content } else { Encoding::Typed };

            let decoded = decode(&encode(&tensor, encoding).into(), Limits::default()).unwrap();

            let read: Vec<Vec<u8>> =
                decoded.as_strings().unwrap().iter().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(read, strings);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes.into(), Limits { max_bytes: 1 << 16 });
        }

        #[test]
        fn no_change_of_a_good_message_makes_the_decoder_panic(
            (dtype, bytes) in dense(),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let shape = vec![i64::try_from(bytes.len() / dtype.size().unwrap()).unwrap()];
            let tensor = Tensor::dense(dtype, shape, Buffer::copy_of(&bytes));
            let mut message = encode(&tensor, Encoding::Typed);
            let at = at.index(message.len());
            message[at] = byte;
            let _ = decode(&message.into(), Limits { max_bytes: 1 << 16 });
        }
    }
}
