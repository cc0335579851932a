"""What `servable models add` asks for, and what it prints of what happens meanwhile."""

import socket

import pytest

from servable.apis import administration_pb2
from servable.cli.models import _as_meant_here, _News, _with_problems
from servable.client import Client
from servable.errors import DeadlineExceeded


def version(
    state: int, progress: str = "", seconds: float = 0.0, number: int = 1
) -> administration_pb2.Version:
    made = administration_pb2.Version(progress=progress, progress_seconds=seconds)
    made.status.version = number
    made.status.state = state  # type: ignore[assignment]
    return made


def having(*versions: administration_pb2.Version) -> administration_pb2.Model:
    return administration_pb2.Model(versions=versions)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        pytest.param(
            "m", "/here/m", id="one that is relative is below where it is typed"
        ),
        pytest.param("../m", "/m", id="so is one that leads up"),
        pytest.param("/models/../m", "/models/../m", id="an absolute one stays"),
        pytest.param("s3://bucket/m", "s3://bucket/m", id="so does a URL"),
        pytest.param(
            "models:/m@best", "models:/m@best", id="and MLflow's, with one slash"
        ),
    ],
)
def test_which_base_path_is_meant(
    typed: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getcwd", lambda: "/here")

    assert _as_meant_here(typed) == sent


FETCHED = [version(10, f"is fetched: {part} of 9.0 MiB", part) for part in range(10)]


@pytest.mark.parametrize(
    ("is_followed", "times"),
    [
        pytest.param(False, [0, 4, 8], id="into a file, what goes on is told again"),
        pytest.param(True, [0], id="where somebody follows it, once"),
    ],
)
def test_what_goes_on(is_followed: bool, times: list[int]) -> None:
    news = _News(is_followed=is_followed)
    lines = [
        news.lines([having(found)], now=2.5 * at) for at, found in enumerate(FETCHED)
    ]

    assert [at for at, told in enumerate(lines) if told] == times
    assert lines[0] == ["version 1 is START: is fetched: 0 of 9.0 MiB (0 s)"]


def test_what_is_another_thing_is_told_at_once() -> None:
    news = _News(is_followed=True)
    seen = [
        version(10, "waits to be fetched"),
        version(10, "is fetched: 1.0 of 2.0 MiB"),
        version(20, "loads", 1.0),
        version(20, "loads", 2.0),
        version(30),
        version(30),
    ]

    assert [
        line for found in seen for line in news.lines([having(found)], now=0.0)
    ] == [
        "version 1 is START: waits to be fetched (0 s)",
        "version 1 is START: is fetched: 1.0 of 2.0 MiB (0 s)",
        "version 1 is LOADING: loads (1 s)",
        "version 1 is AVAILABLE",
    ]


def test_an_end_for_another_reason_is_another_thing() -> None:
    news = _News(is_followed=False)
    lines = []
    for message in ("no graph", "no graph", "no variables"):
        ended = version(50)
        ended.status.status.error_code = 5  # type: ignore[assignment]
        ended.status.status.error_message = message
        lines += news.lines([having(ended)], now=0.0)

    assert lines == [
        "version 1 is END: NOT_FOUND: no graph",
        "version 1 is END: NOT_FOUND: no variables",
    ]


def test_what_is_wrong_with_the_base_path_is_told_when_it_is_another_thing() -> None:
    news = _News(is_followed=False)
    seen = ["", "it is down", "it is down", "it is missing", "", "it is down"]
    found = [administration_pb2.Model(problem=problem) for problem in seen]

    assert [line for model in found for line in news.lines([model], now=0.0)] == [
        "it is down",
        "it is missing",
        "it is down",
    ]


def test_a_server_that_answers_nothing_at_all_is_the_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, timeout=0.1) as client:
            late = DeadlineExceeded("no answer")

            assert _with_problems(late, client) is late
