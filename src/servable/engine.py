"""What the control plane asks of the request path; `_engine.pyi` has the contracts."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from servable.batching import consultant
from servable.rollouts import Answered, Route

if TYPE_CHECKING:
    from servable import _engine


class Engine(consultant.Engine, Protocol):
    """What the server needs of servable._engine.Engine."""

    def publish(
        self,
        servables: Mapping[str, Mapping[int, "_engine.Servable"]],
        labels: Mapping[str, Mapping[str, int]],
        routes: Mapping[str, Route] | None = None,
    ) -> None:
        """See servable._engine.Engine."""

    def answered(self, name: str) -> Answered:
        """See servable._engine.Engine."""

    def record_decision(self, name: str, decision: str) -> None:
        """See servable._engine.Engine."""

    def record_fetch(
        self,
        store: str,
        outcome: str,
        sizes_bytes: tuple[int, int],
        seconds: float,
        cache_bytes: int,
    ) -> None:
        """See servable._engine.Engine."""

    def set_administration_handler(
        self, handler: Callable[[str, bytes], tuple[int, str, bytes]]
    ) -> None:
        """See servable._engine.Engine."""

    def set_version_state(
        self, name: str, version: int, state: int, code: int, message: str
    ) -> None:
        """See servable._engine.Engine."""

    def set_reload_handler(self, handler: Callable[[bytes], tuple[int, str]]) -> None:
        """See servable._engine.Engine."""

    def set_request_logging(
        self,
        models: Mapping[str, tuple[str, float, bytes, Sequence[str]]],
        complain: Callable[[str], None],
    ) -> None:
        """See servable._engine.Engine."""

    def set_warning_handler(self, handler: Callable[[str], None]) -> None:
        """See servable._engine.Engine."""

    def set_profiler(self, profiler: "_engine.Profiler") -> None:
        """See servable._engine.Engine."""

    def set_auth_tokens(
        self, tokens: Sequence[tuple[str, bytes, Sequence[str], Sequence[str]]]
    ) -> None:
        """See servable._engine.Engine."""

    def replace_credentials(
        self,
        port: str,
        server_key: str,
        server_cert: str,
        custom_ca: str,
        client_verify: bool,
    ) -> None:
        """See servable._engine.Engine."""

    def set_ready(self, ready: bool) -> None:
        """See servable._engine.Engine."""

    def start_grpc(self) -> int | None:
        """See servable._engine.Engine."""

    def start_rest(self) -> int:
        """See servable._engine.Engine."""

    def leave(self) -> None:
        """See servable._engine.Engine."""

    def stop(self, grace_s: float) -> bool:
        """See servable._engine.Engine."""

    def record_warmup(
        self, path: str, status: str, records: int, latency_s: float
    ) -> None:
        """See servable._engine.Engine."""

    def set_mlmd_uuid(self, name: str, version: int, uuid: str | None) -> None:
        """See servable._engine.Engine."""

    def metrics(self) -> str:
        """See servable._engine.Engine."""
