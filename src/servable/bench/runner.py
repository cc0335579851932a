"""
One run of the load generator: its specification and its report.

Everything is timed in the engine; nothing here is on the way of a request.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, cast

from servable import _engine


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """The answers set the pace: in_flight requests are out at any time."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """
    A schedule sets the pace: rate requests a second, however slow the answers are.

    Latency counts from when a request was due.  More than max_in_flight requests are
    not sent at a time; the others wait, and the wait is part of their latency.
    """

    rate: float
    arrival: Literal["constant", "poisson"] = "poisson"
    max_in_flight: int = 256
    seed: int = 0


Load: TypeAlias = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True)
class Spec:
    """
    What to send, where, and how much of it.

    address is ``host:port`` or ``unix:path``; path a gRPC method
    (``/package.Service/Method``) or the path of a URL.  Either seconds or requests
    says how much is measured after warmup_s.  An answer that is not OK, or is not
    equal to expected, counts as an error.  pid is a process of this machine.
    """

    protocol: Literal["grpc", "rest"]
    address: str
    path: str
    body: bytes
    load: Load
    seconds: float | None = None
    requests: int | None = None
    warmup_s: float = 1.0
    timeout_s: float = 30.0
    connections: int = 1
    threads: int = 1
    verb: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: bytes | None = None
    pid: int | None = None

    def to_json(self) -> str:
        """Return the specification as the engine reads it."""
        return json.dumps(
            {
                "protocol": self.protocol,
                "address": self.address,
                "path": self.path,
                "verb": self.verb,
                "headers": dict(self.headers),
                "body_base64": _base64(self.body),
                "expected_base64": (
                    None if self.expected is None else _base64(self.expected)
                ),
                "load": load_to_dict(self.load),
                "connections": max(self.connections, self.threads),
                "threads": self.threads,
                "warmup_s": self.warmup_s,
                "duration_s": self.seconds,
                "requests": self.requests,
                "timeout_s": self.timeout_s,
                "pid": self.pid,
            }
        )


Latency: TypeAlias = dict[
    str, float
]  # min, mean, p50, p90, p99, p99.9, max; microseconds


class ErrorCount(TypedDict):
    """Errors of one kind; message is the first one's."""

    count: int
    message: str


class ServerUsage(TypedDict):
    """What the watched process used while requests were counted."""

    pid: int
    cpu_us_per_request: float
    user_us_per_request: float
    system_us_per_request: float
    cores_used: float
    rss_bytes: int
    peak_rss_bytes: int


class Report(TypedDict):
    """
    What was measured.

    latency_us is of good answers, from when the request was due; lateness_us from
    when it was due to when it was sent.  percentiles holds pairs of percentile and
    microseconds.  server is None when no process was watched, or when it ended.
    """

    requests: int
    ok: int
    errors: dict[str, ErrorCount]
    seconds: float
    requests_per_s: float
    latency_us: Latency
    lateness_us: Latency
    response_bytes: int
    server: ServerUsage | None
    client_cpu_us_per_request: float
    percentiles: Sequence[tuple[float, float]]


def run(spec: Spec, progress: Callable[[float], None] | None = None) -> Report:
    """
    Carry out *spec* and return the report; blocks without the GIL.

    progress is called about ten times a second with the part done; what it raises
    ends the run and is raised here, and so is KeyboardInterrupt.

    Raises:
        ValueError: the specification makes no sense.
        ConnectionError: the server could not be reached at the start.
        OSError: the process to watch is not there.
    """
    return cast("Report", json.loads(_engine.bench(spec.to_json(), progress)))


def load_to_dict(load: Load) -> dict[str, Any]:
    """Return *load* as it stands in specifications and result files."""
    match load:
        case ClosedLoop():
            return {"mode": "closed", "in_flight": load.in_flight}
        case OpenLoop():
            return {
                "mode": "open",
                "rate": load.rate,
                "arrival": load.arrival,
                "max_in_flight": load.max_in_flight,
                "seed": load.seed,
            }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
