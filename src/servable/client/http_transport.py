"""
Operations over HTTP, blocking and not.

httpcore has the connections and speaks HTTP/1.1.  Here are the request and the answer
in its terms, the proxy that the environment names, what failures mean, and the deadline
of a blocking call, which httpcore has for single reads and writes only.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore

from servable.client import rest_codec
from servable.client.operations import Operation
from servable.client.targets import ConnectionOptions, Target
from servable.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ServingError,
    Unavailable,
)

_PHASES: Final = ("connect", "write", "read")
_CHUNK: Final = 1 << 16  # bytes that are written between two looks at the clock
_GZIP: Final = 16 + zlib.MAX_WBITS  # zlib's number for it
_ENCODING: Final = b"content-encoding"
_POOL: Final[dict[str, Any]] = {
    "max_connections": None,
    "max_keepalive_connections": 100,
    "keepalive_expiry": 5.0,
}

# What httpcore and, where it lets them pass, the sockets below it raise.
_FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    OSError,
)


class HttpTransport:
    """A pool of connections for blocking calls; may be used from many threads."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        self._target = target
        self._requests = _Requests(target, options)
        proxy, context = _proxy(target), _context(target, options)
        backend = _Backend()
        self._pool = (
            httpcore.ConnectionPool(context, network_backend=backend, **_POOL)
            if proxy is None
            else httpcore.HTTPProxy(
                **proxy, ssl_context=context, network_backend=backend, **_POOL
            )
        )

    def send(self, operation: Operation, timeout_s: float) -> Any:
        """
        Send one operation and return its result.

        Raises:
            ServingError: the server's code and text, or that it was not reached.
        """
        deadline = time.monotonic() + timeout_s
        steps = self._requests.make(operation)
        while (request := next(steps)) is None:
            if time.monotonic() > deadline:
                raise _late(self._target, timeout_s)
        request.extensions["timeout"] = dict.fromkeys(_PHASES, deadline)
        try:
            response = self._pool.handle_request(request)
            try:
                body = response.read()
            finally:
                response.close()
        except httpcore.TimeoutException:
            raise _late(self._target, timeout_s) from None
        except _FAILURES as exc:
            raise _error(exc, self._target) from None
        return _decode(operation, response, body)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class AsyncHttpTransport:
    """A pool of connections for coroutines of one event loop."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        self._target = target
        self._requests = _Requests(target, options)
        proxy, context = _proxy(target), _context(target, options)
        self._pool = (
            httpcore.AsyncConnectionPool(context, **_POOL)
            if proxy is None
            else httpcore.AsyncHTTPProxy(**proxy, ssl_context=context, **_POOL)
        )

    async def send(self, operation: Operation, timeout_s: float) -> Any:
        """Send one operation and return its result; raises as HttpTransport.send."""
        steps = self._requests.make(operation)
        try:
            async with asyncio.timeout(timeout_s):
                # Between the pieces others have their turns, and time passes.
                while (request := next(steps)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                response = await self._pool.handle_async_request(request)
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _late(self._target, timeout_s) from None
        except _FAILURES as exc:
            raise _error(exc, self._target) from None
        return _decode(operation, response, body)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Requests:
    """Makes the requests to one target."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        url = urlsplit(target.address)
        self._options = options
        self._scheme = url.scheme
        self._host = (url.hostname or "").encode("idna")
        self._port = url.port
        self._prefix = quote(url.path, safe="/%")
        self._headers: dict[str | bytes, str | bytes] = {
            "Host": url.netloc.encode("idna"),
            "Accept": b"application/json",
            "Accept-Encoding": b"gzip",
            "User-Agent": b"servable",
        }
        tls = options.tls
        name = None if tls is None else tls.server_name
        self._extensions = {} if name is None else {"sni_hostname": name}

    def make(self, operation: Operation) -> Iterator[httpcore.Request | None]:
        """Give None now and then while the request is written, and then itself."""
        message = yield from rest_codec.encode(operation)
        headers = dict(self._headers)
        if message.method != "GET":
            headers["Content-Type"] = b"application/json"
            headers["Content-Length"] = str(len(message.body or b"")).encode()
        if authorization := self._options.authorization():
            headers["Authorization"] = authorization.encode()
        yield httpcore.Request(
            message.method,
            httpcore.URL(
                scheme=self._scheme,
                host=self._host,
                port=self._port,
                target=self._prefix + message.path,
            ),
            headers=headers,
            content=message.body,
            extensions=dict(self._extensions),
        )


