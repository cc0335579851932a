"""The steps of calls: retries, deadlines, what is remembered; with a clock of paper."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from servable.apis.model_server_config_pb2 import ModelServerConfig
from servable.client import dtypes
from servable.client.calls import Calls, Send, Sleep, Steps
from servable.client.operations import (
    Metadata,
    ModelRef,
    Outputs,
    Predict,
    Status,
    VersionStatus,
)
from servable.client.signatures import ModelMetadata, Signature, TensorSpec
from servable.errors import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    Unimplemented,
)


class Script:
    """Carries steps out by asking a function, and keeps the time."""

    def __init__(self, answer: Callable[[Any], Any], **options: Any) -> None:
        self.now = 0.0
        self.sent: list[Send] = []
        self.slept: list[float] = []
        self._answer = answer
        self.calls = Calls(clock=lambda: self.now, jitter=lambda: 1.0, **options)

    def run(self, steps: Steps[Any]) -> Any:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self.slept.append(step.seconds)
                    self.now += step.seconds
                    step = steps.send(None)
                    continue
                self.sent.append(step)
                try:
                    outcome = self._answer(step.operation)
                except ServingError as exc:
                    step = steps.throw(exc)
                else:
                    step = steps.send(outcome)
        except StopIteration as stop:
            return stop.value

    def operations(self) -> list[str]:
        return [type(send.operation).__name__ for send in self.sent]


MODEL = ModelRef("m")


def metadata(version: int, dtype: str = "float32") -> ModelMetadata:
    spec = TensorSpec("x:0", dtypes.parse(dtype), (None,))
    signature = Signature("serving_default", "", {"x": spec}, {"y": spec})
    return ModelMetadata("m", version, {"serving_default": signature})


def always(error: ServingError) -> Callable[[Any], Any]:
    def answer(_operation: Any) -> Any:
        raise error

    return answer


def test_retries_wait_longer_each_time_and_end() -> None:
    script = Script(always(Unavailable("busy")))

    with pytest.raises(Unavailable, match="busy"):
        script.run(script.calls.status(MODEL, 10.0))
    assert script.slept == [0.05, 0.1, 0.2]
    assert len(script.sent) == 4


def test_retries_end_with_the_deadline() -> None:
    script = Script(always(Unavailable("busy")), attempts=99)

    with pytest.raises(Unavailable):
        script.run(script.calls.status(MODEL, 3.0))
    assert script.now < 3.0


def test_every_attempt_has_the_time_that_is_left() -> None:
    script = Script(always(Unavailable("busy")))

    with pytest.raises(Unavailable):
        script.run(script.calls.status(MODEL, 10.0))
    assert [send.timeout_s for send in script.sent] == [
        10.0,
        pytest.approx(9.95),
        pytest.approx(9.85),
        pytest.approx(9.65),
    ]


def test_addresses_take_turns() -> None:
    script = Script(lambda _: (), addresses=3)
    for _ in range(4):
        script.run(script.calls.status(MODEL, 1.0))

    assert [send.address for send in script.sent] == [0, 1, 2, 0]


def test_another_attempt_is_for_another_address_whatever_other_calls_do() -> None:
    script = Script(lambda _: (), addresses=2)
    steps = script.calls.status(MODEL, 1.0)
    first = next(steps)
    assert isinstance(first, Send)
    script.run(script.calls.status(MODEL, 1.0))

    second = steps.throw(Unavailable("dead"))

    assert isinstance(second, Send)
    assert {first.address, second.address} == {0, 1}


def test_the_first_attempt_is_made_at_all_addresses_without_a_pause() -> None:
    script = Script(always(Unavailable("busy")), addresses=2)

    with pytest.raises(Unavailable, match="busy"):
        script.run(script.calls.status(MODEL, 10.0))
    assert [send.address for send in script.sent] == [0, 1, 0, 1, 0]
    assert script.slept == [0.05, 0.1, 0.2]


def predicting(
    versions: list[ModelMetadata], answering: list[int]
) -> Callable[[Any], Any]:
    """Answer with these versions in turn; float32 is refused by what takes int32."""

    def answer(operation: Any) -> Any:
        if isinstance(operation, Metadata):
            return versions.pop(0) if len(versions) > 1 else versions[0]
        assert isinstance(operation, Predict)
        version = answering.pop(0)
        return Outputs({"y": np.zeros(1)}, version)

    return answer


def test_a_new_version_is_asked_what_it_takes() -> None:
    script = Script(predicting([metadata(1), metadata(2)], [1, 2, 2]))
    for _ in range(3):
        script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))

    assert script.operations() == [
        *("Metadata", "Predict"),  # the first time
        "Predict",  # answered by version 2, so what is known of 1 is forgotten
        *("Metadata", "Predict"),
    ]


def test_what_is_known_is_asked_anew_before_values_are_refused() -> None:
    script = Script(predicting([metadata(1), metadata(2, "string")], [1, 2]))
    script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))
    script.now += 1
    script.run(script.calls.predict(MODEL, {"x": ["text"]}, "", None, 1.0))

    assert script.operations() == ["Metadata", "Predict", "Metadata", "Predict"]
    operation = script.sent[-1].operation
    assert isinstance(operation, Predict)
    assert operation.inputs["x"].array.tolist() == [b"text"]


def test_values_are_refused_when_what_is_known_still_holds() -> None:
    script = Script(predicting([metadata(1)], [1]))
    script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))
    script.now += 1

    with pytest.raises(InvalidArgument, match="text or bytes"):
        script.run(script.calls.predict(MODEL, {"x": ["text"]}, "", None, 1.0))
    assert script.operations() == ["Metadata", "Predict", "Metadata"]


def test_a_server_without_metadata_is_asked_all_the_same() -> None:
    def answer(operation: Any) -> Any:
        if isinstance(operation, Metadata):
            raise Unimplemented
        return Outputs({"y": np.zeros(1)}, 1)

    script = Script(answer)
    script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))
    script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))

    assert script.operations() == ["Metadata", "Predict", "Predict"]


def test_without_a_signature_values_need_names() -> None:
    script = Script(always(Unimplemented()))

    with pytest.raises(InvalidArgument, match="must be a dict of names"):
        script.run(script.calls.predict(MODEL, [1.0], "", None, 1.0))


def test_over_rest_nothing_is_predicted_without_a_signature() -> None:
    script = Script(always(Unimplemented("no metadata")), needs_signatures=True)

    with pytest.raises(Unimplemented, match="no metadata"):
        script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))


def test_over_rest_the_latest_version_is_asked_for_again_after_a_while() -> None:
    script = Script(
        predicting([metadata(1)], [1, 1, 1]),
        needs_signatures=True,
    )
    for _ in range(2):
        script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))
    script.now += 31
    script.run(script.calls.predict(MODEL, {"x": [1.0]}, "", None, 1.0))

    assert script.operations() == [
        *("Metadata", "Predict", "Predict"),
        *("Metadata", "Predict"),
    ]


@pytest.mark.parametrize(
    ("ask", "note"),
    [
        pytest.param(
            lambda calls: calls.predict(ModelRef("m", 9), [1.0], "", None, 1.0),
            "the server answers nothing for model 'm' version 9: which versions it "
            "has, and in which state, is said by client.status('m') or "
            "`servable status`",
            id="a version",
        ),
        pytest.param(
            lambda calls: calls.metadata(MODEL, 1.0),
            "the server answers nothing for model 'm': which versions it has, and in "
            "which state, is said by client.status('m') or `servable status`",
            id="a model",
        ),
        pytest.param(
            lambda calls: calls.status(MODEL, 1.0),
            "the server knows no model 'm': its models are named by --model_name, or "
            "in its configuration",
            id="the state of a model",
        ),
        pytest.param(
            lambda calls: calls.reload_config(ModelServerConfig(), 1.0),
            "look at the base paths of the configuration",
            id="what a configuration names",
        ),
    ],
)
def test_what_is_not_there_comes_with_where_to_look(
    ask: Callable[[Calls], Steps[Any]], note: str
) -> None:
    script = Script(always(NotFound("it is not there")))

    with pytest.raises(NotFound) as raised:
        script.run(ask(script.calls))

    assert raised.value.__notes__ == [note]


def version(state: str, code: Code = Code.OK) -> VersionStatus:
    return VersionStatus(1, state, code, "out of memory" if code else "")


def test_waiting_goes_on_while_the_model_loads() -> None:
    answers: list[Any] = [
        Unavailable("not yet"),
        NotFound("no such model"),
        (version("LOADING"),),
        (version("AVAILABLE"),),
    ]

    def answer(operation: Any) -> Any:
        assert isinstance(operation, Status)
        outcome = answers.pop(0)
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    script = Script(answer)
    script.run(script.calls.wait_until_ready(MODEL, 60.0))

    assert answers == []
    assert script.slept == [0.05, 0.1, 0.2]


def test_waiting_ends_with_the_deadline_and_says_what_was_last() -> None:
    script = Script(lambda _: (version("LOADING"),))

    with pytest.raises(DeadlineExceeded) as raised:
        script.run(script.calls.wait_until_ready(MODEL, 5.0))
    assert str(raised.value) == (
        "model 'm' was not ready within 5 s: version 1 is LOADING"
    )
    assert script.now == pytest.approx(5.0)


def test_waiting_does_not_end_with_a_try_that_was_cut_short() -> None:
    def answer(_: Any) -> Any:
        if script.now == 0.0:
            raise NotFound("no such model")
        script.now = 5.0
        raise DeadlineExceeded("no answer in time")

    script = Script(answer)

    with pytest.raises(DeadlineExceeded, match="no such model"):
        script.run(script.calls.wait_until_ready(MODEL, 5.0))


def test_waiting_ends_when_every_version_failed() -> None:
    script = Script(lambda _: (version("END", Code.RESOURCE_EXHAUSTED),))

    with pytest.raises(FailedPrecondition, match="RESOURCE_EXHAUSTED: out of memory"):
        script.run(script.calls.wait_until_ready(MODEL, 60.0))
