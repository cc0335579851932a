"""
Models that are damaged or do what they should not, in a real server: it goes on, and
so do the models beside them.

SERVABLE_FUZZ_MODELS says how many damaged ones are tried.
"""

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

pytest.importorskip("servable._engine")

from servable.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
    saved_model_pb2,
    session_service_pb2,
    types_pb2,
)
from servable.client import Client, VersionStatus, make_ndarray, make_tensor_proto
from servable.errors import Aborted, InvalidArgument

COUNT = int(os.environ.get("SERVABLE_FUZZ_MODELS", "48"))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> bytes:
    version = write_version(tmp_path_factory.mktemp("whole") / "m" / "1")
    return (version / "saved_model.pb").read_bytes()


def damaged(data: bytes, numbers: random.Random) -> bytes:
    """Return *data* with a few bytes changed, left out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(numbers.choice((1, 1, 2, 8))):
        at = numbers.randrange(len(changed) or 1)
        if at >= len(changed):
            break
        match numbers.randrange(5):
            case 0:
                changed[at] ^= 1 << numbers.randrange(8)
            case 1:
                changed[at] = numbers.choice(b"\x00\x01\x7f\x80\xff")
            case 2:
                del changed[at : at + numbers.choice((1, 4, 64))]
            case 3:
                piece = changed[at : at + numbers.choice((1, 16, 256))]
                changed[at:at] = piece
            case _:
                del changed[max(at, 1) :]
    return bytes(changed)


def written(directory: Path, whole: bytes) -> Iterator[str]:
    """Write damaged models as m0, m1, …; yield their configurations."""
    for number in range(COUNT):
        numbers = random.Random(number)  # noqa: S311 - the same each time
        version = directory / f"m{number}" / "1"
        (version / "variables").mkdir(parents=True)
        (version / "assets.extra").mkdir()
        kind = number % 6
        (version / "saved_model.pb").write_bytes(
            whole if kind == 1 else damaged(whole, numbers)
        )
        if kind == 1:
            # No table of a checkpoint begins so.
            index = version / "variables" / "variables.index"
            index.write_bytes(numbers.randbytes(64))
            data = version / "variables" / "variables.data-00000-of-00001"
            data.write_bytes(numbers.randbytes(16))
        if kind == 2:
            config = version / "assets.extra" / "saved_model_config.pb"
            config.write_bytes(numbers.randbytes(32))
        if kind == 3:
            warmup = version / "assets.extra" / "tf_serving_warmup_requests"
            warmup.write_bytes(numbers.randbytes(64))
        yield _config(f"m{number}", version.parent)


def _config(name: str, base_path: Path) -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" '
        'model_platform: "tensorflow" }'
    )


def test_damaged_models_end_themselves_and_nothing_else(
    start: Callable[..., Any],
    tmp_path: Path,
    whole: bytes,
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    good = write_version(tmp_path / "good" / "1").parent
    config = tmp_path / "models.config"
    configs = [*written(tmp_path, whole), _config("good", good)]
    config.write_text(f"model_config_list {{ {' '.join(configs)} }}")
    server = start(
        *(f"--model_config_file={config}", "--wait_for_models=false"),
        *("--max_num_load_retries=0", "--num_load_threads=2"),
    )
    done = {"AVAILABLE", "END"}

    def states() -> dict[str, VersionStatus]:
        with Client(server.grpc) as client:
            return {
                name: versions[0]
                for name in (*(f"m{n}" for n in range(COUNT)), "good")
                if (versions := client.status(name))
            }

    wait_until(lambda: server.is_serving("good"), "good model")
    wait_until(lambda: {s.state for s in states().values()} <= done, "end of loading")
    found = states()

    assert server.process.poll() is None
    assert server.is_serving("good")
    assert len(found) == COUNT + 1
    # Most do harm to themselves, or nothing was tried here.
    assert sum(s.state == "END" for s in found.values()) > COUNT // 2
    assert {s.code.name for s in found.values()} <= {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "DATA_LOSS", "FAILED_PRECONDITION"),
        *("INTERNAL", "UNIMPLEMENTED", "OUT_OF_RANGE", "UNAVAILABLE", "ABORTED"),
    }


def writer(path: Path) -> bytes:
    """Return a SavedModel whose signature writes what it is fed to the file *path*."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882
    text = graph.node.add(name="text", op="Placeholder")
    text.attr["dtype"].type = types_pb2.DT_STRING
    name = graph.node.add(name="name", op="Const")
    name.attr["dtype"].type = types_pb2.DT_STRING
    name.attr["value"].tensor.dtype = types_pb2.DT_STRING
    name.attr["value"].tensor.string_val.append(str(path).encode())
    name.attr["value"].tensor.tensor_shape.SetInParent()
    graph.node.add(name="write", op="WriteFile", input=["name", "text"])
    done = graph.node.add(name="done", op="Identity", input=["text", "^write"])
    done.attr["T"].type = types_pb2.DT_STRING
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for info, tensor in (
        (signature.inputs["x"], "text:0"),
        (signature.outputs["y"], "done:0"),
    ):
        info.name, info.dtype = tensor, types_pb2.DT_STRING
        info.tensor_shape.SetInParent()
    return model.SerializeToString()


