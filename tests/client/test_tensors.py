"""Arrays to TensorProto and back, against TensorFlow and against the server's rules."""

import copy
import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from servable.apis import tensor_pb2, types_pb2
from servable.client import dtypes
from servable.client.dtypes import DTYPES, TensorError
from servable.client.tensors import encode, make_ndarray, make_tensor_proto

ml_dtypes = pytest.importorskip("ml_dtypes", reason="the narrow types need it")

HANDLES = ("resource", "variant")
HOLDABLE = [dtype for dtype in DTYPES if dtype.name not in HANDLES]


def some_values(dtype: dtypes.DType, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    count = int(np.prod(shape))
    if dtype is dtypes.STRING:
        return np.array([b"a\0", b"", b"\xff"] * count, object)[:count].reshape(shape)
    numpy_dtype = dtypes.to_numpy(dtype)
    plain = np.array([1, 0, 1] * count)[:count].reshape(shape)
    if numpy_dtype.names:
        return plain.astype(dtype.numpy_name).view(numpy_dtype)
    return plain.astype(numpy_dtype)


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow", reason="needs TensorFlow")


def test_the_table_has_every_data_type() -> None:
    numbers = {n for n in types_pb2.DataType.values() if 0 < n < dtypes.REF_OFFSET}

    assert {dtype.number for dtype in DTYPES} == numbers
    assert all(
        types_pb2.DataType.Value(dtype.enum_name) == dtype.number for dtype in DTYPES
    )


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("dtype", HOLDABLE, ids=str)
def test_every_type_survives_the_wire(
    dtype: dtypes.DType, shape: tuple[int, ...]
) -> None:
    array = some_values(dtype, shape)
    proto = make_tensor_proto(array)
    back = make_ndarray(proto)

    assert proto.dtype == dtype.number
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes() or back.tolist() == array.tolist()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0)], ids=str)
@pytest.mark.parametrize("dtype", HOLDABLE, ids=str)
def test_the_short_form_is_read_back(
    dtype: dtypes.DType, shape: tuple[int, ...]
) -> None:
    array = some_values(dtype, shape)
    proto = tensor_pb2.TensorProto()
    encode(array, dtype, proto)

    assert make_ndarray(proto).tolist() == array.tolist()
    assert make_ndarray(proto).shape == shape


def test_a_type_is_one_object_even_when_copied() -> None:
    assert copy.deepcopy(dtypes.STRING) is dtypes.STRING


UNSUPPORTED_BY_TENSORFLOW = [
    ("float8_e4m3fnuz", 1),
    ("float8_e4m3fnuz", 0),
    ("float8_e4m3b11fnuz", 1),
    ("float8_e4m3b11fnuz", 0),
    ("float8_e5m2fnuz", 1),
    ("float8_e5m2fnuz", 0),
]


