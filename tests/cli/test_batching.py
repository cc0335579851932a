"""`servable batching explain`: what it makes of a page of metrics."""

import httpx
import pytest
from click.testing import CliRunner

from servable.cli.batching import batching, queues, told

LABELS = 'model="m",version="3",signature="serving_default"'
PAGE = f"""
# HELP servable_batching_waiting_rows Rows that wait for a batch.
# TYPE servable_batching_waiting_rows gauge
servable_batching_info{{{LABELS},policy="adaptive"}} 1
servable_batching_max_waiting_batches{{{LABELS}}} 10
servable_batching_waiting_rows{{{LABELS}}} 7
servable_batching_waiting_rows{{model="other",version="1",signature="x"}} 99
servable_batching_in_flight{{{LABELS}}} 2
servable_batching_arriving_rows_per_second{{{LABELS}}} 120.25
servable_batching_decided_rows{{{LABELS}}} 16
servable_batching_decided_wait_seconds{{{LABELS}}} 0.002
servable_batching_decided_in_flight{{{LABELS}}} 4
servable_batching_policy_decides{{{LABELS}}} 0
servable_batching_row_seconds{{{LABELS},rows="1"}} 0.0005
servable_batching_row_seconds{{{LABELS},rows="16"}} 0.0001
servable_batching_batches_total{{{LABELS},reason="queue_empty"}} 30
servable_batching_batches_total{{{LABELS},reason="size_limit"}} 10
servable_batching_batches_total{{{LABELS},reason="trial"}} 0
servable_batching_rows_total{{{LABELS}}} 100
servable_batching_refused_total{{{LABELS}}} 5
servable_batching_expected_wait_seconds{{{LABELS}}} 0.0125
"""
EXPLAINED = """\
m, version 3, serving_default
  decided by the adaptive policy: up to 16 rows in a batch, 4 at a time, waiting 2 ms \
for more rows
  now: 7 rows wait, 2 batches run, 120.2 rows/s come, 5 requests were refused
  a request that comes now is expected to take 12.50 ms
  40 batches so far, of 2.5 rows on average:
     75.0% had no more rows: nothing else waited
     25.0% had no more rows: more rows would have been too many
  what a row costs, by the rows in its batch:
         1      500.0 µs
        16      100.0 µs  the least
"""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(url: str, timeout: float) -> httpx.Response:  # noqa: ARG001
        if "gone" in url:
            raise httpx.ConnectError("Connection refused")
        code = 404 if "nowhere" in url else 200
        return httpx.Response(code, text=PAGE, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)


@pytest.mark.usefixtures("page")
def test_a_queue_is_explained() -> None:
    result = CliRunner().invoke(batching, ["explain", "m"])

    assert result.output == EXPLAINED
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("policy", "policy_decides", "text"),
    [
        pytest.param("fixed", 0, "the batching parameters", id="fixed parameters"),
        pytest.param("adaptive", 0, "the adaptive policy", id="the engine's policy"),
        pytest.param("mine", 1, "the policy mine", id="an installed policy"),
        pytest.param(
            "mine", 0, "the adaptive policy", id="an installed policy, not yet"
        ),
    ],
)
def test_it_is_told_who_decides(policy: str, policy_decides: int, text: str) -> None:
    page = (
        f'servable_batching_info{{{LABELS},policy="{policy}"}} 1\n'
        f"servable_batching_policy_decides{{{LABELS}}} {policy_decides}\n"
    )

    lines = list(told("m", *queues(page, "m")))

    assert lines[1].startswith(f"  decided by {text}: ")


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["none"], "no batches of none", id="a model that has no queue"),
        pytest.param(["m", "--url=http://nowhere"], "404", id="another page"),
        pytest.param(["m", "--url=http://gone"], "refused", id="no server"),
    ],
)
def test_what_cannot_be_explained_is_told_of(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(batching, ["explain", *arguments])

    assert result.exit_code == 1
    assert text in result.output
