"""User code, for type checkers alone: what the client takes, and what it gives."""

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from servable.apis import example_pb2, predict_pb2, tensor_pb2, types_pb2
from servable.client import (
    Administration,
    AsyncClient,
    Classification,
    Client,
    ModelMetadata,
    Outputs,
    Signature,
    TensorError,
    TensorSpec,
    Tls,
    VersionStatus,
    make_example,
    make_ndarray,
    make_tensor_proto,
)
from servable.errors import Code, InvalidArgument, ServingError

Array = npt.NDArray[Any]


def calls(client: Client) -> None:
    outputs = client.predict("m", {"x": [1.0]}, version=2, outputs="y", timeout=1)
    assert_type(outputs, Outputs)
    assert_type(outputs["y"], Array)
    assert_type(outputs.version, int | None)
    assert_type(client.predict("m", np.ones(3), label="stable", writable=True), Outputs)

    classes = client.classify("m", [{"f": 1.0}], signature="s", context={"c": "x"})
    assert_type(classes, Classification)
    assert_type(classes.scores, Array)
    assert_type(client.regress("m", {"f": 1.0}), Array)
    assert_type(
        client.multi_inference("m", {"f": 1.0}, {"s": "regress"}),
        Mapping[str, Classification | Array],
    )

    metadata = client.metadata("m")
    assert_type(metadata, ModelMetadata)
    assert_type(metadata.signatures, Mapping[str, Signature])
    assert_type(metadata.signatures["s"].inputs["x"], TensorSpec)
    assert_type(
        metadata.signatures["s"].inputs["x"].shape, tuple[int | None, ...] | None
    )
    assert_type(client.status("m"), Sequence[VersionStatus])
    assert_type(client.status("m")[0].error, ServingError | None)
    client.wait_until_ready("m", timeout=5)
    client.reload_config({"m": "/models/m"})
    assert_type(client.administration, Administration)


def connections() -> None:
    with Client("a:8500") as client:
        assert_type(client, Client)
    Client(["a:8500", "b:8500"], tls=Tls(ca="ca.pem"), token=lambda: "t")
    Client("https://host", tls=True, token="t", attempts=1, keep_alive=None)  # noqa: S106


async def coroutines() -> None:
    async with AsyncClient("a:8500") as client:
        assert_type(client, AsyncClient)
        assert_type(await client.predict("m", [1.0]), Outputs)
        assert_type(await client.regress("m", {"f": 1.0}), Array)
        assert_type(await client.status("m"), Sequence[VersionStatus])


def tensors() -> None:
    proto = make_tensor_proto([1.0], "float32", [1])
    assert_type(proto, tensor_pb2.TensorProto)
    assert_type(make_ndarray(proto), Array)
    assert_type(make_example({"f": 1}), example_pb2.Example)
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(proto)
    assert_type(request.model_spec.name, str)
    assert_type(types_pb2.DT_FLOAT in types_pb2.DataType.values(), bool)


def errors(client: Client) -> Code:
    try:
        client.predict("m", [1.0])
    except TensorError as error:
        assert_type(error.message, str)
        return error.code
    except InvalidArgument as error:
        return error.code
    return Code.OK
