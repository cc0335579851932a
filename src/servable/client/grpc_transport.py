"""
Operations over gRPC channels, blocking and not.

gRPC keeps the deadlines, but for one: a call whose request cannot leave, because the
server reads no more, ends when the operating system gives up on the connection.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any, Final

import grpc
import grpc.aio

from servable.client.grpc_codec import RPCS
from servable.client.operations import Operation
from servable.client.targets import ConnectionOptions, Target
from servable.errors import DeadlineExceeded, ServingError, Unavailable, from_code

# Bytes of requests under way from which the sockets between us may be full.
_MAY_JAM: Final = 1 << 18
_GRACE_S: Final = 0.05  # in which gRPC is to tell of a deadline itself


class GrpcTransport:
    """One channel for blocking calls; may be used from many threads."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        self._target = target
        self._options = options
        self._channel = open_channel(target, options)
        self._calls: Mapping[type[Operation], Any] = _calls(self._channel)
        self._lock = threading.Lock()
        self._under_way = 0  # bytes of requests; guarded by _lock

    def send(self, operation: Operation, timeout_s: float) -> Any:
        """
        Send one operation and return its result.

        Raises:
            ServingError: the server's code and text, or that it was not reached.
        """
        kind = type(operation)
        rpc = RPCS[kind]
        request = rpc.encode(operation)
        metadata = metadata_of(self._options)
        with self._lock:
            self._under_way += len(request)
            may_jam = self._under_way > _MAY_JAM
        call = self._call_in_time if may_jam else self._call
        try:
            response = call(kind, request, timeout_s, metadata)
        except grpc.RpcError as exc:
            raise error_of(exc, self._target, timeout_s) from None
        except TimeoutError:
            raise _late(self._target, timeout_s) from None
        return rpc.decode(operation, response)

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._channel.close()

    def _call(
        self, kind: type[Operation], request: bytes, timeout_s: float, metadata: Any
    ) -> Any:
        """Call, and count the request as under way no more when that is over."""
        try:
            return self._calls[kind](request, timeout=timeout_s, metadata=metadata)
        finally:
            with self._lock:
                self._under_way -= len(request)

    def _call_in_time(
        self, kind: type[Operation], request: bytes, timeout_s: float, metadata: Any
    ) -> Any:
        """
        Do as _call, on a thread, which waits on where it is not back in time.

        Raises:
            TimeoutError: it is not.
        """
        answer: futures.Future[Any] = futures.Future()

        def run() -> None:
            try:
                answer.set_result(self._call(kind, request, timeout_s, metadata))
            except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
                answer.set_exception(exc)

        threading.Thread(target=run, name="send", daemon=True).start()
        return answer.result(timeout_s + _GRACE_S)


class AsyncGrpcTransport:
    """One channel for coroutines of one event loop."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        self._target = target
        self._options = options
        settings = _settings(options)
        if target.secure:
            credentials = _credentials(options)
            self._channel = grpc.aio.secure_channel(
                target.address, credentials, settings
            )
        else:
            self._channel = grpc.aio.insecure_channel(target.address, settings)
        self._calls: Mapping[type[Operation], Any] = _calls(self._channel)

    async def send(self, operation: Operation, timeout_s: float) -> Any:
        """Send one operation and return its result; raises as GrpcTransport.send."""
        kind = type(operation)
        rpc = RPCS[kind]
        request = rpc.encode(operation)
        metadata = metadata_of(self._options)
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                response = await self._calls[kind](
                    request, timeout=timeout_s, metadata=metadata
                )
        except grpc.aio.AioRpcError as exc:
            raise error_of(exc, self._target, timeout_s) from None
        except TimeoutError:
            # What it still waits for must not be waited for when the loop ends.
            grpc.aio.init_grpc_aio()
            raise _late(self._target, timeout_s) from None
        return rpc.decode(operation, response)

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        await self._channel.close()


def open_channel(target: Target, options: ConnectionOptions) -> grpc.Channel:
    """Return a channel for blocking calls; nothing is connected yet."""
    settings = _settings(options)
    if target.secure:
        return grpc.secure_channel(target.address, _credentials(options), settings)
    return grpc.insecure_channel(target.address, settings)


def _calls(channel: Any) -> Mapping[type[Operation], Any]:
    return {kind: channel.unary_unary(rpc.path) for kind, rpc in RPCS.items()}


def _settings(options: ConnectionOptions) -> list[tuple[str, Any]]:
    settings: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),  # ours count, and know when to stop
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if options.keep_alive_s is not None:
        settings += [
            ("grpc.keepalive_time_ms", int(options.keep_alive_s * 1000)),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]
    if options.tls is not None and options.tls.server_name is not None:
        settings.append(("grpc.ssl_target_name_override", options.tls.server_name))
    return settings


def _credentials(options: ConnectionOptions) -> grpc.ChannelCredentials:
    tls = options.tls
    if tls is None:
        return grpc.ssl_channel_credentials()
    tls.context()  # says what is wrong with the files, as gRPC does not
    return grpc.ssl_channel_credentials(
        tls.read(tls.ca), tls.read(tls.key), tls.read(tls.certificate)
    )


def metadata_of(options: ConnectionOptions) -> tuple[tuple[str, str], ...] | None:
    """Return what is sent along with every call."""
    authorization = options.authorization()
    return None if authorization is None else (("authorization", authorization),)


# What gRPC says when there is no connection, or no longer.
_NOT_REACHED: Final = ("connect", "Connection", "resol", "Socket closed", "GOAWAY")

# What gRPC says when something else than a gRPC server answers.
_NOT_GRPC: Final = ("http1", "http/1", "Failed parsing HTTP/2", "non-200 HTTP")
_NOT_FOUND_OVER_HTTP2: Final = "Received http2 header with status: 404"


def error_of(exc: Any, target: Target, timeout_s: float) -> ServingError:
    """Return what an RpcError of a call to *target* means."""
    code: int = exc.code().value[0]
    text = exc.details() or ""
    if text == _NOT_FOUND_OVER_HTTP2 or (
        code == Unavailable.code and any(sign in text for sign in _NOT_GRPC)
    ):
        return Unavailable(
            f"{target} does not speak gRPC ({text}); is that the REST port? "
            f"Then the address is http://{target}"
        )
    if code == Unavailable.code and any(sign in text for sign in _NOT_REACHED):
        return Unavailable(
            f"the server at {target} was not reached: {text}; {target.question}"
        )
    if code == DeadlineExceeded.code and "deadline exceeded" in text.lower():
        return _late(target, timeout_s)
    return from_code(
        code, text or f"{target} answered {exc.code().name} without a text"
    )


def _late(target: Target, timeout_s: float) -> ServingError:
    return DeadlineExceeded(
        f"no answer from {target} within {timeout_s:.3g} s; give more with timeout="
    )
