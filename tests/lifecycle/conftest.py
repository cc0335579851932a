"""Servers in this process, with the compiled engine and models of a few bytes."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable import server as server_module
from servable.apis import get_model_metadata_pb2, types_pb2
from servable.client import Client
from servable.config.model_server_config import ModelConfig
from servable.config.server_options import ServerOptions
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import InvalidArgument, NotFound
from servable.server import Server

WAIT_S = 30.0


def signatures() -> bytes:
    """Return the signatures of a model with one number in and one out."""
    message = get_model_metadata_pb2.SignatureDefMap()
    signature = message.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        tensors[name].name = f"{name}:0"
        tensors[name].dtype = types_pb2.DT_FLOAT
        tensors[name].tensor_shape.dim.add(size=-1)
    return message.SerializeToString()


class Adds:
    """
    A servable that adds a number.

    The words in its file `model` say which, and what else it does: `fails N` every Nth
    run, `sleeps S` seconds in each, `bytes N` of memory it claims to need.
    """

    def __init__(self, words: Sequence[str]) -> None:
        said = dict(zip(words[::2], words[1::2], strict=True))
        self._number = np.float32(said.get("adds", 0))
        self._fails = int(said.get("fails", 0))
        self._sleep_s = float(said.get("sleeps", 0))
        self.size_bytes = int(said.get("bytes", 0))
        self.runs = 0

    def run(
        self,
        signature_name: str,
        inputs: Mapping[str, tuple[int, tuple[int, ...], Any]],
        outputs: Sequence[str],
    ) -> Sequence[tuple[int, tuple[int, ...], object]]:
        del signature_name, outputs
        self.runs += 1
        if self._fails and self.runs % self._fails == 0:
            raise InvalidArgument("fails, as it was told")
        time.sleep(self._sleep_s)
        number, shape, data = inputs["x"]
        added = np.frombuffer(data, np.float32) + self._number
        return [(number, shape, added.tobytes())]


class AddsLoader:
    def __init__(self, path: str) -> None:
        self._path = Path(path) / "model"
        self._adds: Adds | None = None
        self._servable: Any = None

    def estimate_resources(self) -> int:
        return Adds(self._path.read_text().split()).size_bytes if self._there() else 0

    def load(self) -> None:
        from servable import _engine  # noqa: PLC0415 - only where it is built

        if not self._there():
            raise NotFound(f"nothing in version {self._path.parent.name}")
        self._adds = Adds(self._path.read_text().split())
        self._servable = _engine.python_servable(self._adds, signatures())

    def servable(self) -> object:
        return self._servable

    def unload(self) -> None:
        self._servable.close()

    def _there(self) -> bool:
        return self._path.exists()


class AddsPlatform:
    name = "tensorflow"

    def loader(self, _: ServableId, path: StoragePath) -> AddsLoader:
        return AddsLoader(path)


def publish(base: Path, version: int, words: str = "") -> None:
    """Write a version, at once; by default it adds its own number."""
    beside = base.parent / f"{base.name}-{version}.tmp"
    beside.mkdir(parents=True)
    (beside / "model").write_text(words or f"adds {version}")
    base.mkdir(exist_ok=True)
    beside.rename(base / str(version))


@dataclass
class Running:
    """A server that runs, and a client of it."""

    server: Server
    client: Client

    def answers(self, model: str = "m", times: int = 1, **choice: Any) -> list[int]:
        """Return which versions answered."""
        return [
            int(self.client.predict(model, [0.0], **choice).version or 0)
            for _ in range(times)
        ]

    def states(self, model: str = "m") -> list[str]:
        """Return `<version> <STATE>`, highest version first."""
        states = self.server.states().get(model, [])
        return [f"{s.id.version} {s.manager_state.name}" for s in states]

    def before_load(
        self, monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]
    ) -> None:
        """Have every load make a *call* before it begins."""
        load = AddsLoader.load

        def observed(loader: AddsLoader) -> None:
            call()
            load(loader)

        monkeypatch.setattr(AddsLoader, "load", observed)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what other threads do; fail when it takes long."""
        give_up_at = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < give_up_at, self.server.states()
            time.sleep(0.01)


@pytest.fixture(name="publish")
def _publish() -> Callable[..., None]:
    return publish


@pytest.fixture
def serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Running]]:
    """Return what serves base paths by model name, and options of the server."""
    pytest.importorskip("servable._engine", reason="needs the compiled engine")
    monkeypatch.setattr(
        server_module.Server, "_new_platform", lambda _, __: AddsPlatform()
    )
    defaults: dict[str, Any] = {
        "grpc_host": "127.0.0.1",
        "grpc_port": 0,
        "max_num_load_retries": 0,
        "file_system_poll_wait_s": 0.02,
        "shutdown_grace_s": 5.0,
    }
    with contextlib.ExitStack() as running:

        def serve(*models: ModelConfig, **options: Any) -> Running:
            served = models or (ModelConfig("m", str(tmp_path / "m")),)
            wanted = ServerOptions(**defaults | {"models": served} | options)
            server = running.enter_context(Server(wanted))
            address = f"127.0.0.1:{server.grpc_port}"
            client = running.enter_context(Client(address, attempts=1))
            return Running(server, client)

        yield serve
