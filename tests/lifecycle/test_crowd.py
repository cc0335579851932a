"""
Many who change and ask one server at the same time: R6 of docs/reliability.md.

SERVABLE_CROWD is how many there are, SERVABLE_CROWD_TURNS what each of them does.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.errors import Code, ServingError

THREADS = int(os.environ.get("SERVABLE_CROWD", "16"))
TURNS = int(os.environ.get("SERVABLE_CROWD_TURNS", "40"))
# Within which all have to be done, on a machine however slow.
DEADLINE_S = 60 + TURNS
# What each may be told: that there is or is no such model now, or that another change
# came between.
DOCUMENTED = {
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.ABORTED,
    Code.FAILED_PRECONDITION,
    Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED,
}


class Crowd:
    """What each of them does, in an order of his own."""

    def __init__(self, running: Any, base: Path, publish: Callable[..., None]) -> None:
        self.told: Counter[Code] = Counter()
        self.broken: list[BaseException] = []
        self._running = running
        self._publish = publish
        self._base = base
        self.models = models(base)

    def run(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        for turn in range(TURNS):
            try:
                # No two publish the same version.
                self._turn(chance, 2 + seed * TURNS + turn)
            except ServingError as error:
                self.told[error.code] += 1
            except BaseException as error:  # noqa: BLE001 - none is expected
                self.broken.append(error)

    def _turn(self, chance: random.Random, version: int) -> None:
        server, client = self._running.server, self._running.client
        model = chance.choice(self.models)
        some = ModelServerConfig(tuple(chance.sample(self.models, 3)))
        actions: list[Callable[[], object]] = [
            lambda: server.add_model(model, timeout_s=5),
            lambda: server.remove_model(model.name),
            lambda: server.reload(some, wait=False),
            lambda: self._publish(self._base / model.name, version),
            lambda: server.set_labels(model.name, {"stable": 1}),
            lambda: client.status(model.name),
            lambda: client.predict(model.name, [0.0]),
        ]
        chance.choice(actions)()


def models(base: Path) -> list[ModelConfig]:
    return [ModelConfig(f"m{n}", str(base / f"m{n}")) for n in range(4)]


def test_a_crowd_finds_no_deadlock_and_no_undocumented_answer(
    serve: Callable[..., Any], publish: Callable[..., None], tmp_path: Path
) -> None:
    for model in models(tmp_path):
        publish(tmp_path / model.name, 1)
    running = serve(*models(tmp_path))
    running.server.wait_until_available(timeout_s=30)
    crowd = Crowd(running, tmp_path, publish)
    threads = [threading.Thread(target=crowd.run, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert not any(thread.is_alive() for thread in threads)
    assert crowd.broken == []
    assert crowd.told.keys() <= DOCUMENTED
    running.server.reload(ModelServerConfig(tuple(crowd.models)), wait=False)
    for model in crowd.models:
        running.wait_until(
            lambda m=model: any("AVAILABLE" in s for s in running.states(m.name))
        )
    assert running.answers("m0")


@pytest.mark.parametrize("times", [16])
def test_reloads_at_the_same_time_end_in_one_of_them(
    serve: Callable[..., Any], publish: Callable[..., None], tmp_path: Path, times: int
) -> None:
    for number in range(times):
        publish(tmp_path / f"m{number}", 1)
    running = serve(ModelConfig("m0", str(tmp_path / "m0")))
    failures: list[ServingError] = []

    def reload(number: int) -> None:
        model = ModelConfig(f"m{number}", str(tmp_path / f"m{number}"))
        try:
            running.server.reload(ModelServerConfig((model,)))
        except ServingError as error:
            failures.append(error)

    threads = [threading.Thread(target=reload, args=(n,)) for n in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    # Whose models another one took away while they were waited for is told so.
    assert {f.code for f in failures} <= {Code.ABORTED, Code.UNKNOWN}
    (name,) = running.server.config.names()
    running.wait_until(lambda: running.states(name) == ["1 AVAILABLE"])
