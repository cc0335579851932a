"""
The types of tensors, as a table: DataType on the wire, NumPy's type, typed field.

Nothing here knows messages or protocols; encoding and decoding are tensors.py.
"""

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from servable.errors import InvalidArgument

REF_OFFSET: Final = 100  # DT_FLOAT_REF is DT_FLOAT + 100


class TensorError(InvalidArgument, ValueError):
    """Values that cannot be the tensor that was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """
    One row of the table; there is one object for each.

    Attributes:
        number: its DataType.
        name: TensorFlow's lower-case name, as `float32` or `string`.
        field: the typed field of TensorProto with its values.
        numpy_name: the type of its arrays; "" where no array can hold it.
        needs_ml_dtypes: NumPy itself does not have the type.
        content_by_default: TensorFlow writes it as tensor_content.
    """

    number: int
    name: str
    field: str
    numpy_name: str
    needs_ml_dtypes: bool = False
    content_by_default: bool = True

    @property
    def enum_name(self) -> str:
        """The name in DataType, as `DT_HALF`."""
        return f"DT_{_ENUM_NAMES.get(self.name, self.name.upper())}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return from_number, (self.number,)  # copies, too, are the one object


_ENUM_NAMES: Final = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}

DTYPES: Final = (
    DType(1, "float32", "float_val", "float32"),
    DType(2, "float64", "double_val", "float64"),
    DType(3, "int32", "int_val", "int32"),
    DType(4, "uint8", "int_val", "uint8"),
    DType(5, "int16", "int_val", "int16"),
    DType(6, "int8", "int_val", "int8"),
    DType(7, "string", "string_val", "object", content_by_default=False),
    DType(8, "complex64", "scomplex_val", "complex64", content_by_default=False),
    DType(9, "int64", "int64_val", "int64"),
    DType(10, "bool", "bool_val", "bool", content_by_default=False),
    DType(11, "qint8", "int_val", "int8"),
    DType(12, "quint8", "int_val", "uint8"),
    DType(13, "qint32", "int_val", "int32"),
    DType(14, "bfloat16", "half_val", "bfloat16", needs_ml_dtypes=True),
    DType(15, "qint16", "int_val", "int16"),
    DType(16, "quint16", "int_val", "uint16"),
    DType(17, "uint16", "int_val", "uint16", content_by_default=False),
    DType(18, "complex128", "dcomplex_val", "complex128", content_by_default=False),
    DType(19, "float16", "half_val", "float16"),
    DType(20, "resource", "resource_handle_val", ""),
    DType(21, "variant", "variant_val", ""),
    DType(22, "uint32", "uint32_val", "uint32"),
    DType(23, "uint64", "uint64_val", "uint64"),
    DType(24, "float8_e5m2", "float8_val", "float8_e5m2", needs_ml_dtypes=True),
    DType(25, "float8_e4m3fn", "float8_val", "float8_e4m3fn", needs_ml_dtypes=True),
    DType(26, "float8_e4m3fnuz", "float8_val", "float8_e4m3fnuz", needs_ml_dtypes=True),
    DType(
        27,
        "float8_e4m3b11fnuz",
        "float8_val",
        "float8_e4m3b11fnuz",
        needs_ml_dtypes=True,
    ),
    DType(28, "float8_e5m2fnuz", "float8_val", "float8_e5m2fnuz", needs_ml_dtypes=True),
    DType(29, "int4", "int_val", "int4", True, content_by_default=False),
    DType(30, "uint4", "int_val", "uint4", True, content_by_default=False),
    DType(31, "int2", "int_val", "int2", True, content_by_default=False),
    DType(32, "uint2", "int_val", "uint2", True, content_by_default=False),
    DType(33, "float4_e2m1fn", "float8_val", "float4_e2m1fn", needs_ml_dtypes=True),
)

_BY_NUMBER: Final = {dtype.number: dtype for dtype in DTYPES}
_BY_NAME: Final = {
    **{dtype.name: dtype for dtype in DTYPES},
    **{dtype.enum_name: dtype for dtype in DTYPES},
}

STRING: Final = _BY_NAME["string"]


def from_number(number: int) -> DType:
    """
    Return the type for a DataType; a reference type is the type it refers to.

    Raises:
        TensorError: there is no such type.
    """
    dtype = _BY_NUMBER.get(number) or _BY_NUMBER.get(number - REF_OFFSET)
    if dtype is None:
        raise TensorError(f"{number} is no DataType that a tensor can have")
    return dtype


def to_numpy(dtype: DType) -> np.dtype[Any]:
    """
    Return the type of the arrays that hold *dtype*; `object` for strings.

    Quantized types are records of one field, as TensorFlow has them.

    Raises:
        TensorError: no array can hold it, or a package is missing for it.
    """
    array_type: np.dtype[Any] = _to_numpy(dtype)
    return array_type


@functools.cache
def _to_numpy(dtype: DType) -> np.dtype[Any]:
    if not dtype.numpy_name:
        raise TensorError(
            f"a tensor of type {dtype} is a handle inside the server, not values"
        )
    if dtype.needs_ml_dtypes:
        return _to_ml_dtypes(dtype)
    if dtype.name.startswith(("qint", "quint")):
        return np.dtype([(dtype.name, dtype.numpy_name)])
    return np.dtype(dtype.numpy_name)


def _to_ml_dtypes(dtype: DType) -> np.dtype[Any]:
    try:
        import ml_dtypes  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise TensorError(
            f"tensors of type {dtype} need the package ml_dtypes: pip install ml_dtypes"
        ) from None
    try:
        array_type: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype.numpy_name))
    except AttributeError:
        raise TensorError(
            f"ml_dtypes {ml_dtypes.__version__} has no type {dtype}; a newer one does"
        ) from None
    return array_type


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """
    Return the type that arrays of *dtype* are sent as, whatever their byte order.

    Text, bytes and objects are strings; whether each object is one is for the
    encoder to see.

    Raises:
        TensorError: no tensor has such values.
    """
    wire: DType = _from_numpy(dtype)
    return wire


@functools.cache
def _from_numpy(dtype: np.dtype[Any]) -> DType:
    if dtype.kind in "USOT":
        return STRING
    name = dtype.names[0] if dtype.names and len(dtype.names) == 1 else dtype.name
    found = _BY_NAME.get(name)
    if found is None or not found.numpy_name:
        raise TensorError(
            f"no tensor holds values of NumPy's type {dtype}; convert the array first"
        )
    return found


def parse(dtype: Any) -> DType:
    """
    Return the type that *dtype* says, in any of the usual ways.

    A DataType number, a name ("float32", "DT_FLOAT"), something NumPy takes as a
    type, or a TensorFlow DType.

    Raises:
        TensorError: it says no type.
    """
    if isinstance(dtype, DType):
        return dtype
    number = getattr(dtype, "as_datatype_enum", dtype)
    if isinstance(number, int) and not isinstance(number, bool):
        return from_number(number)
    if isinstance(dtype, str) and dtype in _BY_NAME:
        return _BY_NAME[dtype]
    try:
        return from_numpy(np.dtype(dtype))
    except TypeError:
        raise TensorError(f"{dtype!r} names no type of tensor") from None
