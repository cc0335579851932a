"""Requests and responses of Predict as bytes: what protobuf writes and reads."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from servable.apis import predict_pb2
from servable.client import dtypes
from servable.client.operations import Predict, Tensor, model_ref
from servable.client.predict_wire import decode_response, encode_request
from servable.client.tensors import encode, make_ndarray, make_tensor_proto
from servable.errors import Internal, InvalidArgument

TYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
arrays = hnp.arrays(
    st.sampled_from([*map(np.dtype, [*TYPES, "c8", "c16"])]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
)
strings = st.lists(st.binary(max_size=5)).map(lambda values: np.array(values, object))
names = st.text(max_size=40)


def response(**arrays: Any) -> bytes:
    message = predict_pb2.PredictResponse()
    for name, array in arrays.items():
        message.outputs[name].CopyFrom(make_tensor_proto(array))
    return message.SerializeToString()


@given(st.dictionaries(names, arrays | strings, max_size=3), names, st.lists(names))
def test_requests_are_what_protobuf_reads(
    inputs: dict[str, npt.NDArray[Any]], signature: str, outputs: list[str]
) -> None:
    tensors = {n: Tensor(a, dtypes.from_numpy(a.dtype)) for n, a in inputs.items()}
    operation = Predict(model_ref("m", 3), signature, tensors, outputs)

    request = predict_pb2.PredictRequest.FromString(encode_request(operation))

    expected = predict_pb2.PredictRequest(output_filter=outputs)
    expected.model_spec.name = "m"
    expected.model_spec.version.value = 3
    expected.model_spec.signature_name = signature
    for name, (array, dtype) in tensors.items():
        encode(array, dtype, expected.inputs[name])
    assert request.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("size", [15_000, 20_000, 600_000])
def test_a_large_array_is_written_from_where_it_lies(size: int) -> None:
    array = np.arange(size, dtype=np.float32)
    tensors = {"x": Tensor(array, dtypes.parse("float32"))}
    data = encode_request(Predict(model_ref("m"), "", tensors))

    tensor = predict_pb2.PredictRequest.FromString(data).inputs["x"]

    assert make_ndarray(tensor).tobytes() == array.tobytes()


@given(
    st.dictionaries(names, arrays | strings, max_size=3), st.booleans(), st.booleans()
)
def test_responses_are_read_as_protobuf_reads_them(
    outputs: dict[str, npt.NDArray[Any]], is_short: bool, writable: bool
) -> None:
    message = predict_pb2.PredictResponse()
    message.model_spec.version.value = 300
    for name, array in outputs.items():
        if is_short:
            encode(array, dtypes.from_numpy(array.dtype), message.outputs[name])
        else:
            message.outputs[name].CopyFrom(make_tensor_proto(array))

    found = decode_response(message.SerializeToString(), writable=writable)

    assert found.version == 300
    assert list(found) == sorted(outputs)
    for name, array in outputs.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tolist() == array.tolist() or np.array_equal(
            found[name], array, equal_nan=True
        )
        assert found[name].flags.writeable == writable
        assert found[name].flags.aligned


@pytest.mark.parametrize("field", ["float_val", "tensor_content"])
@pytest.mark.parametrize("padding", range(4))
def test_large_outputs_are_part_of_the_response_where_they_are_aligned(
    field: str, padding: int
) -> None:
    values = np.arange(2000, dtype=np.float32)
    message = predict_pb2.PredictResponse()
    tensor = message.outputs["y" * (1 + padding)]
    tensor.dtype = dtypes.parse("float32").number  # type: ignore[assignment]
    tensor.tensor_shape.dim.add(size=2000)
    if field == "float_val":
        tensor.float_val.extend(values.tolist())
    else:
        tensor.tensor_content = values.tobytes()
    data = message.SerializeToString()
    is_aligned = data.index(values.tobytes()) % 4 == 0  # bytes begin at a multiple

    (array,) = decode_response(data, writable=False).values()

    assert array.tolist() == values.tolist()
    assert np.shares_memory(array, np.frombuffer(data, np.uint8)) == is_aligned
    assert not array.flags.writeable


def test_one_padding_of_four_is_aligned() -> None:
    """So that the test above sees both."""
    values = np.arange(2000, dtype=np.float32)
    offsets = {
        response(**{"y" * n: values}).index(values.tobytes()) % 4 for n in range(1, 5)
    }

    assert offsets == {0, 1, 2, 3}


def odd(text: str) -> predict_pb2.PredictResponse:
    from google.protobuf import text_format  # noqa: PLC0415 - only here

    return text_format.Parse(text, predict_pb2.PredictResponse())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param(
            'outputs { key: "y" value { dtype: DT_FLOAT '
            "tensor_shape { dim { size: 3 } } float_val: [1, 2] } }",
            {"y": [1.0, 2.0, 2.0]},
            id="fewer values than elements",
        ),
        pytest.param(
            'outputs { key: "y" value { dtype: DT_FLOAT float_val: 1 } }',
            {"y": 1.0},
            id="no shape",
        ),
        pytest.param(
            'outputs { key: "y" value { dtype: DT_DOUBLE '
            "tensor_shape { dim { size: 1 } } float_val: [1, 2] } }",
            {"y": [0.0]},
            id="values of another type",
        ),
        pytest.param(
            'outputs { key: "y" value { dtype: DT_FLOAT version_number: 1 '
            "tensor_shape { dim { size: 1 } } float_val: 1 } }",
            {"y": [1.0]},
            id="one more field",
        ),
        pytest.param(
            'outputs { key: "y" value { dtype: DT_INT64 '
            "tensor_shape { dim { size: 2 } } int64_val: [-1, 9] } }",
            {"y": [-1, 9]},
            id="integers in their field",
        ),
        pytest.param(
            'outputs { key: "y" value { dtype: DT_BOOL '
            "tensor_shape { dim { size: 2 } } tensor_content: '\\000\\001' } }",
            {"y": [False, True]},
            id="booleans as content",
        ),
    ],
)
def test_what_is_laid_out_otherwise_is_read_too(text: str, expected: Any) -> None:
    found = decode_response(odd(text).SerializeToString(), writable=False)

    assert {name: array.tolist() for name, array in found.items()} == expected


def test_fields_of_the_future_are_passed_over() -> None:
    data = response(y=np.array([1, 2], np.float32)) + b"\x7a\x02ab"

    assert decode_response(data, writable=False)["y"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("writable", [True, False])
def test_every_beginning_of_a_response_is_an_answer_or_an_error(writable: bool) -> None:
    data = response(y=np.array([1, 2], np.float32), z=np.array([b"a", b"b"], object))
    for end in range(len(data)):
        try:
            decode_response(data[:end], writable=writable)
        except (Internal, InvalidArgument):
            continue


@given(st.data())
def test_damaged_responses_are_read_as_protobuf_reads_them(data: st.DataObject) -> None:
    damaged = bytearray(response(y=np.array([1, 2], np.float32), z=np.array([[3, 4]])))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        message = predict_pb2.PredictResponse.FromString(bytes(damaged))
        expected = {n: make_ndarray(t).tobytes() for n, t in message.outputs.items()}
    except (DecodeError, InvalidArgument):
        with pytest.raises((Internal, InvalidArgument)):
            decode_response(bytes(damaged), writable=False)
        return

    found = decode_response(bytes(damaged), writable=False)

    assert {name: array.tobytes() for name, array in found.items()} == expected
