"""
The file systems of object stores, as fsspec makes them, and how patient each one is.

A look at a store that is down has to say so within seconds, and their packages try for
minutes: here each request is made at most twice.  When to look or fetch again is
decided in `remote_versions`.  Who publishes does so once, and has more patience.
Credentials and endpoints come from where each package looks for them.
"""

import asyncio
import contextlib
import functools
import importlib.util
import os
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from servable.errors import FailedPrecondition, Unavailable
from servable.sources.urls import scheme_of

_CONNECT_S: Final = 5.0
_WAIT_S: Final = 0.5  # between attempts
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long a request may take.

    Attributes:
        silence_s: seconds without a byte of an answer, until it is given up.
        attempts: how often it is made at most.
    """

    silence_s: float
    attempts: int


READING: Final = Patience(silence_s=20.0, attempts=2)
# What is sent counts as silence, and parts have up to 50 MiB.
WRITING: Final = Patience(silence_s=300.0, attempts=5)


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of store.

    Attributes:
        module: what must be installed for it.
        extra: of this package, that installs it.
        new: makes the file system for a scheme and a patience, and for an account where
            URLs name it.
        is_shared: several threads may use one.
    """

    module: str
    extra: str
    new: Callable[..., Any]
    is_shared: bool = True


def check_installed(scheme: str) -> None:
    """Raise FailedPrecondition if what *scheme* needs is missing; import nothing."""
    kind = KINDS[scheme]
    for module in ("fsspec", kind.module):
        if importlib.util.find_spec(module) is None:
            raise FailedPrecondition(
                f"Base paths with {scheme}:// need the package {module}; "
                f"install it with: pip install 'servable[{kind.extra}]'"
            )


def filesystem(url: str, patience: Patience = READING) -> Any:
    """
    Return a file system for *url* and the calling thread.

    If it may be shared, it is the only one for such URLs and that patience, and has the
    connections of all.  Blocks where credentials are looked for.

    Raises:
        FailedPrecondition: something that it needs is not installed.
    """
    scheme = scheme_of(url)
    account = match[1] if (match := _ACCOUNT.match(url)) else ""
    if not KINDS[scheme].is_shared:
        return _new(scheme, account, patience)
    with _making[scheme]:
        key = scheme, account, patience
        if key not in _made:
            _made[key] = _new(scheme, account, patience)
        return _made[key]


def forget() -> None:
    """Make new ones from now on; for tests, whose environments change."""
    _made.clear()


def _new(scheme: str, account: str, patience: Patience) -> Any:
    options = {"account": account} if account else {}
    try:
        return KINDS[scheme].new(scheme, patience, **options)
    except ImportError as exc:
        raise FailedPrecondition(f"Base paths with {scheme}:// need {exc}") from exc


def _fsspec(scheme: str, **options: Any) -> Any:
    """Make the file system of *scheme*; what fsspec's configuration says goes first."""
    import fsspec  # noqa: PLC0415 - an extra

    return fsspec.filesystem(scheme, **_configured(scheme, options))


def _configured(scheme: str, options: Mapping[str, Any]) -> dict[str, Any]:
    import fsspec  # noqa: PLC0415 - an extra

    configured = fsspec.config.conf.get(scheme, {})
    return {"use_listings_cache": False, **options, **configured}


def _new_memory(scheme: str, _patience: Patience) -> Any:
    return _fsspec(scheme)


def _new_s3(scheme: str, patience: Patience) -> Any:
    limits = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": patience.silence_s,
        "retries": {"total_max_attempts": patience.attempts},
    }
    made = _fsspec(scheme, config_kwargs=limits)
    made.retries = 1  # of what has been tried so often already
    return made


def _new_gcs(scheme: str, patience: Patience) -> Any:
    trying = functools.partial(_try, patience.attempts)
    options = {
        "requests_timeout": _timeout(patience),
        "session_kwargs": {"middlewares": (trying,)},
        # Of the gRPC calls that ask which kind of bucket it is.
        "retry_timeout": _CONNECT_S,
    }
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
        return _fsspec(scheme, **options)
    # No emulator has the API that the file system asks that gcsfs has by default.
    from gcsfs.core import GCSFileSystem  # noqa: PLC0415 - an extra

    return GCSFileSystem(**_configured(scheme, options))


