"""
What each call of a client does, step by step, with no input or output in it.

A call is a generator: it yields Send and Sleep, gets the results or the errors, and
returns what the caller sees.  Client and AsyncClient carry the steps out; deadlines,
retries, addresses in turn and the memory of signatures are here, once for both.
"""

import itertools
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy.typing as npt

from servable.apis import model_server_config_pb2
from servable.client.examples import make_example, make_examples
from servable.client.inputs import prepare
from servable.client.operations import (
    Classification,
    Classify,
    Metadata,
    ModelRef,
    MultiInference,
    Operation,
    Outputs,
    Predict,
    Regress,
    ReloadConfig,
    Status,
    VersionStatus,
)
from servable.client.signatures import (
    DEFAULT_SIGNATURE,
    ModelMetadata,
    Signature,
    specs_text,
)
from servable.errors import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServingError,
    Unavailable,
    Unimplemented,
    Unknown,
)

_METADATA_AGE_S: Final = 30.0  # after which an answer about "the latest" is asked anew
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_READINESS_TRY_S: Final = 5.0


class Send(NamedTuple):
    """Send an operation to one of the addresses; its result is the answer."""

    operation: Operation
    address: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let time pass."""

    seconds: float


T = TypeVar("T")
Step: TypeAlias = Send | Sleep
Steps: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the server said of a model; None where it does not say."""

    metadata: ModelMetadata | None
    asked_at: float


