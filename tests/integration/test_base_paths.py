"""
Base paths that are missing, unreadable, half copied or full of rubbish, on a server.

One server has a model of each kind, and a healthy one that gets new versions: when
those are served, the server has looked at all the others again.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from servable.client import Client
from servable.errors import Code, NotFound

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("servable._engine") is None,
        reason="the engine is not built",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
    ),
]

POLL_S: Final = 1
# A machine that does much else may take that long to load a model.
LOAD_S: Final = 4


@dataclass(frozen=True)
class Sickness:
    """
    What is wrong with a base path.

    Attributes:
        make: brings it about; gets the base path and a good `saved_model.pb`.
        cure: takes away what is in the way of a good version 1, or finishes it.
        log: what the log says once; `{path}` and `{name}` are replaced.
        code: of version 1, None when there is no version to have one.
    """

    make: Callable[[Path, bytes], object]
    cure: Callable[[Path, bytes], object]
    log: str
    code: Code | None = None


def graph(path: Path) -> Path:
    (path / "1").mkdir(parents=True, exist_ok=True)
    return path / "1" / "saved_model.pb"


def unfinished(path: Path, good: bytes) -> None:
    graph(path).with_suffix(".pb.part").write_bytes(good)


def finish(path: Path, _: bytes) -> None:
    graph(path).with_suffix(".pb.part").rename(graph(path))


def rubbish_names(path: Path, good: bytes) -> None:
    for name in ("one", "1.0", "v1", "٣", "99999999999999999999"):
        (path / name).mkdir(parents=True)
        (path / name / "saved_model.pb").write_bytes(good)
    (path / "saved_model.pb").write_bytes(good)
    (path / "README").write_text("x")


def a_good_version(path: Path, good: bytes) -> None:
    beside = path.parent / f"{path.name}.tmp"
    graph(beside).write_bytes(good)
    path.mkdir(exist_ok=True)
    (beside / "1").rename(path / "1")


def instead(path: Path, good: bytes) -> None:
    path.unlink()
    a_good_version(path, good)


def graph_after_all(path: Path, good: bytes) -> None:
    graph(path).rmdir()
    graph(path).write_bytes(good)


def make_readable(path: Path, _: bytes) -> None:
    path.chmod(0o755)


def make_unreadable(path: Path, good: bytes) -> None:
    graph(path).write_bytes(good)
    path.chmod(0)


NO_VERSIONS: Final = "No versions of servable {name} found under base path {path}."
NOT_LISTED: Final = "Could not list base path {path} of servable {name}: "
FAILED: Final = "Encountered an error for servable version {{name: {name} version: 1}}"
SICK: Final = {
    "missing": Sickness(
        lambda _path, _good: None,
        a_good_version,
        "Could not find base path {path} for servable {name} with error NOT_FOUND: "
        "{path} not found",
    ),
    "empty": Sickness(lambda path, _: path.mkdir(), a_good_version, NO_VERSIONS),
    "rubbish_names": Sickness(rubbish_names, a_good_version, NO_VERSIONS),
    "a_file": Sickness(
        lambda path, _: path.write_text("x"), instead, NOT_LISTED + "[Errno 20]"
    ),
    "a_link_to_itself": Sickness(
        lambda path, _: path.symlink_to(path), instead, NOT_LISTED + "[Errno 40]"
    ),
    "unreadable": Sickness(make_unreadable, make_readable, NOT_LISTED + "[Errno 13]"),
    "an_empty_version": Sickness(
        lambda path, _: graph(path),
        lambda path, good: graph(path).write_bytes(good),
        FAILED + ": NOT_FOUND: ",
        Code.NOT_FOUND,
    ),
    "no_byte_yet": Sickness(
        lambda path, _: graph(path).write_bytes(b""),
        lambda path, good: graph(path).write_bytes(good),
        FAILED + ": UNAVAILABLE: ",
        Code.UNAVAILABLE,
    ),
    "half_the_graph": Sickness(
        lambda path, good: graph(path).write_bytes(good[: len(good) // 2 + 1]),
        lambda path, good: graph(path).write_bytes(good),
        FAILED + ": OUT_OF_RANGE: ",
        Code.OUT_OF_RANGE,
    ),
    "unfinished": Sickness(
        unfinished, finish, FAILED + ": NOT_FOUND: ", Code.NOT_FOUND
    ),
    "rubbish": Sickness(
        lambda path, _: graph(path).write_bytes(bytes(range(256)) * 16),
        lambda path, good: graph(path).write_bytes(good),
        FAILED + ": DATA_LOSS: ",
        Code.DATA_LOSS,
    ),
    "a_directory_for_a_graph": Sickness(
        lambda path, _: graph(path).mkdir(),
        graph_after_all,
        FAILED + ": UNAVAILABLE: ",
        Code.UNAVAILABLE,
    ),
}
KINDS: Final = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            kind == "unreadable" and os.geteuid() == 0, reason="root reads everything"
        ),
    )
    for kind in SICK
]
API: Final = pytest.mark.parametrize("api", ["grpc", "rest"])


@dataclass(frozen=True)
class Ward:
    """A server with a model of each kind; `good` is a `saved_model.pb`."""

    server: Any
    base: Path
    good: bytes

    def log_line(self, kind: str) -> str:
        return SICK[kind].log.format(path=self.base / kind, name=kind)


@pytest.fixture(scope="module")
def ward(
    start: Any, write_version: Any, wait_until: Any, tmp_path_factory: Any
) -> Ward:
    base = tmp_path_factory.mktemp("models")
    good = (write_version(base / "healthy" / "1") / "saved_model.pb").read_bytes()
    for kind, sickness in SICK.items():
        sickness.make(base / kind, good)
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{base / name}" '
        'model_platform: "tensorflow" } '
        for name in ("healthy", *SICK)
    )
    config = base / "models.config"
    config.write_text(f"model_config_list {{ {listed} }}")
    server = start(
        f"--model_config_file={config}",
        f"--file_system_poll_wait_seconds={POLL_S}",
        "--max_num_load_retries=0",
    )
    ward = Ward(server, base, good)
    for kind in SICK:
        if kind != "unreadable" or os.geteuid() != 0:
            wait_until(lambda kind=kind: ward.log_line(kind) in server.log(), kind)
    # Each of these is seen by a poll of its own, after those that logged the lines.
    for version in (2, 3, 4):
        write_version(base / "healthy" / str(version))
        wait_until(
            lambda version=version: server.is_serving("healthy", version),
            f"version {version}",
        )
    return ward


@pytest.fixture
def client(ward: Ward, api: str) -> Any:
    with Client(ward.server.grpc if api == "grpc" else ward.server.rest) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_the_cause_is_logged_once(kind: str, ward: Ward) -> None:
    assert ward.server.log().count(ward.log_line(kind)) == 1


@pytest.mark.parametrize("kind", KINDS)
@API
def test_the_status_says_so(kind: str, client: Client) -> None:
    code = SICK[kind].code
    if code is None:
        with pytest.raises(NotFound) as caught:
            client.status(kind)
        assert caught.value.message == f"Could not find any versions of model {kind}"
    else:
        (status,) = client.status(kind)
        assert (status.version, status.state, status.code) == (1, "END", code)
        assert status.message


@pytest.mark.parametrize("kind", KINDS)
@API
def test_requests_are_answered_that_there_is_none(kind: str, client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.predict(kind, [1.0], signature="serving_default")

    assert caught.value.message == f"Servable not found for request: Latest({kind})"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_again_is_picked_up_within_two_polls(
    kind: str, ward: Ward, wait_until: Any
) -> None:
    began_at = time.monotonic()
    SICK[kind].cure(ward.base / kind, ward.good)

    wait_until(lambda: ward.server.is_serving(kind, 1), f"version 1 of {kind}")

    assert time.monotonic() - began_at <= 2 * POLL_S + LOAD_S
    with Client(ward.server.grpc) as client:
        assert client.predict(kind, [1.0])["y"].tolist() == [2.5]
        (status,) = client.status(kind)
    assert (status.state, status.code) == ("AVAILABLE", Code.OK)
    assert ward.server.is_serving("healthy", 4)