async def _try(
    attempts: int, request: Any, handler: Callable[[Any], Awaitable[Any]]
) -> Any:
    """
    Send *request*, and again if nothing comes of it; a middleware of aiohttp.

    gcsfs would send it six times, and does not after an error that it does not know.
    """
    import aiohttp  # noqa: PLC0415 - an extra

    cause: Exception | None = None
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(_WAIT_S)
        try:
            response = await handler(request)
            await response.read()  # gcsfs wants all of it, and that may break off
        except (aiohttp.ClientError, TimeoutError) as exc:
            cause, problem = exc, str(exc) or "it does not answer"
        else:
            if response.status not in _BUSY:
                return response
            cause, problem = None, f"it answers {response.status} {response.reason}"
    raise Unavailable(f"{request.url.host}: {problem}") from cause


def _new_azure(scheme: str, patience: Patience, account: str = "") -> Any:
    options = {
        "connection_timeout": int(_CONNECT_S),
        "read_timeout": int(patience.silence_s),
    }
    made = _fsspec(scheme, account_name=account or None, **options)
    # These options are for downloads only, and there are none for the rest, which would
    # be tried for 80 s.
    with contextlib.suppress(AttributeError):  # without it, it is only slower to tell
        config = made.service_client._config  # noqa: SLF001
        config.retry_policy.total_retries = patience.attempts - 1
        config.retry_policy.initial_backoff = _WAIT_S
        config.retry_policy.increment_base = config.retry_policy.random_jitter_range = 0
        config.transport.connection_config.timeout = _CONNECT_S
        config.transport.connection_config.read_timeout = patience.silence_s
    return made


def _new_http(scheme: str, patience: Patience) -> Any:
    import aiohttp  # noqa: PLC0415 - an extra

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse_other_hosts)
    options = {"timeout": _timeout(patience), "trace_configs": [tracing]}
    return _fsspec(scheme, client_kwargs=options)


async def _refuse_other_hosts(_session: object, _context: object, params: Any) -> None:
    here = str(params.url)
    there = urljoin(here, params.response.headers.get("Location", ""))
    if urlsplit(here).netloc != urlsplit(there).netloc:
        raise Unavailable(f"{urlsplit(here).netloc} redirects to another server")


def _new_hub(scheme: str, _patience: Patience) -> Any:
    # A dead Hub fails the first request of a look, which is made once.
    return _fsspec(scheme, skip_instance_cache=True)


def _timeout(patience: Patience) -> Any:
    import aiohttp  # noqa: PLC0415 - an extra

    return aiohttp.ClientTimeout(
        total=None, sock_connect=_CONNECT_S, sock_read=patience.silence_s
    )


S3: Final = Kind("s3fs", "s3", _new_s3)
GCS: Final = Kind("gcsfs", "gcs", _new_gcs)
AZURE: Final = Kind("adlfs", "azure", _new_azure)
HTTP: Final = Kind("aiohttp", "http", _new_http)
# It remembers listings in a way that is not safe to share.
HUB: Final = Kind("huggingface_hub", "hf", _new_hub, is_shared=False)
KINDS: Final[Mapping[str, Kind]] = {
    "s3": S3,
    "s3a": S3,
    "gs": GCS,
    "gcs": GCS,
    "az": AZURE,
    "abfs": AZURE,
    "abfss": AZURE,
    "http": HTTP,
    "https": HTTP,
    "hf": HUB,
    "memory": Kind("fsspec", "http", _new_memory),
}
# As in abfss://container@account.dfs.core.windows.net/path.
_ACCOUNT: Final = re.compile(r"abfss?://[^@/]*@([^./]+)\.", re.IGNORECASE)
_made: Final[dict[tuple[str, str, Patience], Any]] = {}
# One for each, because looking for credentials takes long where there are none.
_making: Final = {scheme: threading.Lock() for scheme in KINDS}