class _Backend(httpcore.NetworkBackend):
    """
    Connections that take the time at which to give up for a timeout.

    httpcore hands one number to every read and every write of a phase, so that a
    timeout would begin anew with each byte that drips in.
    """

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of the addresses of *host* that takes it."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port, timeout):
            try:
                stream = httpcore.SyncBackend().connect_tcp(
                    address,
                    port,
                    _left(timeout, httpcore.ConnectTimeout),
                    local_address,
                    socket_options,
                )
            except httpcore.ConnectError as exc:
                failure = exc
            else:
                return _Stream(stream)
        raise failure


class _Stream(httpcore.NetworkStream):
    """A connection whose timeouts are times."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        for at in range(0, len(view), _CHUNK):
            left = _left(timeout, httpcore.WriteTimeout)
            self._stream.write(view[at : at + _CHUNK], left)  # type: ignore[arg-type]

    def close(self) -> None:
        # To close a socket does not wake the thread that reads from it; this does.
        with contextlib.suppress(OSError):
            connection = self._stream.get_extra_info("socket")
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float | None, late: type[Exception]) -> float | None:
    """Return the seconds until *deadline*; raise *late* where there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise late
    return left


def _addresses(host: str, port: int, deadline: float | None) -> list[str]:
    """Ask for the addresses of *host* on a thread, as nothing can cut that short."""
    answers: list[list[Any] | OSError] = []

    def ask() -> None:
        try:
            answers.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as exc:
            answers.append(exc)

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(_left(deadline, httpcore.ConnectTimeout))
    if not answers:
        raise httpcore.ConnectTimeout
    answer = answers[0]
    if isinstance(answer, OSError):
        raise httpcore.ConnectError(str(answer)) from answer
    return [address for *_, (address, *_) in answer]


def _context(target: Target, options: ConnectionOptions) -> ssl.SSLContext | None:
    if not target.secure:
        return None
    if options.tls is None:
        return ssl.create_default_context()
    return options.tls.context()


def _proxy(target: Target) -> dict[str, Any] | None:
    """Return what the environment says of a proxy, in the words of httpcore."""
    url = urlsplit(target.address)
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or proxy_bypass(url.hostname or ""):
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme not in ("http", "https") or not proxy.hostname:
        raise InvalidArgument(
            f"the environment names the proxy {address} for {url.scheme}://, which is "
            "not one for HTTP; set no_proxy for hosts that need none"
        )
    found: dict[str, Any] = {
        "proxy_url": f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"
    }
    if proxy.username:
        found["proxy_auth"] = proxy.username, proxy.password or ""
    return found


def _decode(operation: Operation, response: httpcore.Response, body: bytes) -> Any:
    encodings = [v for name, v in response.headers if name.lower() == _ENCODING]
    if encodings:
        try:
            body = zlib.decompress(body, _GZIP)
        except zlib.error as exc:
            raise Internal(
                f"the answer is in the encoding {encodings[0].decode('latin-1')!r} and "
                f"cannot be read: {exc}"
            ) from None
    return rest_codec.decode(operation, response.status, body)


def _late(target: Target, timeout_s: float) -> ServingError:
    return DeadlineExceeded(
        f"no answer from {target} within {timeout_s:.3g} s; give more with timeout="
    )


def _error(exc: Exception, target: Target) -> ServingError:
    reason = str(exc) or type(exc).__name__
    return Unavailable(
        f"the server at {target} was not reached: {reason}; {target.question}"
    )
