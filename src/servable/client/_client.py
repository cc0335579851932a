"""Client and AsyncClient: the steps of Calls, carried out."""

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy.typing as npt

from servable.apis import model_server_config_pb2
from servable.client.administration import Administration
from servable.client.calls import Calls, Send, Step, Steps
from servable.client.operations import (
    Classification,
    Outputs,
    VersionStatus,
    model_ref,
)
from servable.client.signatures import ModelMetadata
from servable.client.targets import (
    ConnectionOptions,
    Protocol,
    Target,
    Tls,
    Token,
    parse_targets,
)
from servable.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
)

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 10.0
_LONGEST_S = 1e6  # eleven days: what every clock below us can count

_CLOSED = "this client is closed; make another one"
_CLOSED_MEANWHILE = "the client was closed during the call"


class _Base:
    """What both clients are made from."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        tls: Tls | bool | None = None,
        token: Token | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempts: int = 4,
        keep_alive: float | None = 300.0,
    ) -> None:
        if tls is not None and not isinstance(tls, Tls | bool):
            raise InvalidArgument(
                f"tls={tls!r} is neither True nor a Tls; a file of roots is Tls(ca=...)"
            )
        self._timeout_s = _checked(timeout)
        if keep_alive is not None:
            keep_alive = _checked(keep_alive, "keep_alive")
        self._targets = parse_targets(address, secure=bool(tls))
        self._options = ConnectionOptions(
            tls if isinstance(tls, Tls) else None, token, keep_alive
        )
        self._protocol = self._targets[0].protocol
        self._closed = threading.Event()
        self._calls = Calls(
            addresses=len(self._targets),
            attempts=attempts,
            needs_signatures=self._protocol is Protocol.REST,
        )

    def __repr__(self) -> str:
        addresses = ", ".join(map(str, self._targets))
        return f"<{type(self).__name__} of {addresses} over {self._protocol.value}>"

    def _left(self, timeout: float | None) -> float:
        return self._timeout_s if timeout is None else _checked(timeout)


class Client(_Base):
    """
    A client of a model server: TensorFlow Serving's API, arrays in and arrays out.

    May be used from many threads.  Every call keeps its deadline, is tried again
    within it while the server is UNAVAILABLE, and raises a ServingError with the
    server's code and text.

    Args:
        address: `host:8500`, `grpc://…` or `unix:/path` for gRPC, `http://host:8501`
            or `https://…` for REST.  Several, in a sequence or with commas, take
            turns.
        tls: True for TLS with the system's roots, or a Tls with files of your own;
            `grpcs://` and `https://` imply it.
        token: sent as a bearer token with every call; a function is asked each time.
        timeout: seconds that a call may take where it does not say; with infinity it
            is eleven days.
        attempts: how often an UNAVAILABLE server is tried, within the timeout; the
            first time with every address.
        keep_alive: seconds after which a silent gRPC connection is probed; None not
            at all.  Servers refuse to be probed much more often than by default.

    Raises:
        InvalidArgument: the address is none.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        tls: Tls | bool | None = None,
        token: Token | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempts: int = 4,
        keep_alive: float | None = 300.0,
    ) -> None:
        super().__init__(
            address,
            tls=tls,
            token=token,
            timeout=timeout,
            attempts=attempts,
            keep_alive=keep_alive,
        )
        self._transports = [_transport(t, self._options) for t in self._targets]
        self._administration: Administration | None = None

    @property
    def administration(self) -> Administration:
        """
        What changes the models of the first server.

        Raises:
            InvalidArgument: the address is not one for gRPC.
        """
        if self._administration is None:
            self._administration = Administration(
                self._targets[0], self._options, self._timeout_s
            )
        return self._administration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls in flight are Cancelled, later ones refused."""
        self._closed.set()
        for transport in self._transports:
            transport.close()
        if self._administration is not None:
            self._administration.close()

    def predict(
        self,
        model: str,
        inputs: Any,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        outputs: str | Sequence[str] | None = None,
        writable: bool = False,
        timeout: float | None = None,
    ) -> Outputs:
        """
        Run a signature of a model.

        Args:
            model: its name.
            inputs: a dictionary of input names to arrays, lists, scalars or bytes; a
                data frame, whose columns are the inputs; or one value alone where
                the signature takes one input.
            signature: its name; "" is `serving_default`.
            version: a version of the model; None is the latest.
            label: a version label instead.
            outputs: names of the outputs wanted; None for all.
            writable: give arrays that can be changed; without, large ones may be part
                of the answer, and not copied.
            timeout: seconds; None takes the client's.

        Returns:
            The outputs by name, as arrays; strings as arrays of `bytes`.  Their
            `version` is the one that answered, over gRPC.

        Raises:
            InvalidArgument: names or values that the signature does not take.
            NotFound: no such model or version.
            FailedPrecondition: no such signature.
            DeadlineExceeded: no answer within the timeout.
            Unavailable: the server was not reached, or has too much to do.
            ServingError: whatever else the server answers.
        """
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return self._run(
            self._calls.predict(
                ref, inputs, signature, outputs, timeout_s, writable=writable
            )
        )

    def classify(
        self,
        model: str,
        examples: Any,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        context: Any = None,
        timeout: float | None = None,
    ) -> Classification:
        """
        Classify examples.

        An example is a dictionary of features, a tf.Example or a serialized one;
        *examples* is one, a sequence, or a data frame with one in each row.  The
        features in *context* are part of every example.  Raises as predict.
        """
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return self._run(
            self._calls.classify(ref, examples, signature, context, timeout_s)
        )

    def regress(
        self,
        model: str,
        examples: Any,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        context: Any = None,
        timeout: float | None = None,
    ) -> npt.NDArray[Any]:
        """Return one float32 for each example; see classify."""
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return self._run(
            self._calls.regress(ref, examples, signature, context, timeout_s)
        )

    def multi_inference(
        self,
        model: str,
        examples: Any,
        tasks: Mapping[str, str],
        *,
        version: int | None = None,
        label: str | None = None,
        context: Any = None,
        timeout: float | None = None,
    ) -> Mapping[str, Classification | npt.NDArray[Any]]:
        """
        Classify and regress the same examples in one run.

        *tasks* says for each signature name whether to "classify" or to "regress";
        the results have the same names.  Raises as predict, and Unimplemented over REST
        where the server does not have it there, as TensorFlow Serving does not.
        """
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return self._run(
            self._calls.multi_inference(ref, examples, tasks, context, timeout_s)
        )

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """Return the version that answers, and its signatures; raises as predict."""
        ref = model_ref(model, version, label)
        return self._run(self._calls.metadata(ref, self._left(timeout)))

    def status(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Sequence[VersionStatus]:
        """Return the state of every version there is or was; raises as predict."""
        ref = model_ref(model, version)
        return self._run(self._calls.status(ref, self._left(timeout)))

    def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        """
        Block until the model can be asked; without one, until a server answers.

        Raises:
            DeadlineExceeded: that took longer than *timeout* seconds.
            FailedPrecondition: every version of the model failed to load.
        """
        ref = None if model is None else model_ref(model, version)
        self._run(self._calls.wait_until_ready(ref, _checked(timeout)))

    def reload_config(
        self,
        config: model_server_config_pb2.ModelServerConfig | Mapping[str, str] | str,
        *,
        timeout: float | None = None,
    ) -> None:
        """
        Replace the set of models that the server serves.

        *config* is the message, its text form, or a dictionary of model names to base
        paths.  Returns when every new model can be asked.

        Raises:
            InvalidArgument: the configuration is none, or the server refuses it.
            PermissionDenied: the server does not take it from this address.
            Unimplemented: over REST, as multi_inference.
            ServingError: a model did not become available, or as predict.
        """
        message = _model_server_config(config)
        self._run(self._calls.reload_config(message, self._left(timeout)))

    def _run(self, steps: Steps[T]) -> T:
        outcome: Any = None
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._do(step)
                except ServingError as exc:
                    step = steps.throw(exc)
                else:
                    step = steps.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _do(self, step: Step) -> Any:
        if not isinstance(step, Send):
            return time.sleep(step.seconds)
        if self._closed.is_set():
            raise FailedPrecondition(_CLOSED)
        transport = self._transports[step.address]
        try:
            return transport.send(step.operation, step.timeout_s)
        except ServingError:
            if self._closed.is_set():
                raise Cancelled(_CLOSED_MEANWHILE) from None
            raise


class AsyncClient(_Base):
    """
    The same client for asyncio; every call of Client is a coroutine here.

    Belongs to the event loop that first uses it.  Calls wait for no thread, so any
    number may be in flight.
    """

    _transports: Sequence[Any] | None = None
    _loop: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls in flight are Cancelled, later ones refused."""
        self._closed.set()
        for transport in self._transports or ():
            await transport.close()

    async def predict(
        self,
        model: str,
        inputs: Any,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        outputs: str | Sequence[str] | None = None,
        writable: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> Outputs:
        """Run a signature of a model; see Client.predict."""
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return await self._run(
            self._calls.predict(
                ref, inputs, signature, outputs, timeout_s, writable=writable
            )
        )

    async def classify(
        self,
        model: str,
        examples: Any,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        context: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> Classification:
        """Classify examples; see Client.classify."""
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return await self._run(
            self._calls.classify(ref, examples, signature, context, timeout_s)
        )

    async def regress(
        self,
        model: str,
        examples: Any,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        context: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> npt.NDArray[Any]:
        """Return one float32 for each example; see Client.classify."""
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return await self._run(
            self._calls.regress(ref, examples, signature, context, timeout_s)
        )

    async def multi_inference(
        self,
        model: str,
        examples: Any,
        tasks: Mapping[str, str],
        *,
        version: int | None = None,
        label: str | None = None,
        context: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> Mapping[str, Classification | npt.NDArray[Any]]:
        """Classify and regress the same examples; see Client.multi_inference."""
        ref = model_ref(model, version, label)
        timeout_s = self._left(timeout)
        return await self._run(
            self._calls.multi_inference(ref, examples, tasks, context, timeout_s)
        )

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> ModelMetadata:
        """Return the version that answers, and its signatures."""
        ref = model_ref(model, version, label)
        return await self._run(self._calls.metadata(ref, self._left(timeout)))

    async def status(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> Sequence[VersionStatus]:
        """Return the state of every version there is or was."""
        ref = model_ref(model, version)
        return await self._run(self._calls.status(ref, self._left(timeout)))

    async def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109 - for all attempts together
    ) -> None:
        """Wait until the model can be asked; see Client.wait_until_ready."""
        ref = None if model is None else model_ref(model, version)
        await self._run(self._calls.wait_until_ready(ref, _checked(timeout)))

    async def reload_config(
        self,
        config: model_server_config_pb2.ModelServerConfig | Mapping[str, str] | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - for all attempts together
    ) -> None:
        """Replace the set of models; see Client.reload_config."""
        message = _model_server_config(config)
        await self._run(self._calls.reload_config(message, self._left(timeout)))

    async def _run(self, steps: Steps[T]) -> T:
        outcome: Any = None
        try:
            step = next(steps)
            while True:
                try:
                    outcome = await self._do(step)
                except ServingError as exc:
                    step = steps.throw(exc)
                else:
                    step = steps.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _do(self, step: Step) -> Any:
        import asyncio  # noqa: PLC0415 - slow, and at work already if we are here

        if not isinstance(step, Send):
            return await asyncio.sleep(step.seconds)
        if self._closed.is_set():
            raise FailedPrecondition(_CLOSED)
        transport = self._opened(asyncio.get_running_loop())[step.address]
        try:
            return await transport.send(step.operation, step.timeout_s)
        except ServingError:
            if self._closed.is_set():
                raise Cancelled(_CLOSED_MEANWHILE) from None
            raise
        except asyncio.CancelledError:
            # gRPC says so, too, of a channel that was closed; nobody meant the task.
            task = asyncio.current_task()
            if self._closed.is_set() and task is not None and not task.cancelling():
                raise Cancelled(_CLOSED_MEANWHILE) from None
            raise

    def _opened(self, loop: Any) -> Sequence[Any]:
        """Return the transports, which are made where an event loop runs."""
        if self._transports is None:
            self._loop = loop
            self._transports = [
                _async_transport(target, self._options) for target in self._targets
            ]
        if self._loop is not loop:
            raise FailedPrecondition(
                "this AsyncClient belongs to the event loop that first used it, and "
                "this is another; make one inside of each asyncio.run()"
            )
        return self._transports


def _transport(target: Target, options: ConnectionOptions) -> Any:
    if target.protocol is Protocol.REST:
        from servable.client.http_transport import HttpTransport  # noqa: PLC0415

        return HttpTransport(target, options)
    from servable.client.grpc_transport import GrpcTransport  # noqa: PLC0415

    return GrpcTransport(target, options)


def _async_transport(target: Target, options: ConnectionOptions) -> Any:
    if target.protocol is Protocol.REST:
        from servable.client.http_transport import AsyncHttpTransport  # noqa: PLC0415

        return AsyncHttpTransport(target, options)
    from servable.client.grpc_transport import AsyncGrpcTransport  # noqa: PLC0415

    return AsyncGrpcTransport(target, options)


def _checked(seconds: float, name: str = "timeout") -> float:
    try:
        is_time = bool(seconds > 0)
    except TypeError:
        raise InvalidArgument(f"{name}={seconds!r} is no number of seconds") from None
    if not is_time and name == "timeout":
        raise DeadlineExceeded(f"a timeout of {seconds} s leaves no time for a call")
    if not is_time:
        raise InvalidArgument(f"{name}={seconds!r} is no time; give seconds, or None")
    return min(float(seconds), _LONGEST_S)


def _model_server_config(
    config: model_server_config_pb2.ModelServerConfig | Mapping[str, str] | str,
) -> model_server_config_pb2.ModelServerConfig:
    if isinstance(config, Mapping):
        message = model_server_config_pb2.ModelServerConfig()
        message.model_config_list.SetInParent()
        for name, base_path in config.items():
            if not isinstance(name, str):
                raise InvalidArgument(f"a model is a name, and {name!r} is none")
            message.model_config_list.config.add(
                name=name, base_path=str(base_path), model_platform="tensorflow"
            )
        return message
    if isinstance(config, str):
        from google.protobuf import text_format  # noqa: PLC0415 - only for this

        from servable.apis import POOL  # noqa: PLC0415

        try:
            return text_format.Parse(
                config,
                model_server_config_pb2.ModelServerConfig(),
                descriptor_pool=POOL,
            )
        except text_format.ParseError as exc:
            raise InvalidArgument(f"this is no ModelServerConfig: {exc}") from None
    if not hasattr(config, "SerializeToString"):
        raise InvalidArgument(
            f"{config!r:.80} is no configuration; give a ModelServerConfig, its text, "
            "or a dictionary of model names to base paths"
        )
    # The message may be of another package; what crosses between pools is bytes.
    return model_server_config_pb2.ModelServerConfig.FromString(
        config.SerializeToString()
    )