@pytest.mark.tensorflow
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (0,)], ids=str)
@pytest.mark.parametrize("dtype", HOLDABLE, ids=str)
def test_arrays_are_encoded_as_tensorflow_does(
    dtype: dtypes.DType, shape: tuple[int, ...], tf: Any
) -> None:
    array = some_values(dtype, shape)
    if (dtype.name, min(array.size, 2)) in UNSUPPORTED_BY_TENSORFLOW:
        pytest.skip("TensorFlow cannot encode a single value of this type")

    ours = make_tensor_proto(array).SerializeToString(deterministic=True)

    assert ours == tf.make_tensor_proto(array).SerializeToString(deterministic=True)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"values": 1.5}, id="a float"),
        pytest.param({"values": 1}, id="an integer"),
        pytest.param({"values": -0.0}, id="negative zero"),
        pytest.param({"values": 2**40}, id="an integer that needs 64 bits"),
        pytest.param({"values": 2**63}, id="an integer that needs an unsigned type"),
        pytest.param({"values": [1, 2**40]}, id="a list that needs 64 bits"),
        pytest.param({"values": True}, id="a boolean"),
        pytest.param({"values": [True, 2]}, id="booleans among integers"),
        pytest.param({"values": 1 + 2j}, id="a complex number"),
        pytest.param({"values": "é"}, id="text"),
        pytest.param({"values": b"a\0"}, id="bytes that end in NUL"),
        pytest.param({"values": ["a", b"b\0"]}, id="text beside bytes"),
        pytest.param({"values": [["a"], ["b"]]}, id="nested text"),
        pytest.param({"values": [1, 2.5]}, id="integers beside floats"),
        pytest.param({"values": [1e300]}, id="a float beyond float32"),
        pytest.param({"values": []}, id="an empty list"),
        pytest.param({"values": [[]]}, id="a list of an empty list"),
        pytest.param({"values": (1, 2)}, id="a tuple"),
        pytest.param({"values": [1, 2], "dtype": "float32"}, id="integers as floats"),
        pytest.param({"values": [], "dtype": "string"}, id="no strings"),
        pytest.param({"values": 7.0, "dtype": "float16"}, id="a half"),
        pytest.param({"values": [1.0, 2.0], "dtype": "bfloat16"}, id="bfloat16"),
        pytest.param({"values": 300, "dtype": "uint8"}, id="an integer that wraps"),
        pytest.param({"values": 3, "shape": [2, 2]}, id="one value for all elements"),
        pytest.param({"values": [1, 2], "shape": [3]}, id="fewer values than elements"),
        pytest.param({"values": range(4), "shape": [2, 2]}, id="another shape"),
        pytest.param({"values": 5, "shape": [0]}, id="a shape without elements"),
        pytest.param({"values": np.array(["ab", "c"])}, id="an array of text"),
        pytest.param({"values": np.array([b"ab", b"c"])}, id="an array of bytes"),
        pytest.param({"values": np.array([1.5, 2])}, id="an array of float64"),
        pytest.param({"values": np.float64(2)}, id="a NumPy scalar"),
        pytest.param({"values": np.arange(6).reshape(2, 3).T}, id="a transposed array"),
        pytest.param(
            {"values": np.array([300]), "dtype": "uint8"}, id="an array that wraps"
        ),
        pytest.param(
            {"values": np.array([1, 2]), "shape": [3]}, id="an array that is short"
        ),
    ],
)
def test_values_are_encoded_as_tensorflow_does(
    arguments: dict[str, Any], tf: Any
) -> None:
    theirs = dict(arguments)
    if "dtype" in theirs:
        theirs["dtype"] = tf.as_dtype(theirs["dtype"])
    if isinstance(theirs["values"], range):
        theirs["values"] = list(theirs["values"])
    with np.errstate(over="ignore"):
        expected = tf.make_tensor_proto(**theirs)

    ours = make_tensor_proto(**arguments)

    assert ours.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint16, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
def test_numbers_come_back_bit_for_bit(array: npt.NDArray[Any]) -> None:
    back = make_ndarray(make_tensor_proto(array))

    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


NUMERIC = [d for d in HOLDABLE if d is not dtypes.STRING]


@st.composite
def tensors_of_any_bits(draw: st.DrawFn) -> npt.NDArray[Any]:
    """Arrays of every type of numbers, made of arbitrary bits where all are values."""
    dtype = draw(st.sampled_from(NUMERIC))
    numpy_dtype = dtypes.to_numpy(dtype)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    count = int(np.prod(shape))
    if dtype.name in ("bool", "int4", "uint4", "int2", "uint2", "float4_e2m1fn"):
        values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return np.array(values, bool).astype(numpy_dtype).reshape(shape)
    size = count * numpy_dtype.itemsize
    bits = draw(st.binary(min_size=size, max_size=size))
    return np.frombuffer(bits, numpy_dtype).reshape(shape)


@pytest.mark.tensorflow
@given(array=tensors_of_any_bits())
def test_any_bits_are_encoded_and_decoded_as_tensorflow_does(
    array: npt.NDArray[Any], tf: Any
) -> None:
    name = dtypes.from_numpy(array.dtype).name
    assume((name, min(array.size, 2)) not in UNSUPPORTED_BY_TENSORFLOW)
    theirs = tf.make_tensor_proto(array).SerializeToString(deterministic=True)

    ours = make_tensor_proto(array)

    assert ours.SerializeToString(deterministic=True) == theirs
    if array.size:  # of none TensorFlow makes an array with one value
        expected = tf.make_ndarray(tf.make_tensor_proto(array))
        assert make_ndarray(ours).tobytes() == expected.tobytes()
        assert make_ndarray(ours).dtype == expected.dtype


