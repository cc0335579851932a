"""Operations over HTTP, blocking and not."""

import asyncio
import ssl
import time
from typing import Any

import httpx

from servable.client import rest_codec
from servable.client.operations import Operation
from servable.client.targets import ConnectionOptions, Target
from servable.errors import DeadlineExceeded, ServingError, Unavailable

_NO_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)


class HttpTransport:
    """A pool of connections for blocking calls; may be used from many threads."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        self._target = target
        self._options = options
        self._client = httpx.Client(
            base_url=target.address, verify=_verify(options), limits=_NO_LIMITS
        )

    def send(self, operation: Operation, timeout_s: float) -> Any:
        """
        Send one operation and return its result.

        Raises:
            ServingError: the server's code and text, or that it was not reached.
        """
        deadline = time.monotonic() + timeout_s
        request = _request(self._client, operation, self._options, timeout_s)
        request.extensions["timeout"] = _TimeLeft(deadline)
        try:
            response = self._client.send(request, stream=True)
            try:
                chunks = []
                for chunk in response.iter_bytes():
                    chunks.append(chunk)
                    if time.monotonic() > deadline:
                        raise _late(self._target, timeout_s)
            finally:
                response.close()
        except httpx.HTTPError as exc:
            raise _error(exc, self._target, timeout_s) from None
        return rest_codec.decode(operation, response.status_code, b"".join(chunks))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class _TimeLeft(dict[str, float]):
    """
    The time left for each phase of a request: connect, write, read.

    httpx takes one number for every phase, so that together they could take a
    multiple of it; asked anew at each, they take it once.
    """

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def get(self, _phase: str, _default: Any = None) -> float:
        return max(self._deadline - time.monotonic(), 0.001)


class AsyncHttpTransport:
    """A pool of connections for coroutines of one event loop."""

    def __init__(self, target: Target, options: ConnectionOptions) -> None:
        self._target = target
        self._options = options
        self._client = httpx.AsyncClient(
            base_url=target.address, verify=_verify(options), limits=_NO_LIMITS
        )

    async def send(self, operation: Operation, timeout_s: float) -> Any:
        """Send one operation and return its result; raises as HttpTransport.send."""
        request = _request(self._client, operation, self._options, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.send(request)
        except TimeoutError:
            raise _late(self._target, timeout_s) from None
        except httpx.HTTPError as exc:
            raise _error(exc, self._target, timeout_s) from None
        return rest_codec.decode(operation, response.status_code, response.content)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _verify(options: ConnectionOptions) -> ssl.SSLContext | bool:
    tls = options.tls
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def _request(
    client: httpx.Client | httpx.AsyncClient,
    operation: Operation,
    options: ConnectionOptions,
    timeout_s: float,
) -> httpx.Request:
    message = rest_codec.encode(operation)
    headers = {"Accept": "application/json"}
    if message.body is not None:
        headers["Content-Type"] = "application/json"
    if authorization := options.authorization():
        headers["Authorization"] = authorization
    extensions = {}
    if options.tls is not None and options.tls.server_name is not None:
        extensions["sni_hostname"] = options.tls.server_name
    return client.build_request(
        message.method,
        message.path,
        content=message.body,
        headers=headers,
        timeout=timeout_s,
        extensions=extensions,
    )


def _late(target: Target, timeout_s: float) -> ServingError:
    return DeadlineExceeded(
        f"no answer from {target} within {timeout_s:.3g} s; give more with timeout="
    )


def _error(exc: httpx.HTTPError, target: Target, timeout_s: float) -> ServingError:
    if isinstance(exc, httpx.TimeoutException):
        return _late(target, timeout_s)
    text = str(exc) or type(exc).__name__
    return Unavailable(
        f"the server at {target} was not reached: {text}; does it run, and is this "
        "its REST address?"
    )