def test_a_version_that_could_write_files_is_not_loaded_where_that_is_forbidden(
    start: Callable[..., Any],
    tmp_path: Path,
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    written = tmp_path / "written"
    base_path = write_version(tmp_path / "m" / "1").parent
    flags = f"--model_base_path={base_path}", "--model_name=m", "--wait_for_models=true"
    forbidden = "--forbid_ops=files,python,network,abort"
    guarded = start(*flags, forbidden, "--max_num_load_retries=0")
    unguarded = start(*flags)
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "saved_model.pb").write_bytes(writer(written))
    beside.rename(base_path / "2")

    def second(server: Any) -> VersionStatus | None:
        with Client(server.grpc) as client:
            found = {status.version: status for status in client.status("m")}
            return found.get(2)

    def is_available() -> bool:
        status = second(unguarded)
        return status is not None and status.state == "AVAILABLE"

    def is_refused() -> bool:
        status = second(guarded)
        return status is not None and status.error is not None

    # It is what it is taken for.
    wait_until(is_available, "version that writes")
    with Client(unguarded.grpc) as client:
        client.predict("m", {"x": "it"})
    assert written.read_text() == "it"

    wait_until(is_refused, "refusal")
    status = second(guarded)
    assert status is not None
    assert status.error is not None
    assert "forbid_ops forbids: WriteFile (files)" in str(status.error)
    assert guarded.is_serving("m", 1)


EXPORT = """
import sys, keras
layers = [keras.Input((6, 6, 2), name="image"), keras.layers.Conv2D(4, 3)]
keras.Sequential(layers).export(sys.argv[1], verbose=False)
"""


@pytest.fixture(scope="module")
def pictures(
    start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[tuple[int, ...]], np.ndarray]]:
    """A convolution in a server; what it answers to ones of a shape."""
    base_path = tmp_path_factory.mktemp("pictures") / "m"
    command = [sys.executable, "-c", EXPORT, str(base_path / "1")]
    subprocess.run(command, check=True, capture_output=True)
    server = start(str(base_path), "--wait_for_models")
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def ask(shape: tuple[int, ...]) -> np.ndarray:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            tensor = make_tensor_proto(np.ones(shape, np.float32))
            request.inputs["image"].CopyFrom(tensor)
            answer = stub.Predict(request, timeout=30)
            return make_ndarray(answer.outputs["output_0"])

        yield ask


@pytest.mark.parametrize(
    ("shape", "refusal"),
    [
        ((), "input image must have 4 dimensions"),
        ((1,), "input image must have 4 dimensions"),
        ((6, 6), "input image must have 4 dimensions"),
        ((6, 6, 2), "input image must have 4 dimensions"),
        ((1, 6, 6, 2, 1), "input image must have 4 dimensions"),
        ((1, 6, 6, 3), "input depth must be evenly divisible"),
    ],
    ids=str,
)
def test_what_is_no_picture_does_not_end_the_server(
    pictures: Callable[[tuple[int, ...]], np.ndarray],
    shape: tuple[int, ...],
    refusal: str,
) -> None:
    with pytest.raises(grpc.RpcError, match=refusal) as caught:
        pictures(shape)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert pictures((2, 6, 6, 2)).shape == (2, 4, 4, 4)


def test_no_pictures_at_all_are_answered(
    pictures: Callable[[tuple[int, ...]], np.ndarray],
) -> None:
    assert pictures((0, 6, 6, 2)).size == 0
    assert pictures((2, 6, 6, 2)).shape == (2, 4, 4, 4)


