"""The example of a source: its versions answer, and have one list of words."""

import contextlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable import plugins
from servable.client import Client
from servable.config.server_options import ServerOptions
from servable.errors import Code, NotFound
from servable.server import Server

WORDS = [f"word{number}" for number in range(1000)]
# What the words count, and the scores of a version.
SHARED_BYTES = 100 * len(WORDS) + sum(len(word) + 1 for word in WORDS)


def write(base: Path, version: int, scale: float, count: int = len(WORDS)) -> None:
    beside = base.parent / f"{version}.tmp"
    beside.mkdir(parents=True)
    scores = json.dumps([scale * number for number in range(count)])
    (beside / "scores.json").write_text(scores)
    base.mkdir(exist_ok=True)
    (base / "vocabulary.txt").write_text("".join(f"{word}\n" for word in WORDS))
    beside.rename(base / str(version))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "models" / "words"
    for version in (1, 2):
        write(base, version, float(version))
    return base


@pytest.fixture
def start(
    base: Path, tmp_path: Path, install: Callable[[str], None]
) -> Iterator[Callable[..., Server]]:
    install("vocabulary_source")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "words" model_platform: "tensorflow" '
        f'base_path: "vocabulary://{base}" model_version_policy {{ all {{}} }} }} }}'
    )
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(
            ServerOptions(
                model_config_file=str(config),
                grpc_host="127.0.0.1",
                grpc_port=0,
                file_system_poll_wait_s=0.1,
                wait_for_models=False,
                **options,
            )
        )
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


def wait_for_states(client: Client, count: int) -> dict[int, tuple[str, Code]]:
    """Wait until as many versions stay as they are, and return how they are."""
    give_up_at = time.monotonic() + 30.0
    states: dict[int, tuple[str, Code]] = {}
    while len(states) < count:
        assert time.monotonic() < give_up_at, states
        time.sleep(0.01)
        with contextlib.suppress(NotFound):
            states = {
                found.version: (found.state, Code(found.code))
                for found in client.status("words")
                if found.state in {"AVAILABLE", "END"}
            }
    return states


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list of what is read as a vocabulary from now on."""
    module = importlib.import_module("servable_vocabulary")
    seen: list[Path] = []
    read = module.read_words

    def noted(path: Path) -> Any:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(module, "read_words", noted)
    return seen


def test_it_is_listed_with_its_package(install: Callable[[str], None]) -> None:
    install("vocabulary_source")

    listed = {p.name: p for p in plugins.installed(plugins.SOURCES)}

    assert listed["vocabulary"].distribution == "servable_vocabulary 1.0"


def test_all_versions_answer_and_read_the_words_once(
    base: Path,
    start: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = reads(monkeypatch)
    server = start()
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        wait_for_states(client, 2)
        answers = {
            version: client.predict("words", ["word3", "none"], version=version)
            for version in (1, 2)
        }

    assert {v: a["scores"].tolist() for v, a in answers.items()} == {
        1: [3.0, 0.0],
        2: [6.0, 0.0],
    }
    assert seen == [base / "vocabulary.txt"]


def test_the_words_count_once_against_the_limit(
    base: Path, start: Callable[..., Server]
) -> None:
    own = sum((base / str(v) / "scores.json").stat().st_size for v in (1, 2))
    server = start(max_model_memory_bytes=SHARED_BYTES + own)

    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        states = wait_for_states(client, 2)
    assert set(states.values()) == {("AVAILABLE", Code.OK)}


def test_one_byte_less_is_too_little(base: Path, start: Callable[..., Server]) -> None:
    own = sum((base / str(v) / "scores.json").stat().st_size for v in (1, 2))
    server = start(
        max_model_memory_bytes=SHARED_BYTES + own - 1, max_num_load_retries=0
    )

    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        states = wait_for_states(client, 2)
    assert sorted(states.values()) == [
        ("AVAILABLE", Code.OK),
        ("END", Code.RESOURCE_EXHAUSTED),
    ]


def test_a_version_that_does_not_fit_its_words_is_refused(
    base: Path, start: Callable[..., Server]
) -> None:
    write(base, 3, 1.0, count=5)
    server = start(max_num_load_retries=0)

    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        states = wait_for_states(client, 3)
    assert states == {
        1: ("AVAILABLE", Code.OK),
        2: ("AVAILABLE", Code.OK),
        3: ("END", Code.INVALID_ARGUMENT),
    }
