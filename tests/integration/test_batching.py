"""Batching on a real server: what runs together, and what answers do not show of it."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("servable._engine")

from servable.cli.batching import explain
from servable.cli.tune import tune
from servable.client import Client
from servable.config import batching_parameters

CLIENTS = 8


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[[Path], Path]
) -> str:
    base = tmp_path_factory.mktemp("models") / "m"
    write_version(base / "1")
    return f"--model_base_path={base}"


@pytest.fixture(scope="module", name="start")
def _start(start: Callable[..., Any]) -> Callable[..., Any]:
    """Start servers whose models are there from the first request on."""
    return lambda *flags: start("--wait_for_models=true", *flags)


@pytest.fixture(scope="module")
def waiting(
    start: Callable[..., Any], model: str, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A server on which batches of eight rows wait for the last of them."""
    folder = tmp_path_factory.mktemp("batching")
    parameters, options = folder / "b", folder / "o.toml"
    parameters.write_text(
        f"max_batch_size {{ value: {CLIENTS} }} num_batch_threads {{ value: 1 }} "
        "batch_timeout_micros { value: 60000000 }"
    )
    options.write_text("unbatched_signatures = ['echo_STRING']")
    return start(
        model,
        "--model_name=m",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        f"--batching_options_file={options}",
        "--monitoring_config_file=" + str(_monitoring(folder)),
    )


@pytest.fixture(scope="module")
def adaptive(start: Callable[..., Any], model: str) -> Any:
    return start(
        model, "--model_name=m", "--enable_batching", "--batching_policy=adaptive"
    )


def _monitoring(folder: Path) -> Path:
    file = folder / "monitoring"
    file.write_text("prometheus_config { enable: true }")
    return file


def batches(server: Any) -> int:
    page = httpx.get(f"{server.rest}/monitoring/prometheus/metrics").text
    name = ":tensorflow:serving:batching_session:wrapped_run_count{} "
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return int(lines[0].removeprefix(name)) if lines else 0


def at_once(server: Any, requests: list[Any], **options: Any) -> list[Any]:
    """Return what clients are answered that ask at the same time."""

    def ask(request: Any) -> Any:
        with Client(server.grpc, attempts=1) as client:
            return client.predict("m", request, timeout=50, **options)

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(ask, requests))


def test_requests_that_wait_for_one_another_run_once(waiting: Any) -> None:
    before = batches(waiting)

    answers = at_once(waiting, [[float(number)] for number in range(CLIENTS)])

    expected = [[number / 2 + 2] for number in range(CLIENTS)]
    assert [list(answer["y"]) for answer in answers] == expected
    assert batches(waiting) == before + 1


def test_strings_of_several_requests_come_back_to_their_own(adaptive: Any) -> None:
    texts = [[b"x" * length, b""] for length in range(0, 160, 20)]

    answers = at_once(adaptive, texts, signature="echo_STRING")

    assert [list(answer["y"]) for answer in answers] == texts


def test_a_signature_that_is_not_batched_waits_for_nobody(waiting: Any) -> None:
    before = batches(waiting)

    answer = at_once(waiting, [[b"a"]], signature="echo_STRING")

    assert list(answer[0]["y"]) == [b"a"]
    assert batches(waiting) == before


def test_rest_and_grpc_share_a_batch(waiting: Any) -> None:
    before = batches(waiting)

    def ask() -> Any:
        body = {"instances": [4.0] * (CLIENTS - 1)}
        url = f"{waiting.rest}/v1/models/m:predict"
        return httpx.post(url, json=body, timeout=50).json()

    with ThreadPoolExecutor(1) as thread:
        over_rest = thread.submit(ask)
        over_grpc = at_once(waiting, [[6.0]])

    assert list(over_grpc[0]["y"]) == [5.0]
    assert over_rest.result() == {"predictions": [4.0] * (CLIENTS - 1)}
    assert batches(waiting) == before + 1


@pytest.mark.parametrize("server", ["waiting", "adaptive"])
def test_answers_are_those_without_batching_bit_for_bit(
    server: str,
    start: Callable[..., Any],
    model: str,
    request: pytest.FixtureRequest,
) -> None:
    unbatched = start(model, "--model_name=m")
    batched = request.getfixturevalue(server)
    numbers = np.random.default_rng(7).standard_normal((CLIENTS, 1), np.float32)
    rows = [list(row) for row in numbers.astype(float)]

    alone = at_once(unbatched, rows)
    together = at_once(batched, rows)

    assert [answer["y"].tobytes() for answer in together] == [
        answer["y"].tobytes() for answer in alone
    ]


