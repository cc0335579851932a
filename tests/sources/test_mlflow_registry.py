"""An MLflow registry: a real server, and what base paths and artifacts may say."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from servable.errors import FailedPrecondition, InvalidArgument, NotFound
from servable.sources.cache import Fetching, ModelCache
from servable.sources.mlflow_registry import (
    MlflowStore,
    RegisteredModel,
    mlflow_source,
    narrowed,
)
from servable.sources.registry import SourceOptions
from servable.sources.store import Content, LocalContent, RemoteFile
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
)

pytestmark = pytest.mark.slow
START_S = 90.0


class Registry:
    """An MLflow server with its own artifacts, on SQLite and in a directory."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def publish(self, name: str, directory: Path, alias: str = "") -> None:
        """Log the files below *directory* to a run, and register them."""
        self.ask("POST", "registered-models/create", name=name)
        run = self.ask("POST", "runs/create", experiment_id="0")["run"]["info"]
        artifacts = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for file in filter(Path.is_file, directory.rglob("*")):
            inside = f"{artifacts}/model/{file.relative_to(directory)}"
            url = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{quote(inside)}"
            httpx.put(url, content=file.read_bytes()).raise_for_status()
        source, run_id = f"{run['artifact_uri']}/model", run["run_id"]
        version = self.ask(
            "POST", "model-versions/create", name=name, source=source, run_id=run_id
        )["model_version"]["version"]
        if alias:
            self.ask(
                "POST",
                "registered-models/alias",
                name=name,
                alias=alias,
                version=version,
            )

    def ask(self, method: str, path: str, **arguments: str) -> dict[str, Any]:
        url = f"{self.url}/api/2.0/mlflow/{path}"
        answer = httpx.request(method, url, json=arguments, timeout=60.0)
        found: dict[str, Any] = answer.json()
        is_known = found.get("error_code") == "RESOURCE_ALREADY_EXISTS"
        assert answer.is_success or is_known, found
        return found


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    directory = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
        *("--artifacts-destination", str(directory / "artifacts")),
    ]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=directory,
            start_new_session=True,
        )
        try:
            registry = Registry(port)
            _wait_for(registry, process, directory / "log")
            yield registry
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _wait_for(registry: Registry, process: Any, log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{registry.url}/health").is_success:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up_at, log.read_text()
        time.sleep(0.2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return what MLflow makes of a SavedModel."""
    path = tmp_path / "logged"
    (path / "tf2model" / "variables").mkdir(parents=True)
    (path / "MLmodel").write_text("flavors: {}\n")
    (path / "tf2model" / "saved_model.pb").write_bytes(b"graph")
    big = os.urandom(9 << 20)
    (path / "tf2model" / "variables" / "variables data").write_bytes(big)
    return path


def content_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@contextlib.contextmanager
def looking(cache: ModelCache, target: Any, base_path: str) -> Iterator[None]:
    source = mlflow_source(SourceOptions(0.1, cache))
    servable = ServableToMonitor("m", base_path)
    source.set_config(FileSystemStoragePathSourceConfig((servable,)))
    source.set_target(target)
    try:
        yield
    finally:
        source.stop()


def test_what_is_registered_is_served(
    registry: Registry, model: Path, cache: ModelCache, waiting_target: Any
) -> None:
    with looking(cache, waiting_target, f"mlflow://{registry.address}/it's%20plus"):
        registry.publish("it's plus", model)
        (first,) = waiting_target.wait_for("m", 1)
        (model / "tf2model" / "saved_model.pb").write_bytes(b"better")
        registry.publish("it's plus", model)
        (second,) = waiting_target.wait_for("m", 2)

    assert content_of(first)["saved_model.pb"] == b"graph"
    assert content_of(second) == content_of(model / "tf2model")


def test_an_alias_is_one_version(
    registry: Registry,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.url)
    store = MlflowStore("models:/aliased@champion")
    registry.publish("aliased", model, alias="champion")
    registry.publish("aliased", model)
    assert list(MlflowStore("models:/aliased").children()) == ["2", "1"]
    assert list(store.children()) == ["1"]
    registry.publish("aliased", model, alias="champion")

    assert list(store.children()) == ["3"]


def test_a_fetch_goes_on_where_it_was(
    registry: Registry, model: Path, cache: ModelCache
) -> None:
    registry.publish("resumed", model)
    content = MlflowStore(f"mlflow://{registry.address}/resumed").content("1")
    assert isinstance(content, Content)
    file = next(file for file in content.files if file.name.startswith("variables"))
    whole = b"".join(content.read(file, 0))

    assert b"".join(content.read(file, 5_000_001)) == whole[5_000_001:]
    lease = cache.fetch(content, Fetching())
    assert content_of(Path(lease.path)) == content_of(model / "tf2model")


def test_another_directory_of_the_artifacts_may_be_the_version(
    registry: Registry, model: Path
) -> None:
    registry.publish("directory", model)
    base_path = f"mlflow://{registry.address}/directory"
    content = MlflowStore(f"{base_path}#tf2model/variables").content("1")
    assert isinstance(content, Content)

    assert [file.name for file in content.files] == ["variables data"]
    with pytest.raises(NotFound, match="There is no directory none"):
        MlflowStore(f"{base_path}#none").content("1")


@pytest.mark.parametrize("name", ["none", "none@alias", "known@alias"])
def test_what_is_not_registered_is_a_missing_base_path(
    name: str, registry: Registry
) -> None:
    registry.ask("POST", "registered-models/create", name="known")
    with pytest.raises(FileNotFoundError):
        MlflowStore(f"mlflow://{registry.address}/{name}").children()


@pytest.mark.parametrize(
    ("base_path", "expected"),
    [
        ("models:/m", RegisteredModel("http://registry", "m")),
        ("models:/m@champion", RegisteredModel("http://registry", "m", "champion")),
        ("models:/a%20b#x/y/", RegisteredModel("http://registry", "a b", "", "x/y")),
        ("mlflow://host:5000/m", RegisteredModel("http://host:5000", "m")),
        ("mlflow+https://host/m", RegisteredModel("https://host", "m")),
    ],
)
def test_what_base_paths_say(
    base_path: str, expected: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://registry/")

    assert RegisteredModel.of(base_path) == expected


@pytest.mark.parametrize(
    ("base_path", "error", "text"),
    [
        ("models:/m", FailedPrecondition, "MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI"),
        ("mlflow://host:5000", InvalidArgument, "Expected the name"),
        ("mlflow://host/m/3", InvalidArgument, "Expected the name"),
        ("mlflow:///m", InvalidArgument, "names no MLflow server"),
    ],
)
def test_what_is_refused(
    base_path: str,
    error: type[Exception],
    text: str,
    cache: ModelCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    config = FileSystemStoragePathSourceConfig((ServableToMonitor("m", base_path),))

    with pytest.raises(error, match=text):
        mlflow_source(SourceOptions(1.0, cache)).check(config)


@pytest.mark.parametrize(
    ("names", "directory", "expected"),
    [
        pytest.param(
            ["MLmodel", "tf2model/saved_model.pb", "tf2model/variables/x"],
            None,
            ["saved_model.pb", "variables/x"],
            id="the directory of the SavedModel",
        ),
        pytest.param(
            ["saved_model.pb", "variables/x"],
            None,
            ["saved_model.pb", "variables/x"],
            id="a SavedModel at the top",
        ),
        pytest.param(
            ["MLmodel", "model.skops"], None, ["MLmodel", "model.skops"], id="others"
        ),
        pytest.param(
            ["a/saved_model.pb", "b/saved_model.pb"],
            None,
            ["a/saved_model.pb", "b/saved_model.pb"],
            id="two SavedModels",
        ),
        pytest.param(
            ["a/saved_model.pb", "b/saved_model.pb"],
            "b",
            ["saved_model.pb"],
            id="the directory that is named",
        ),
    ],
)
@pytest.mark.parametrize("is_local", [False, True], ids=["remote", "local"])
def test_which_artifacts_are_the_version(
    names: list[str],
    directory: str | None,
    expected: list[str],
    is_local: bool,
    tmp_path: Path,
) -> None:
    found: Content | LocalContent
    if is_local:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(name)
        found = narrowed(LocalContent(str(tmp_path)), directory)
        assert isinstance(found, LocalContent)
        read = {k: v.decode() for k, v in content_of(Path(found.path)).items()}
    else:
        files = tuple(RemoteFile(name, len(name), name) for name in names)
        found = narrowed(
            Content(files, lambda file, _: iter([file.name.encode()])), directory
        )
        assert isinstance(found, Content)
        read = {f.name: b"".join(found.read(f, 0)).decode() for f in found.files}

    assert sorted(read) == expected
    assert (
        sorted(read.values())
        == sorted(
            name for name in names if any(name.endswith(end) for end in expected)
        )[-len(expected) :]
    )
