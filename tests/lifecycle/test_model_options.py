"""What `servable` in a model config changes, on real servers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servable.config.model_options import ModelOptions
from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.core.served_versions import Pinned
from servable.errors import InvalidArgument, NotFound

Serve = Callable[..., Any]
Publish = Callable[..., None]


def pinned(path: Path, version: int) -> ModelConfig:
    return ModelConfig("m", str(path), options=ModelOptions("", Pinned(version)))


def test_a_pinned_version_is_served_whatever_comes_after_it(
    serve: Serve, publish: Publish, tmp_path: Path
) -> None:
    base = tmp_path / "m"
    for version in (1, 2, 3):
        publish(base, version)
    running = serve(pinned(base, 2), ModelConfig("n", str(base)))
    publish(base, 4)
    running.wait_until(lambda: "4 AVAILABLE" in running.states("n"))

    assert running.states() == ["2 AVAILABLE"]
    assert running.answers(times=3) == [2, 2, 2]


def test_a_pin_moves_when_its_version_is_there_and_not_before(
    serve: Serve, publish: Publish, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "m"
    publish(base, 1)
    running = serve(pinned(base, 1))
    running.server.reload(ModelServerConfig((pinned(base, 9),)))
    running.wait_until(lambda: "version 9, to which it is pinned" in caplog.text)
    before = running.answers()
    publish(base, 9)
    running.wait_until(lambda: running.states() == ["9 AVAILABLE", "1 END"])

    assert (before, running.answers()) == ([1], [9])


def test_the_policy_of_a_model_decides_whether_versions_overlap(
    serve: Serve, publish: Publish, tmp_path: Path
) -> None:
    for name in ("swapped", "beside"):
        publish(tmp_path / name, 1, "adds 1 bytes 60")
    resource = ModelOptions("resource_preserving")
    running = serve(
        ModelConfig("swapped", str(tmp_path / "swapped"), options=resource),
        ModelConfig("beside", str(tmp_path / "beside")),
        max_model_memory_bytes=150,
    )
    publish(tmp_path / "swapped", 2, "adds 2 bytes 60")
    running.wait_until(lambda: running.states("swapped") == ["2 AVAILABLE", "1 END"])
    publish(tmp_path / "beside", 2, "adds 2 bytes 60")
    running.wait_until(lambda: running.states("beside") == ["2 END", "1 AVAILABLE"])

    refused = running.server.states()["beside"][0]
    assert refused.error.status_text.startswith(
        "RESOURCE_EXHAUSTED: Insufficient resources"
    )
    assert running.answers("beside") == [1]


def test_a_version_that_was_refused_comes_when_another_model_goes(
    serve: Serve, publish: Publish, tmp_path: Path
) -> None:
    models = {name: ModelConfig(name, str(tmp_path / name)) for name in ("big", "next")}
    for name in models:
        publish(tmp_path / name, 1, "adds 1 bytes 60")
    running = serve(models["big"], max_model_memory_bytes=100)
    running.server.reload(ModelServerConfig(tuple(models.values())), wait=False)
    running.wait_until(lambda: running.states("next") == ["1 END"])
    running.server.reload(ModelServerConfig((models["next"],)), wait=False)

    running.wait_until(lambda: running.states("next") == ["1 AVAILABLE"])
    assert running.answers("next") == [1]


def test_options_for_all_models_are_a_flag(
    serve: Serve, publish: Publish, tmp_path: Path
) -> None:
    for version in (1, 2):
        publish(tmp_path / "m", version)

    running = serve(model_options="pinned { version: 1 }")

    assert running.answers() == [1]


def test_a_policy_that_is_not_installed_changes_nothing(
    serve: Serve, publish: Publish, tmp_path: Path
) -> None:
    publish(tmp_path / "m", 1)
    running = serve()
    before = running.server.config
    wrong = ModelConfig("m", str(tmp_path / "m"), options=ModelOptions("best"))

    with pytest.raises(InvalidArgument, match="There is no best among"):
        running.server.reload(ModelServerConfig((wrong,)))

    assert running.server.config == before
    assert running.answers() == [1]
    with pytest.raises(NotFound):
        running.answers(version=2)
