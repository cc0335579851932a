"""What people give, made into what a signature takes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.apis import example_pb2
from servable.client import dtypes
from servable.client.dtypes import TensorError
from servable.client.examples import make_example, make_examples
from servable.client.inputs import prepare
from servable.client.signatures import Signature, TensorSpec
from servable.client.tensors import make_tensor_proto
from servable.errors import InvalidArgument


def signature(
    defaults: frozenset[str] = frozenset(),
    shape: tuple[int | None, ...] | None = (None,),
    **inputs: str,
) -> Signature:
    specs = {
        name: TensorSpec(f"{name}:0", dtypes.parse(dtype), shape)
        for name, dtype in inputs.items()
    }
    return Signature("s", "", specs, {}, defaults)


class Frame:
    """A table as pandas and polars have them, as far as it matters."""

    def __init__(self, **columns: Any) -> None:
        self._columns = {name: np.array(values) for name, values in columns.items()}
        self.columns = list(columns)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        pytest.param([1, 2], "float32", [1.0, 2.0], id="integers as floats"),
        pytest.param([0.1], "float32", [np.float32(0.1)], id="Python's floats round"),
        pytest.param([0.1], "bfloat16", [0.10009765625], id="to any width"),
        pytest.param([1.0, 2.0], "int64", [1, 2], id="floats that are whole"),
        pytest.param([True], "int32", [1], id="booleans as integers"),
        pytest.param(np.array([1, -1]), "int8", [1, -1], id="a narrower integer"),
        pytest.param([2**64 - 1, 0], "uint64", [2**64 - 1, 0], id="all of 64 bits"),
        pytest.param(np.array([2**53]), "float64", [2**53], id="an exact float"),
        pytest.param(np.array([np.nan, np.inf]), "float32", None, id="NaN, infinity"),
        pytest.param("text", "string", b"text", id="text as a scalar"),
        pytest.param(["é", b"\xff"], "string", ["é".encode(), b"\xff"], id="text"),
        pytest.param(np.array(["a"]), "string", [b"a"], id="an array of text"),
        pytest.param([], "string", [], id="no strings"),
        pytest.param([], "int32", [], id="no numbers"),
        pytest.param(7, "float32", 7.0, id="a scalar"),
        pytest.param([1 + 2j], "complex64", [1 + 2j], id="complex numbers"),
        pytest.param([1, 2], "qint8", [1, 2], id="quantized integers"),
    ],
)
def test_values_are_cast(value: Any, dtype: str, expected: Any) -> None:
    tensor = prepare({"x": value}, signature(x=dtype))["x"]

    assert tensor.dtype.name == dtype
    if expected is not None:
        assert tensor.array.tolist() == expected


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        pytest.param([0.5], "int32", id="a fraction as an integer"),
        pytest.param([300], "uint8", id="an integer that is too large"),
        pytest.param([-1], "uint64", id="a negative as unsigned"),
        pytest.param(np.array([2**64 - 1], np.uint64), "int64", id="a sign bit"),
        pytest.param([1e300], "float32", id="a float that overflows"),
        pytest.param([2**24 + 1], "float32", id="an integer no float32 has"),
        pytest.param(np.array([0.1]), "float32", id="an array that would round"),
        pytest.param([1j], "float32", id="an imaginary number"),
        pytest.param([2**63 - 1], "float64", id="the largest integer as a float"),
        pytest.param(["1"], "int32", id="text as a number"),
        pytest.param([1], "string", id="a number as text"),
        pytest.param([8], "int4", id="beyond four bits"),
    ],
)
def test_values_that_a_cast_would_change_are_refused(value: Any, dtype: str) -> None:
    with pytest.raises(TensorError, match=r"input 'x': .*signature takes x:"):
        prepare({"x": value}, signature(x=dtype))


def test_a_tensor_proto_passes_whatever_the_signature_says() -> None:
    proto = make_tensor_proto(["a"])

    tensor = prepare({"x": proto}, signature(x="float32"))["x"]

    assert (tensor.dtype.name, tensor.array.tolist()) == ("string", [b"a"])


def test_rows_of_features_for_a_string_are_serialized_examples() -> None:
    rows: list[dict[str, Any]] = [{"age": 50.0, "job": "tech"}, {"age": 20.0}]

    tensor = prepare(rows, signature(examples="string"))["examples"]

    parse = example_pb2.Example.FromString
    assert [parse(text) for text in tensor.array] == [make_example(row) for row in rows]


def test_rows_of_features_are_no_numbers() -> None:
    with pytest.raises(TensorError, match="of type dict"):
        prepare([{"age": 50.0}], signature(x="float32"))


def test_inputs_with_defaults_may_be_left_out() -> None:
    of_two = signature(frozenset({"b"}), a="float32", b="float32")

    assert list(prepare({"a": [1.0]}, of_two)) == ["a"]


def test_one_value_is_not_enough_for_two_inputs() -> None:
    with pytest.raises(InvalidArgument, match=r"takes a: .*, b: int32\[\?\]"):
        prepare([1.0], signature(a="float32", b="int32"))


def frame_of(library: str, columns: dict[str, Any]) -> Any:
    """Return a table of pandas, polars or pyarrow."""
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    made = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "table"}[library]
    return getattr(module, made)(columns)


@pytest.fixture(params=["pandas", "polars", "pyarrow"])
def library(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


def test_columns_of_a_frame_are_inputs(library: str) -> None:
    frame = frame_of(library, {"a": [1.0, 2.5], "b": ["x", "é"], "c": [1, 2]})

    tensors = prepare(frame, signature(a="float32", b="string", c="int32"))

    assert tensors["a"].array.tolist() == [1.0, 2.5]
    assert tensors["b"].array.tolist() == [b"x", "é".encode()]
    assert tensors["c"].array.tolist() == [1, 2]


def test_numbers_of_a_frame_are_not_rounded(library: str) -> None:
    frame = frame_of(library, {"a": [0.1]})

    with pytest.raises(TensorError, match=r"input 'a': float64 .* without loss"):
        prepare(frame, signature(a="float32"))


def test_rows_of_a_frame_are_the_only_input(library: str) -> None:
    frame = frame_of(library, {"a": [1.0, 2.0], "b": [3, 4]})

    tensors = prepare(frame, signature(shape=(None, 2), x="float32"))

    assert tensors["x"].array.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_rows_of_a_frame_are_examples(library: str) -> None:
    frame = frame_of(library, {"a": [1.0, 2.0], "b": ["x", "y"]})

    assert list(make_examples(frame)) == [
        make_example({"a": 1.0, "b": "x"}),
        make_example({"a": 2.0, "b": "y"}),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param([1, None], "nan would be", id="a missing number for an integer"),
        pytest.param(["x", None], "is neither text nor bytes", id="a missing text"),
    ],
)
def test_a_hole_in_a_frame_is_named(values: list[Any], message: str) -> None:
    frame = frame_of("pandas", {"a": values})
    dtype = "string" if "x" in values else "int32"

    with pytest.raises(TensorError, match="input 'a'") as refused:
        prepare(frame, signature(a=dtype))

    assert message in refused.value.message


def test_columns_of_any_table_are_inputs() -> None:
    frame = Frame(a=[1.0, 2.0], b=["x", "y"])

    tensors = prepare(frame, signature(a="float32", b="string"))

    assert tensors["a"].array.tolist() == [1.0, 2.0]
    assert tensors["b"].array.tolist() == [b"x", b"y"]


def test_columns_stand_upright_where_the_signature_wants_it() -> None:
    tensors = prepare(Frame(a=[1.0, 2.0]), signature(shape=(None, 1), a="float32"))

    assert tensors["a"].array.shape == (2, 1)


def test_a_frame_is_a_matrix_for_one_input_of_another_name() -> None:
    frame = Frame(a=[1.0, 2.0], b=[3.0, 4.0])

    tensors = prepare(frame, signature(shape=(None, 2), x="float32"))

    assert tensors["x"].array.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_a_frame_gives_an_example_for_each_row() -> None:
    examples = make_examples(Frame(a=[1.0, 2.0], b=["x", "y"]))

    assert [dict(e.features.feature) for e in examples] == [
        dict(make_example({"a": 1.0, "b": "x"}).features.feature),
        dict(make_example({"a": 2.0, "b": "y"}).features.feature),
    ]


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        pytest.param(1, "int64_list", [1], id="an integer"),
        pytest.param([True, False], "int64_list", [1, 0], id="booleans"),
        pytest.param(1.5, "float_list", [1.5], id="a float"),
        pytest.param("é", "bytes_list", ["é".encode()], id="text"),
        pytest.param([b"a\0"], "bytes_list", [b"a\0"], id="bytes"),
        pytest.param(np.eye(2), "float_list", [1, 0, 0, 1], id="a matrix, by rows"),
        pytest.param([], None, None, id="nothing"),
    ],
)
def test_features_have_the_kind_of_their_values(
    value: Any, kind: str | None, values: Any
) -> None:
    feature = make_example({"f": value}).features.feature["f"]

    assert feature.WhichOneof("kind") == kind
    if kind:
        assert list(getattr(feature, kind).value) == values


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        pytest.param([], "no examples", id="none"),
        pytest.param([{"f": 1j}], "example 0, feature 'f'", id="a complex number"),
        pytest.param([{"f": 2**63}], "none of floats", id="beyond int64"),
        pytest.param([3], "example 0 is int", id="a number"),
        pytest.param([b"\xff"], "is no tf.Example", id="bytes that are none"),
        pytest.param([{"f": [1, "a"]}], "element [0] is 1", id="mixed kinds"),
    ],
)
def test_bad_examples_are_named(examples: Any, message: str) -> None:
    with pytest.raises(TensorError) as raised:
        make_examples(examples)

    assert message in str(raised.value)


def test_examples_of_other_packages_and_serialized_ones_are_taken() -> None:
    example = make_example({"f": 1.0})

    assert list(make_examples([example, example.SerializeToString()])) == [example] * 2


@pytest.mark.tensorflow
@given(
    numbers=st.lists(st.floats(width=32)),
    integers=st.lists(st.integers(-(2**63), 2**63 - 1)),
    texts=st.lists(st.binary()),
)
def test_an_example_is_that_of_tensorflow(
    numbers: list[float], integers: list[int], texts: list[bytes]
) -> None:
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow")
    features = {
        "numbers": tf.train.Feature(float_list=tf.train.FloatList(value=numbers)),
        "integers": tf.train.Feature(int64_list=tf.train.Int64List(value=integers)),
        "texts": tf.train.Feature(bytes_list=tf.train.BytesList(value=texts)),
    }
    given_values = {"numbers": numbers, "integers": integers, "texts": texts}
    for name, values in given_values.items():
        if not values:  # nothing says of which kind it would be
            features[name] = tf.train.Feature()
    theirs = tf.train.Example(features=tf.train.Features(feature=features))

    ours = make_example(given_values)

    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )
