"""What there is to know of the models that a server has, for people and programs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from servable.config.model_server_config import ModelConfig
from servable.core.progress import Progress
from servable.core.servable_state import ServableState
from servable.rollouts import RolloutStatus, Route


@dataclass(frozen=True, slots=True)
class VersionReport:
    """
    One version: its state, and what a ServableState does not say.

    Attributes:
        state: the last one.
        progress: what is being done for it, None for nothing.
        reserved_bytes: the memory that it has reserved.
        default_part: of the requests that name neither version nor label, 0 to 1.
        shadow_requests: copies of requests that it got, by what became of them.
    """

    state: ServableState
    progress: Progress | None
    reserved_bytes: int
    default_part: float
    shadow_requests: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """
    One model: its configuration, its versions, highest first, and its rollout.

    Attributes:
        problem: what is wrong with its base path, "" for nothing.
    """

    config: ModelConfig
    versions: tuple[VersionReport, ...]
    rollout: RolloutStatus | None
    problem: str = ""


def default_part(version: int, served: Collection[int], route: Route | None) -> float:
    """Return the part of the default traffic that *version* answers."""
    if version not in served:
        return 0.0
    if route is None:
        return float(version == max(served))
    stable, candidate, part, tolerance = route
    to_candidate = part if tolerance is None and candidate != stable else 0.0
    return {stable: 1 - to_candidate, candidate: to_candidate}.get(version, 0.0)