@pytest.mark.tensorflow
@given(
    texts=st.lists(st.text() | st.binary(), min_size=1),
    dtype=st.sampled_from(["U", "S", object]),
)
def test_any_text_is_encoded_as_tensorflow_does(
    texts: list[str | bytes], dtype: Any, tf: Any
) -> None:
    try:
        values = np.array(texts, dtype)
    except UnicodeError:
        assume(False)
    theirs = tf.make_tensor_proto(values).SerializeToString(deterministic=True)

    assert make_tensor_proto(values).SerializeToString(deterministic=True) == theirs


def test_byte_order_of_an_array_does_not_matter() -> None:
    swapped = np.array([1, 2], ">i4")

    assert make_tensor_proto(swapped) == make_tensor_proto(np.array([1, 2], np.int32))


TENSORS = {
    "content": make_tensor_proto(np.ones(3)),
    "a field": make_tensor_proto([1.0]),
    "strings": make_tensor_proto([b"a", b"b"]),
    "bytes of floats": make_tensor_proto(np.ones(3, ml_dtypes.float8_e5m2), shape=[3]),
    "no values": make_tensor_proto([], shape=[0, 2]),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("writable", [True, False])
def test_decoded_arrays_are_writable_unless_said_otherwise(
    tensor: tensor_pb2.TensorProto, writable: bool
) -> None:
    assert make_ndarray(tensor, writable=writable).flags.writeable == writable
    assert make_ndarray(tensor).flags.writeable


def test_an_array_is_not_that_of_another() -> None:
    tensor = make_tensor_proto(np.ones(3))
    make_ndarray(tensor)[0] = 5

    assert make_ndarray(tensor, writable=False).tolist() == [1, 1, 1]


REQUESTS = """
import resource
import numpy as np
from servable.apis import predict_pb2
from servable.client import make_ndarray, make_tensor_proto

def ask(array):
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(make_tensor_proto(array))
    data = request.SerializeToString()
    return make_ndarray(predict_pb2.PredictRequest.FromString(data).inputs["x"])

array = np.ones(1 << 20, np.float32)
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert (ask(array) == array).all()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's habit")
def test_the_memory_of_large_messages_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REQUESTS], capture_output=True, text=True, check=True
    )

    # As many pages as one of the arrays has would mean that it lay in fresh ones.
    assert int(done.stdout) < (4 << 20) // 4096


def proto(text: str) -> tensor_pb2.TensorProto:
    from google.protobuf import text_format  # noqa: PLC0415 - only here

    return text_format.Parse(text, tensor_pb2.TensorProto())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: 3 } } float_val: [1, 2]",
            [1.0, 2.0, 2.0],
            id="the last of too few values is repeated",
        ),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: 2 } }",
            [0.0, 0.0],
            id="no values are zeros",
        ),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: 1 } } int_val: 3",
            [0.0],
            id="values in the wrong field are not seen",
        ),
        pytest.param(
            "dtype: DT_INT32 tensor_shape { dim { size: 1 } } int_val: [1, 2]",
            [1],
            id="values beyond the shape are ignored",
        ),
        pytest.param("dtype: DT_INT32 int_val: 3", 3, id="no shape is a scalar"),
        pytest.param(
            "dtype: DT_INT32 tensor_shape { unknown_rank: true } int_val: 3",
            3,
            id="an unknown rank is a scalar",
        ),
        pytest.param(
            "dtype: DT_UINT8 tensor_shape { } int_val: 300", 44, id="small types wrap"
        ),
        pytest.param(
            "dtype: DT_UINT8 tensor_shape { } tensor_content: '\\001' int_val: 2",
            1,
            id="content wins over the typed field",
        ),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { } } tensor_content: 'abc'",
            [],
            id="without elements any content will do",
        ),
        pytest.param(
            "dtype: DT_STRING tensor_shape { dim { size: 2 } } string_val: 'a'",
            [b"a", b"a"],
            id="the last of too few strings is repeated",
        ),
        pytest.param(
            "dtype: DT_STRING tensor_shape { dim { size: 2 } }",
            [b"", b""],
            id="no strings are empty strings",
        ),
        pytest.param(
            "dtype: DT_STRING tensor_shape { dim { size: 2 } } "
            "tensor_content: '\\001\\002abc'",
            [b"a", b"bc"],
            id="strings in the content are lengths, then bytes",
        ),
        pytest.param(
            "dtype: DT_COMPLEX64 tensor_shape { dim { size: 2 } } "
            "scomplex_val: [1, 2, 3]",
            [1 + 2j, 1 + 2j],
            id="half a complex number is ignored",
        ),
    ],
)
def test_decodes_by_the_rules_of_the_server(text: str, expected: Any) -> None:
    assert make_ndarray(proto(text)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("float_val: 1", "DataType 0", id="no type"),
        pytest.param("dtype: DT_FLOAT_REF", "DataType 101", id="a reference"),
        pytest.param("dtype: DT_RESOURCE", "handle inside the server", id="a handle"),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: 1099511627776 } } float_val: 1",
            "shape [1099511627776] does not fit into the memory",
            id="four tebibytes",
        ),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: 4611686018427387904 } "
            "dim { size: 4611686018427387904 } } float_val: 1",
            "does not fit into the memory",
            id="more elements than there are numbers",
        ),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: -1 } }",
            "shape [-1]",
            id="a negative dimension",
        ),
        pytest.param(
            "dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: 'abcd'",
            "has 4 bytes, not 8",
            id="content of the wrong length",
        ),
        pytest.param(
            "dtype: DT_BOOL tensor_content: '\\002'",
            "other than 0 and 1",
            id="a bool that is neither",
        ),
        pytest.param(
            "dtype: DT_STRING tensor_content: '\\005abc'",
            "3 bytes of text, not 5",
            id="string content that is too short",
        ),
        pytest.param(
            "dtype: DT_STRING tensor_shape { dim { size: 2 } } tensor_content: '\\200'",
            "ends in a length",
            id="string content without lengths",
        ),
    ],
)
def test_refuses_what_is_no_tensor(text: str, message: str) -> None:
    with pytest.raises(TensorError) as refused:
        make_ndarray(proto(text))

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        pytest.param(
            [[1, 2], [3]],
            None,
            "element [0] has 2 values, element [1] has 1 values",
            id="ragged rows",
        ),
        pytest.param(
            [[[1], [2]], [[3], [4, 5]]],
            None,
            "element [1][0] has 1 values, element [1][1] has 2 values",
            id="ragged deeper down",
        ),
        pytest.param([1, [2]], None, "element [0] is no list", id="lists and numbers"),
        pytest.param(
            [1, None],
            None,
            "element [1] is None of type NoneType",
            id="a missing value",
        ),
        pytest.param(None, None, "this is None", id="nothing"),
        pytest.param([1, "a"], None, "element [0] is 1 of type int", id="mixed kinds"),
        pytest.param({"a": 1}, None, "of type dict", id="a dictionary"),
        pytest.param([1.5], "int32", "1.5 is no int32", id="a float as an integer"),
        pytest.param([1j], "float32", "1j is no float32", id="a part that is lost"),
        pytest.param([0, 2], "bool", "0 is no bool", id="numbers as truths"),
        pytest.param(
            SimpleNamespace(__array__=lambda **_: np.array(["a", None], object)),
            None,
            "in an object array is neither text nor bytes",
            id="a missing text in a column",
        ),
        pytest.param(["a"], "float32", "string cannot be sent as float32", id="text"),
        pytest.param(
            np.array([1, 2], object),
            None,
            "in an object array is neither text nor bytes",
            id="an object array of numbers",
        ),
        pytest.param(
            np.array(["2020-01-01"], "datetime64[D]"), None, "datetime64", id="a date"
        ),
        pytest.param(
            2**64, None, "this is 18446744073709551616", id="a number beyond 64 bits"
        ),
    ],
)
def test_bad_values_are_named(values: Any, dtype: str | None, message: str) -> None:
    with pytest.raises(TensorError) as refused:
        make_tensor_proto(values, dtype)

    assert message in str(refused.value)


def test_more_values_than_elements_are_refused() -> None:
    with pytest.raises(TensorError, match=r"3 values do not fit .* \[2\]"):
        make_tensor_proto([1, 2, 3], shape=[2])


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (types_pb2.DT_HALF, "float16"),
        ("DT_STRING", "string"),
        ("bfloat16", "bfloat16"),
        (np.float64, "float64"),
        ("<i4", "int32"),
        (float, "float64"),
        (types_pb2.DT_FLOAT_REF, "float32"),
    ],
    ids=str,
)
def test_a_type_may_be_said_in_many_ways(said: Any, meant: str) -> None:
    assert dtypes.parse(said).name == meant


@pytest.mark.parametrize("nonsense", ["float33", 0, 99, object(), "M8[s]"], ids=str)
def test_what_names_no_type_is_refused(nonsense: Any) -> None:
    with pytest.raises(TensorError):
        dtypes.parse(nonsense)