def unranked() -> bytes:
    """Return a SavedModel that convolves, or gives back, what has no rank."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882
    picture = graph.node.add(name="picture", op="Placeholder")
    picture.attr["dtype"].type = types_pb2.DT_FLOAT
    kernel = graph.node.add(name="kernel", op="Const")
    kernel.attr["dtype"].type = types_pb2.DT_FLOAT
    ones = make_tensor_proto(np.ones((3, 3, 2, 4), np.float32))
    kernel.attr["value"].tensor.MergeFromString(ones.SerializeToString())
    convolved = graph.node.add(name="convolved", op="Conv2D")
    convolved.input.extend(["picture", "kernel"])
    convolved.attr["T"].type = types_pb2.DT_FLOAT
    convolved.attr["strides"].list.i.extend([1] * 4)
    convolved.attr["padding"].s = b"VALID"
    same = graph.node.add(name="same", op="Identity", input=["picture"])
    same.attr["T"].type = types_pb2.DT_FLOAT
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for infos, name in (
        (signature.inputs, "picture"),
        (signature.outputs, "convolved"),
        (signature.outputs, "same"),
    ):
        infos[name].name, infos[name].dtype = f"{name}:0", types_pb2.DT_FLOAT
        infos[name].tensor_shape.unknown_rank = True
    return model.SerializeToString()


def test_what_no_rank_is_said_of_is_judged_by_where_it_goes(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(unranked())
    flags = "--wait_for_models", "--enable_session_service"
    server = start(str(version.parent), *flags)

    def run_session(shape: tuple[int, ...]) -> grpc.StatusCode:
        request = session_service_pb2.SessionRunRequest(fetch=["convolved"])
        request.model_spec.name = "m"
        tensor = make_tensor_proto(np.ones(shape, np.float32)).SerializeToString()
        request.feed.add(name="picture").tensor.MergeFromString(tensor)
        with grpc.insecure_channel(server.grpc) as channel:
            method = "/tensorflow.serving.SessionService/SessionRun"
            ask: Any = channel.unary_unary(method)
            try:
                ask(request.SerializeToString(), timeout=60)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    def ask(shape: tuple[int, ...], output: str) -> tuple[int, ...]:
        with Client(server.grpc) as client:
            picture = np.ones(shape, np.float32)
            answer = client.predict("m", {"picture": picture}, outputs=[output])
            return np.shape(answer[output])

    for shape in ((), (2,), (6, 6), (6, 6, 2), (0, 2)):
        with pytest.raises(
            InvalidArgument, match="input picture must have 4 dimensions"
        ):
            ask(shape, "convolved")
        assert run_session(shape) is grpc.StatusCode.INVALID_ARGUMENT
        assert ask(shape, "same") == shape
    assert run_session((1, 6, 6, 2)) is grpc.StatusCode.OK
    assert ask((1, 6, 6, 2), "convolved") == (1, 4, 4, 4)


POOLS = """
import sys, keras
from keras import layers
pictures = keras.Sequential([
    keras.Input((None, None, 2), name="input"),
    layers.ZeroPadding2D(1),
    layers.Conv2D(4, 3),
    layers.BatchNormalization(),
    layers.ReLU(),
    layers.MaxPooling2D(3, strides=2),
    layers.Conv2D(4, 3, padding="same"),
    layers.MaxPooling2D(2, strides=1),
])
rows = keras.Sequential([
    keras.Input((None, 2), name="input"),
    layers.Conv1D(4, 3),
    layers.MaxPooling1D(3, strides=2),
])
for name, model in (("pictures", pictures), ("rows", rows)):
    model.export(f"{sys.argv[1]}/{name}/1", verbose=False)
"""


def test_what_is_too_narrow_for_a_pool_does_not_end_the_server(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", POOLS, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{tmp_path / name}" '
            'model_platform: "tensorflow" }'
            for name in ("pictures", "rows")
        )
        + "}"
    )
    server = start(f"--model_config_file={config}", "--wait_for_models")

    def widths(model: str, shape: Callable[[int], tuple[int, ...]]) -> dict[int, int]:
        """Return the widths that are answered, with those of the answers."""
        answered = {}
        for width in range(12):
            picture = np.ones(shape(width), np.float32)
            with contextlib.suppress(InvalidArgument, Aborted):
                answer = client.predict(model, {"input": picture})
                answered[width] = np.shape(answer["output_0"])[-2]
        return answered

    with Client(server.grpc) as client:
        for model, ending in (("pictures", (1, 1, 1, 2)), ("rows", (1, 3, 2))):
            with pytest.raises(InvalidArgument, match="input input is too narrow"):
                client.predict(model, {"input": np.ones(ending, np.float32)})
        pictures = widths("pictures", lambda width: (1, 9, width, 2))
        assert pictures == {width: (width - 3) // 2 for width in range(5, 12)}
        rows = widths("rows", lambda width: (1, width, 2))
        assert rows == {width: (width - 3) // 2 for width in range(5, 12)}
