"""Canaries and shadows, on real servers with real requests."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servable.config.model_options import ModelOptions
from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.core.served_versions import Canary, Shadow
from servable.errors import ServingError

Serve = Callable[..., Any]
Publish = Callable[..., None]

ALL = Canary(20, min_requests=50, min_s=0)


def model(path: Path, served: Canary | Shadow) -> ModelConfig:
    return ModelConfig("m", str(path), options=ModelOptions("", served))


def candidate(running: Any) -> int | None:
    (report,) = running.server.models()
    assert report.rollout is not None
    version: int | None = report.rollout.candidate
    return version


def metric(running: Any, name: str, **labels: object) -> float:
    page = running.server.metrics()
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(rf"^{name}{{{text}}} (.*)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def base(tmp_path: Path, publish: Publish) -> Path:
    publish(tmp_path / "m", 1)
    return tmp_path / "m"


def test_a_good_candidate_gets_its_share_and_then_everything(
    serve: Serve, publish: Publish, base: Path
) -> None:
    rules = Canary(20, min_requests=10**6)
    running = serve(model(base, rules))
    publish(base, 2)
    running.wait_until(lambda: candidate(running) == 2)
    answers = Counter(running.answers(times=500))
    by_number = running.answers(times=5, version=1)
    shares = [
        metric(running, "servable_default_traffic_ratio", model="m", version=v)
        for v in (1, 2)
    ]
    running.server.reload(ModelServerConfig((model(base, ALL),)))
    running.wait_until(lambda: running.states() == ["2 AVAILABLE", "1 END"])

    assert 95 <= answers[2] <= 105
    assert by_number == [1] * 5
    assert shares == [0.8, 0.2]
    assert set(running.answers(times=20)) == {2}
    assert (
        metric(
            running, "servable_rollout_decisions_total", model="m", decision="promoted"
        )
        == 1
    )


def test_a_bad_candidate_goes_and_hurts_no_more_than_its_share(
    serve: Serve, publish: Publish, base: Path
) -> None:
    running = serve(model(base, ALL))
    publish(base, 2, "fails 1")
    running.wait_until(lambda: candidate(running) == 2)
    failed = 0
    for _ in range(50):
        try:
            running.answers()
        except ServingError:
            failed += 1
    running.wait_until(lambda: running.states() == ["2 END", "1 AVAILABLE"])

    assert 9 <= failed <= 11
    assert running.answers(times=20) == [1] * 20
    (report,) = running.server.models()
    assert report.rollout.rejected == (2,)
    assert "its rate of errors is too high: 100.00% errors" in report.rollout.verdict


def test_a_candidate_that_cannot_be_loaded_is_none(serve: Serve, base: Path) -> None:
    running = serve(model(base, ALL))
    (base / "2").mkdir()
    running.wait_until(lambda: running.states() == ["2 END", "1 AVAILABLE"])

    assert running.answers(times=20) == [1] * 20


def test_after_a_start_the_newest_version_has_to_prove_itself(
    serve: Serve, publish: Publish, base: Path
) -> None:
    publish(base, 2)
    publish(base, 3)
    running = serve(model(base, Canary(1)))
    running.wait_until(lambda: candidate(running) == 3)

    running.wait_until(lambda: running.states() == ["3 AVAILABLE", "2 AVAILABLE"])
    assert Counter(running.answers(times=100))[2] >= 97


def test_what_was_decided_holds_after_a_restart(
    serve: Serve, publish: Publish, base: Path
) -> None:
    first = serve(model(base, Canary(1)))
    publish(base, 2)
    first.wait_until(lambda: candidate(first) == 2)
    first.server.roll_back("m")
    first.server.stop()

    second = serve(model(base, Canary(1)))
    second.wait_until(lambda: second.states() == ["1 AVAILABLE"])
    (report,) = second.server.models()
    publish(base, 3)
    second.wait_until(lambda: candidate(second) == 3)
    second.server.promote("m")
    second.server.stop()
    third = serve(model(base, Canary(1)))

    assert report.rollout.rejected == (2,)
    third.wait_until(lambda: third.states() == ["3 AVAILABLE"])
    assert third.answers() == [3]


def test_a_model_that_serves_already_becomes_a_canary(
    serve: Serve, publish: Publish, base: Path
) -> None:
    publish(base, 2)
    running = serve(ModelConfig("m", str(base)))
    running.server.reload(ModelServerConfig((model(base, ALL),)))
    publish(base, 3)
    running.wait_until(lambda: candidate(running) == 3)

    running.wait_until(lambda: running.states() == ["3 AVAILABLE", "2 AVAILABLE"])


def test_people_decide_sooner(serve: Serve, publish: Publish, base: Path) -> None:
    running = serve(model(base, Canary(1)))
    publish(base, 2)
    running.wait_until(lambda: candidate(running) == 2)
    rolled_back = running.server.roll_back("m")
    running.wait_until(lambda: running.states() == ["2 END", "1 AVAILABLE"])
    publish(base, 3)
    running.wait_until(lambda: candidate(running) == 3)
    promoted = running.server.promote("m")
    running.wait_until(lambda: running.states()[0] == "3 AVAILABLE")

    assert rolled_back == "Version 2 of model m was rolled back: asked for"
    assert promoted == "Version 3 of model m was promoted: asked for"
    assert running.answers(times=5) == [3] * 5


def shadows(running: Any, version: int) -> dict[str, int]:
    (report,) = running.server.models()
    (of_version,) = [v for v in report.versions if v.state.id.version == version]
    return dict(of_version.shadow_requests)


@pytest.mark.parametrize(
    ("words", "result"),
    [
        pytest.param("adds 1.0001", "equal", id="within the tolerance"),
        pytest.param("adds 1.1", "different", id="beyond it"),
        pytest.param("fails 1", "failed", id="with an error"),
    ],
)
def test_a_shadow_answers_nobody_and_is_compared(
    words: str, result: str, serve: Serve, publish: Publish, base: Path
) -> None:
    running = serve(model(base, Shadow(50)))
    publish(base, 2, words)
    running.wait_until(lambda: candidate(running) == 2)
    answers = [running.answers() for _ in range(20)]
    running.wait_until(lambda: sum(shadows(running, 2).values()) == 10)

    assert answers == [[1]] * 20
    counts = shadows(running, 2)
    assert counts[result] + counts["dropped"] == 10
    assert counts[result] > 0
    assert (
        metric(
            running,
            "servable_shadow_requests_total",
            model="m",
            version=2,
            result=result,
        )
        == counts[result]
    )


def test_a_shadow_that_is_slow_slows_nobody(
    serve: Serve, publish: Publish, base: Path
) -> None:
    running = serve(model(base, Shadow(100)))
    publish(base, 2, "adds 1 sleeps 0.2")
    running.wait_until(lambda: candidate(running) == 2)
    running.answers(times=100)

    # The queue holds 16 and one runs; 100 requests in turn would have taken 20 s.
    assert shadows(running, 2)["dropped"] >= 80
