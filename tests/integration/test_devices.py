"""Which devices models run on, and what becomes of those for other devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("servable._engine")

from servable.apis import saved_model_pb2
from servable.client import Client
from servable.errors import Code

HAS_GPU = Path("/dev/nvidia0").exists()


@pytest.fixture
def gpu_model(write_version: Callable[..., Path], tmp_path: Path) -> Path:
    """A model whose graph asks for a GPU."""
    file = write_version(tmp_path / "m" / "1") / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for node in model.meta_graphs[0].graph_def.node:
        if node.name == "y":
            node.device = "/device:GPU:0"
    file.write_bytes(model.SerializeToString())
    return tmp_path / "m"


def flags(model: Path, session_config: str) -> list[str]:
    file = model.parent / "session"
    file.write_text(session_config)
    return [
        "--model_name=m",
        f"--model_base_path={model}",
        f"--tensorflow_session_config_file={file}",
        "--wait_for_models=true",
    ]


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU, and it is asked for")
def test_a_model_for_a_device_that_is_missing_fails_its_load(
    start: Callable[..., Any], wait_until: Callable[..., None], gpu_model: Path
) -> None:
    waits, *others = reversed(flags(gpu_model, "# nothing"))
    assert waits == "--wait_for_models=true"
    server = start(*others, "--max_num_load_retries=0")
    wait_until(lambda: "Encountered an error" in server.log(), "failure of the load")
    with Client(server.grpc, attempts=1) as client:
        (version,) = client.status("m")

    assert (version.state, version.code) == ("END", Code.INVALID_ARGUMENT)
    assert "Cannot assign a device for operation y" in version.message


def test_with_soft_placement_it_runs_where_it_can(
    start: Callable[..., Any], gpu_model: Path
) -> None:
    server = start(*flags(gpu_model, "allow_soft_placement: true"))

    with Client(server.grpc, attempts=1) as client:
        assert client.predict("m", [1.0])["y"].tolist() == [2.5]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
def test_the_memory_of_gpus_is_shown(
    start: Callable[..., Any], gpu_model: Path
) -> None:
    server = start(*flags(gpu_model, "gpu_options { allow_growth: true }"))
    with Client(server.grpc, attempts=1) as client:
        client.predict("m", [1.0])
    page = httpx.get(f"{server.rest}/metrics").text

    assert 'servable_gpu_memory_total_bytes{device="0"}' in page
    assert 'servable_gpu_memory_used_bytes{device="0"}' in page