def test_what_no_batch_can_hold_runs_by_itself_under_the_adaptive_policy(
    adaptive: Any, waiting: Any
) -> None:
    body = {"signature_name": "echo_FLOAT", "inputs": {"x": 3.5}}

    def ask(server: Any) -> Any:
        return httpx.post(f"{server.rest}/v1/models/m:predict", json=body).json()

    assert ask(adaptive) == {"outputs": 3.5}
    assert ask(waiting) == {
        "error": "Batching Run() input tensors must have at least one dimension"
    }


def test_the_metrics_show_what_was_decided_and_why(adaptive: Any) -> None:
    at_once(adaptive, [[1.0]] * 3)

    page = httpx.get(f"{adaptive.rest}/metrics").text

    labels = 'model="m",version="1",signature="serving_default"'
    for name in ("decided_rows", "row_seconds", "batches_total", "waiting_rows"):
        assert f"servable_batching_{name}{{{labels}" in page


def test_fixed_parameters_are_explained_too(
    waiting: Any, wait_until: Callable[..., None]
) -> None:
    at_once(waiting, [[float(number)] for number in range(CLIENTS)])

    def explained() -> str:
        arguments = ["m", f"--url={waiting.rest}/metrics"]
        return CliRunner().invoke(explain, arguments).output

    wait_until(lambda: "0 rows wait, 0 batches run" in explained(), "end of the batch")
    for text in (
        f"decided by the batching parameters: up to {CLIENTS} rows in a batch, "
        "1 at a time, waiting 60000 ms for more rows",
        "at most 10 batches may wait",
        f"of {CLIENTS}.0 rows on average",
        "100.0% had no more rows: more rows would have been too many",
    ):
        assert text in explained()
    assert "echo_STRING" not in explained()


POLICY = """
import pathlib

class Moody:
    asked = 0

    def decide(self, queue):
        from servable.batching import Decision

        Moody.asked += 1
        if pathlib.Path({mood!r}).exists():
            raise RuntimeError("not today")
        return Decision(size=4, max_in_flight=3)
"""


def test_a_policy_in_python_decides_until_it_raises(
    start: Callable[..., Any],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> None:
    bad_mood = tmp_path / "bad mood"
    info = tmp_path / "moody-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[servable.batching_policies]\nmoody = moody:Moody\n"
    )
    (tmp_path / "moody.py").write_text(POLICY.format(mood=str(bad_mood)))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    server = start(
        model, "--model_name=m", "--enable_batching", "--batching_policy=moody"
    )

    def explained() -> str:
        at_once(server, [[1.0]])
        return CliRunner().invoke(explain, ["m", f"--url={server.rest}/metrics"]).output

    decided = "by the policy moody: up to 4 rows in a batch, 3 at a time"
    wait_until(lambda: decided in explained(), "decision")
    bad_mood.touch()
    complaint = "The batching policy moody failed for m version 1"
    wait_until(lambda: complaint in server.log(), "complaint")

    assert decided in explained()
    assert server.log().count(complaint) == 1
    bad_mood.unlink()


def test_a_policy_that_is_not_installed_ends_the_start(
    model: str, start: Callable[..., Any]
) -> None:
    refused = (
        "There is no nobodys among servable.batching_policies; installed are: "
        "adaptive, fixed"
    )
    with pytest.raises(AssertionError, match=refused):
        start(model, "--enable_batching", "--batching_policy=nobodys")


def test_low_priority_is_answered_like_any_other(adaptive: Any) -> None:
    body = {"instances": [6.0]}
    headers = {"Servable-Priority": "low"}

    url = f"{adaptive.rest}/v1/models/m:predict"
    answer = httpx.post(url, json=body, headers=headers).json()

    assert answer == {"predictions": [5.0]}


def test_tuning_writes_a_file_that_a_server_takes(model: str, tmp_path: Path) -> None:
    file = tmp_path / "batching.txt"
    base = model.removeprefix("--model_base_path=")
    sizes = ["--max-batch-size=2", "--max-in-flight=2", "--seconds=0.1"]

    result = CliRunner().invoke(
        tune, [base, "--target-p99-ms=5000", f"--output={file}", *sizes]
    )

    assert result.exit_code == 0, result.output
    assert batching_parameters.read(str(file)).max_batch_size == 2
    assert "times what the model answers without batching" in result.output


def test_tuning_for_what_cannot_be_had_is_told_of(model: str, tmp_path: Path) -> None:
    file = tmp_path / "batching.txt"
    base = model.removeprefix("--model_base_path=")
    sizes = ["--max-batch-size=2", "--max-in-flight=1", "--seconds=0.1"]

    result = CliRunner().invoke(
        tune, [base, "--target-p99-ms=0.000001", f"--output={file}", *sizes]
    )

    assert result.exit_code == 1
    assert "With no size of batches" in result.output
    assert not file.exists()
