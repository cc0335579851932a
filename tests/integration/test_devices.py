"""Which devices models run on, and what becomes of those for other devices."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("servable._engine")

from servable.apis import saved_model_pb2, types_pb2
from servable.client import Client, make_tensor_proto
from servable.errors import Code

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not Path("/dev/nvidia0").exists(), reason="there is no GPU of NVIDIA's"
    ),
]
SIZE = 4096  # of a square matrix
MATRIX_MIB = SIZE * SIZE * 4 >> 20
MIB = 1 << 20


@pytest.fixture
def misplaced_model(write_version: Callable[..., Path], tmp_path: Path) -> Path:
    """A model whose graph asks for a GPU that no machine has."""
    file = write_version(tmp_path / "m" / "1") / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for node in model.meta_graphs[0].graph_def.node:
        if node.name == "y":
            node.device = "/device:GPU:63"
    file.write_bytes(model.SerializeToString())
    return tmp_path / "m"


def write_matrix(path: Path, factor: float) -> None:
    """Write, at once, a version that multiplies by a matrix which is on a GPU."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882
    fed = graph.node.add(name="x", op="Placeholder")
    fed.attr["dtype"].type = types_pb2.DT_FLOAT
    matrix = graph.node.add(name="matrix", op="Const")
    matrix.attr["dtype"].type = types_pb2.DT_FLOAT
    values = make_tensor_proto(np.full((SIZE, SIZE), factor / SIZE, np.float32))
    matrix.attr["value"].tensor.MergeFromString(values.SerializeToString())
    product = graph.node.add(name="y", op="MatMul", input=["x", "matrix"])
    product.device = "/device:GPU:0"
    product.attr["T"].type = types_pb2.DT_FLOAT
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for infos, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        infos[name].name, infos[name].dtype = f"{name}:0", types_pb2.DT_FLOAT
        for size in (-1, SIZE):
            infos[name].tensor_shape.dim.add(size=size)
    beside = path.parent.parent / f"{path.name}.tmp"
    beside.mkdir(parents=True)
    (beside / "saved_model.pb").write_bytes(model.SerializeToString())
    path.parent.mkdir(exist_ok=True)
    beside.rename(path)


def answer(server: Any) -> float:
    with Client(server.grpc, attempts=1) as client:
        product = client.predict("m", np.ones((1, SIZE), np.float32))["y"]
    return float(product[0, 0])


def gpu_memory_mib(server: Any) -> dict[str, float]:
    page = httpx.get(f"{server.rest}/metrics").text
    found = re.findall(
        r'^servable_gpu_memory_(\w+)_bytes\{device="0"\} (\S+)$', page, re.MULTILINE
    )
    return {name: float(value) / MIB for name, value in found}


def flags(model: Path, session_config: str) -> list[str]:
    file = model.parent / "session"
    file.write_text(session_config)
    return [
        "--model_name=m",
        f"--model_base_path={model}",
        f"--tensorflow_session_config_file={file}",
        "--wait_for_models=true",
    ]


def test_a_model_for_a_device_that_is_missing_fails_its_load(
    start: Callable[..., Any], wait_until: Callable[..., None], misplaced_model: Path
) -> None:
    waits, *others = reversed(flags(misplaced_model, "# nothing"))
    assert waits == "--wait_for_models=true"
    server = start(*others, "--max_num_load_retries=0")
    wait_until(lambda: "Encountered an error" in server.log(), "failure of the load")
    with Client(server.grpc, attempts=1) as client:
        (version,) = client.status("m")

    assert (version.state, version.code) == ("END", Code.INVALID_ARGUMENT)
    assert "Cannot assign a device for operation y" in version.message


def test_with_soft_placement_it_runs_where_it_can(
    start: Callable[..., Any], misplaced_model: Path
) -> None:
    # On a GPU it leaves room for the servers of the other tests.
    config = "allow_soft_placement: true gpu_options { allow_growth: true }"
    server = start(*flags(misplaced_model, config))

    with Client(server.grpc, attempts=1) as client:
        assert client.predict("m", [1.0])["y"].tolist() == [2.5]


class TestOnAGpu:
    pytestmark = needs_gpu

    def test_versions_that_go_leave_their_memory_to_those_that_come(
        self, start: Callable[..., Any], wait_until: Callable[..., None], tmp_path: Path
    ) -> None:
        base_path = tmp_path / "m"
        write_matrix(base_path / "1", 1.0)
        server = start(*flags(base_path, "gpu_options { allow_growth: true }"))
        used = []
        for version in range(1, 7):
            write_matrix(base_path / str(version + 1), version + 1.0)
            wait_until(
                lambda version=version: abs(answer(server) - version - 1) < 0.01,
                "answer of the new version",
            )
            shutil.rmtree(base_path / str(version))
            used.append(gpu_memory_mib(server)["used"])

        assert used[0] >= MATRIX_MIB
        assert used[-1] - used[1] < MATRIX_MIB, used

    def test_it_takes_no_more_than_its_part(
        self, start: Callable[..., Any], tmp_path: Path
    ) -> None:
        write_matrix(tmp_path / "m" / "1", 1.0)
        no_models = tmp_path / "config"
        no_models.write_text("# nothing")
        before = start(f"--model_config_file={no_models}")
        others = gpu_memory_mib(before)["used"]
        server = start(
            *flags(tmp_path / "m", "# nothing"), "--per_process_gpu_memory_fraction=0.1"
        )
        assert abs(answer(server) - 1) < 0.01
        memory = gpu_memory_mib(server)

        # What the driver and the libraries take is beside that part.
        assert 0.09 < (memory["used"] - others) / memory["total"] < 0.15