class Calls:
    """
    The calls of one client; may be used from many threads.

    Args:
        addresses: how many there are to take turns.
        attempts: how often an operation is tried while it is UNAVAILABLE; the first
            time at every address.
        needs_signatures: nothing can be predicted without (over REST).
        clock: seconds, monotonic.
        jitter: a number in [0, 1), to spread retries.
    """

    def __init__(
        self,
        *,
        addresses: int = 1,
        attempts: int = 4,
        needs_signatures: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._addresses = addresses
        self._attempts = attempts
        self._needs_signatures = needs_signatures
        self._clock = clock
        self._jitter = jitter
        self._turns = itertools.count()
        self._known: dict[ModelRef, _Known] = {}

    def predict(
        self,
        model: ModelRef,
        inputs: Any,
        signature: str,
        outputs: str | Sequence[str] | None,
        timeout_s: float,
        *,
        writable: bool = False,
    ) -> Steps[Outputs]:
        """Run a signature; see Client.predict."""
        started = self._clock()
        deadline = started + timeout_s
        wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
        known = yield from self._know(model, deadline)
        try:
            operation = _predict(
                model, inputs, signature, wanted, known.metadata, writable
            )
            prediction: Outputs = yield from self.send(operation, deadline)
        except (InvalidArgument, FailedPrecondition):
            if known.asked_at >= started or known.metadata is None:
                raise
            # What we know may be old: ask once more, and try again if it was.
            renewed = yield from self._ask(model, deadline)
            if renewed.metadata == known.metadata:
                raise
            operation = _predict(
                model, inputs, signature, wanted, renewed.metadata, writable
            )
            prediction = yield from self.send(operation, deadline)
        self._forget_if_replaced(model, prediction)
        return prediction

    def classify(
        self,
        model: ModelRef,
        examples: Any,
        signature: str,
        context: Any,
        timeout_s: float,
    ) -> Steps[Classification]:
        """Classify examples; see Client.classify."""
        deadline = self._clock() + timeout_s
        operation = Classify(model, signature, make_examples(examples), _one(context))
        result: Classification = yield from self.send(operation, deadline)
        return result

    def regress(
        self,
        model: ModelRef,
        examples: Any,
        signature: str,
        context: Any,
        timeout_s: float,
    ) -> Steps[npt.NDArray[Any]]:
        """Regress examples; see Client.regress."""
        deadline = self._clock() + timeout_s
        operation = Regress(model, signature, make_examples(examples), _one(context))
        result: npt.NDArray[Any] = yield from self.send(operation, deadline)
        return result

    def multi_inference(
        self,
        model: ModelRef,
        examples: Any,
        tasks: Mapping[str, str],
        context: Any,
        timeout_s: float,
    ) -> Steps[Mapping[str, Classification | npt.NDArray[Any]]]:
        """Classify and regress the same examples; see Client.multi_inference."""
        deadline = self._clock() + timeout_s
        if not tasks:
            raise InvalidArgument(
                "no tasks were given; name signatures to 'classify' or 'regress'"
            )
        for signature, method in tasks.items():
            if method not in ("classify", "regress"):
                raise InvalidArgument(
                    f"signature {signature!r} cannot be asked to {method!r}; "
                    "the methods are 'classify' and 'regress'"
                )
        messages = make_examples(examples)
        operation = MultiInference(model, tuple(tasks.items()), messages, _one(context))
        results: Mapping[str, Classification | npt.NDArray[Any]] = yield from self.send(
            operation, deadline
        )
        return results

    def metadata(self, model: ModelRef, timeout_s: float) -> Steps[ModelMetadata]:
        """Ask for the signatures, whatever is known."""
        deadline = self._clock() + timeout_s
        result: ModelMetadata = yield from self.send(Metadata(model), deadline)
        return result

    def status(
        self, model: ModelRef, timeout_s: float
    ) -> Steps[Sequence[VersionStatus]]:
        """Ask for the state of the versions."""
        deadline = self._clock() + timeout_s
        result: Sequence[VersionStatus] = yield from self.send(Status(model), deadline)
        return result

    def reload_config(
        self, config: model_server_config_pb2.ModelServerConfig, timeout_s: float
    ) -> Steps[None]:
        """Replace the set of models."""
        yield from self.send(ReloadConfig(config), self._clock() + timeout_s)

    def wait_until_ready(self, model: ModelRef | None, timeout_s: float) -> Steps[None]:
        """Ask again and again until the model, or any server, is there."""
        deadline = self._clock() + timeout_s
        operation = Status(model or ModelRef("-"))
        last: object = "nothing was heard of it"
        for attempt in itertools.count():
            left = deadline - self._clock()
            if left <= 0:
                what = f"{model} was" if model else "the server was"
                raise DeadlineExceeded(
                    f"{what} not ready within {timeout_s:g} s: {last}"
                )
            try:
                timeout = min(left, _READINESS_TRY_S)
                versions = yield Send(operation, self._next_address(), timeout)
                if model is None or _is_ready(versions):
                    return
                last = "; ".join(map(str, versions))
            except (Unavailable, DeadlineExceeded) as exc:
                # The last try is cut short, and knows less than those before it.
                last = exc if self._clock() < deadline else last
            except NotFound as exc:
                if model is None:
                    return
                last = exc
            except ServingError:
                if model is None:
                    return
                raise
            yield Sleep(min(self._pause(attempt), max(0.0, deadline - self._clock())))

    def send(self, operation: Operation, deadline: float) -> Steps[Any]:
        """
        Send one operation, and again while it is UNAVAILABLE and time is left.

        Another try is for the next address, whatever other calls do meanwhile.  The
        first attempt is made at all of them; pauses come after it.
        """
        first = self._next_address()
        for tried in itertools.count(1):
            left = deadline - self._clock()
            if left <= 0:
                raise DeadlineExceeded("no time is left for this call")
            address = (first + tried - 1) % self._addresses
            try:
                return (yield Send(operation, address, left))
            except Unavailable:
                attempts = tried - self._addresses + 1
                pause = self._pause(attempts - 1) if attempts > 0 else 0.0
                if attempts >= self._attempts or self._clock() + pause >= deadline:
                    raise
            except NotFound as exc:
                exc.add_note(_what_to_look_at(operation))
                raise
            if pause:
                yield Sleep(pause)
        raise AssertionError  # itertools.count never ends

    def _know(self, model: ModelRef, deadline: float) -> Steps[_Known]:
        known = self._known.get(model)
        if known is not None:
            is_fixed = model.version is not None and known.metadata is not None
            is_seen = not self._needs_signatures and known.metadata is not None
            if is_fixed or is_seen or self._clock() - known.asked_at < _METADATA_AGE_S:
                return known
        return (yield from self._ask(model, deadline))

    def _ask(self, model: ModelRef, deadline: float) -> Steps[_Known]:
        try:
            metadata = yield from self.send(Metadata(model), deadline)
        except (Unimplemented, PermissionDenied, Internal, Unknown):
            if self._needs_signatures:
                raise
            metadata = None
        known = _Known(metadata, self._clock())
        self._known[model] = known
        return known

    def _forget_if_replaced(self, model: ModelRef, prediction: Outputs) -> None:
        """Ask again next time when another version answered than the known one."""
        if prediction.version is None:
            return
        known = self._known.get(model)
        if (
            known is not None
            and known.metadata is not None
            and known.metadata.version != prediction.version
        ):
            self._known.pop(model, None)  # or another thread was quicker

    def _next_address(self) -> int:
        return next(self._turns) % self._addresses

    def _pause(self, attempt: int) -> float:
        longest = min(_FIRST_PAUSE_S * 2.0**attempt, _LONGEST_PAUSE_S)
        return longest * (0.5 + self._jitter() / 2)


def _predict(
    model: ModelRef,
    inputs: Any,
    name: str,
    outputs: Sequence[str],
    metadata: ModelMetadata | None,
    writable: bool,
) -> Predict:
    if metadata is None:
        return Predict(model, name, prepare(inputs, None), outputs, None, writable)
    signature = _signature(model, name, metadata)
    unknown = sorted(set(outputs) - signature.outputs.keys())
    if unknown:
        raise InvalidArgument(
            f"no output {', '.join(map(repr, unknown))}: signature {signature.name!r} "
            f"of {model} gives {specs_text(signature.outputs)}"
        )
    try:
        tensors = prepare(inputs, signature)
    except InvalidArgument as exc:
        exc.add_note(f"{model}, version {metadata.version}: {signature}")
        raise
    return Predict(model, name, tensors, outputs, signature, writable)


def _signature(model: ModelRef, name: str, metadata: ModelMetadata) -> Signature:
    signature = metadata.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        names = ", ".join(map(repr, metadata.signatures)) or "none"
        raise FailedPrecondition(
            f"no signature {name or DEFAULT_SIGNATURE!r}: {model}, version "
            f"{metadata.version}, has {names}; name one with signature="
        )
    return signature


def _what_to_look_at(operation: Operation) -> str:
    """Return what to do when the server does not know what was asked."""
    if isinstance(operation, ReloadConfig):
        return "look at the base paths of the configuration"
    model = operation.model
    if isinstance(operation, Status):
        return (
            f"the server knows no {model}: its models are named by --model_name, "
            "or in its configuration"
        )
    return (
        f"the server answers nothing for {model}: which versions it has, and in which "
        f"state, is said by client.status({model.name!r}) or `servable status`"
    )


def _one(context: Any) -> Any:
    return make_example(context) if isinstance(context, Mapping) else context


def _is_ready(versions: Sequence[VersionStatus]) -> bool:
    if any(version.state == "AVAILABLE" for version in versions):
        return True
    failed = [version for version in versions if version.code is not Code.OK]
    if failed and all(version.state == "END" for version in versions):
        newest = max(failed, key=lambda version: version.version)
        raise FailedPrecondition(f"the model did not become available: {newest}")
    return False
