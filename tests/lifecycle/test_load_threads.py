"""Many models load at a time, and never more than may."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servable.config.model_server_config import ModelConfig, ModelServerConfig

THREADS = 4
MODELS = 10 * THREADS
WAIT_S = 30.0


class Gate:
    """Lets loads through in groups, and counts how many are there at a time."""

    def __init__(self) -> None:
        self.together = threading.Barrier(THREADS)
        self.lock = threading.Lock()
        self.inside = 0
        self.most = 0

    def pass_through(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        # Broken, and the load with it, unless as many come as there are threads.
        self.together.wait(WAIT_S)
        with self.lock:
            self.inside -= 1


def test_as_many_models_load_at_a_time_as_there_are_threads(
    serve: Callable[..., Any],
    publish: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [ModelConfig(f"m{n}", str(tmp_path / f"m{n}")) for n in range(MODELS)]
    for model in models:
        publish(Path(model.base_path), 1)
    running = serve(models=(), num_load_threads=THREADS)
    gate = Gate()
    running.before_load(monkeypatch, gate.pass_through)

    running.server.reload(ModelServerConfig(tuple(models)))

    assert gate.most == THREADS
    assert {tuple(running.states(model.name)) for model in models} == {("1 AVAILABLE",)}
