//! The element types of `TensorProto`, as one table.

/// `tensorflow.DataType` without the reference types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum DType {
    Float = 1,
    Double = 2,
    Int32 = 3,
    UInt8 = 4,
    Int16 = 5,
    Int8 = 6,
    String = 7,
    Complex64 = 8,
    Int64 = 9,
    Bool = 10,
    QInt8 = 11,
    QUInt8 = 12,
    QInt32 = 13,
    BFloat16 = 14,
    QInt16 = 15,
    QUInt16 = 16,
    UInt16 = 17,
    Complex128 = 18,
    Half = 19,
    Resource = 20,
    Variant = 21,
    UInt32 = 22,
    UInt64 = 23,
    Float8E5M2 = 24,
    Float8E4M3FN = 25,
    Float8E4M3FNUZ = 26,
    Float8E4M3B11FNUZ = 27,
    Float8E5M2FNUZ = 28,
    Int4 = 29,
    UInt4 = 30,
    Int2 = 31,
    UInt2 = 32,
    Float4E2M1FN = 33,
}

/// Type, its name in `DataType`, its name in texts of the runtime, bytes of one element in memory.
/// Zero bytes: the elements are not plain memory. Four-bit and two-bit types take a byte each.
const TABLE: [(DType, &str, &str, usize); 33] = [
    (DType::Float, "DT_FLOAT", "float", 4),
    (DType::Double, "DT_DOUBLE", "double", 8),
    (DType::Int32, "DT_INT32", "int32", 4),
    (DType::UInt8, "DT_UINT8", "uint8", 1),
    (DType::Int16, "DT_INT16", "int16", 2),
    (DType::Int8, "DT_INT8", "int8", 1),
    (DType::String, "DT_STRING", "string", 0),
    (DType::Complex64, "DT_COMPLEX64", "complex64", 8),
    (DType::Int64, "DT_INT64", "int64", 8),
    (DType::Bool, "DT_BOOL", "bool", 1),
    (DType::QInt8, "DT_QINT8", "qint8", 1),
    (DType::QUInt8, "DT_QUINT8", "quint8", 1),
    (DType::QInt32, "DT_QINT32", "qint32", 4),
    (DType::BFloat16, "DT_BFLOAT16", "bfloat16", 2),
    (DType::QInt16, "DT_QINT16", "qint16", 2),
    (DType::QUInt16, "DT_QUINT16", "quint16", 2),
    (DType::UInt16, "DT_UINT16", "uint16", 2),
    (DType::Complex128, "DT_COMPLEX128", "complex128", 16),
    (DType::Half, "DT_HALF", "half", 2),
    (DType::Resource, "DT_RESOURCE", "resource", 0),
    (DType::Variant, "DT_VARIANT", "variant", 0),
    (DType::UInt32, "DT_UINT32", "uint32", 4),
    (DType::UInt64, "DT_UINT64", "uint64", 8),
    (DType::Float8E5M2, "DT_FLOAT8_E5M2", "float8_e5m2", 1),
    (DType::Float8E4M3FN, "DT_FLOAT8_E4M3FN", "float8_e4m3fn", 1),
    (DType::Float8E4M3FNUZ, "DT_FLOAT8_E4M3FNUZ", "float8_e4m3fnuz", 1),
    (DType::Float8E4M3B11FNUZ, "DT_FLOAT8_E4M3B11FNUZ", "float8_e4m3b11fnuz", 1),
    (DType::Float8E5M2FNUZ, "DT_FLOAT8_E5M2FNUZ", "float8_e5m2fnuz", 1),
    (DType::Int4, "DT_INT4", "int4", 1),
    (DType::UInt4, "DT_UINT4", "uint4", 1),
    (DType::Int2, "DT_INT2", "int2", 1),
    (DType::UInt2, "DT_UINT2", "uint2", 1),
    (DType::Float4E2M1FN, "DT_FLOAT4_E2M1FN", "float4_e2m1fn", 1),
];

/// Reference types are the plain types shifted by this.
const REF_OFFSET: i32 = 100;

impl DType {
    pub fn from_number(number: i32) -> Option<Self> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        TABLE.get(at).map(|row| row.0)
    }

    /// As [`DType::from_number`], but a reference type counts as what it refers to.
    pub fn from_number_or_ref(number: i32) -> Option<Self> {
        Self::from_number(if number > REF_OFFSET { number - REF_OFFSET } else { number })
    }

    pub fn number(self) -> i32 {
        self as i32
    }

    /// The name in `DataType`, such as `DT_FLOAT`.
    pub fn name(self) -> &'static str {
        TABLE[self as usize - 1].1
    }

    /// The name in the runtime's texts, such as `float`.
    pub fn short_name(self) -> &'static str {
        TABLE[self as usize - 1].2
    }

    /// Bytes of one element in memory; `None` for strings, resources and variants.
    pub fn size(self) -> Option<usize> {
        let size = TABLE[self as usize - 1].3;
        (size > 0).then_some(size)
    }
}

/// The name of any number that a `TensorInfo` may carry: plain, reference or unknown.
pub fn dtype_name(number: i32) -> String {
    match (DType::from_number(number), DType::from_number_or_ref(number)) {
        (Some(dtype), _) => dtype.name().to_owned(),
        (None, Some(dtype)) => format!("{}_REF", dtype.name()),
        (None, None) if number == 0 => "DT_INVALID".to_owned(),
        (None, None) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_stands_at_its_own_number() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0.number(), i32::try_from(at).unwrap() + 1);
        }
    }

    #[test]
    fn reference_and_invalid_types_have_names_and_no_type_of_their_own() {
        assert_eq!(dtype_name(101), "DT_FLOAT_REF");
        assert_eq!(dtype_name(0), "DT_INVALID");
        assert_eq!(DType::from_number(101), None);
        assert_eq!(DType::from_number_or_ref(101), Some(DType::Float));
        assert_eq!(DType::from_number(0), None);
        assert_eq!(DType::from_number(-5), None);
    }
}
