"""
What configurations name, as objects: version policies of both kinds, and platforms.

Nothing is decided here: names and values of a configuration are turned into what the
control plane asks.
"""

from servable import plugins
from servable.config.model_options import ModelOptions
from servable.config.model_server_config import (
    TENSORFLOW,
    All,
    Latest,
    ModelConfig,
    Specific,
)
from servable.core.served_versions import Canary, Candidates, Pinned, Shadow
from servable.core.version_policy import (
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
    CheckedPolicy,
)
from servable.errors import InvalidArgument
from servable.platforms.platform import platform_names
from servable.sources import versions


class Platforms:
    """The names of all platforms, those that others installed included."""

    def __contains__(self, name: object) -> bool:
        # Looking for what others installed takes long, and is seldom asked for.
        return name == TENSORFLOW or name in platform_names()


def version_policy(
    model: ModelConfig, options: ModelOptions | None = None
) -> versions.ServableVersionPolicy:
    """Return the policy of *model*, with *options* or its own, as sources have it."""
    match (options or model.options or ModelOptions()).served_versions:
        case Pinned() as pinned:
            return pinned
        case Canary() | Shadow():
            return Candidates()
        case None:
            pass
    match model.version_policy:
        case Latest(num_versions):
            return versions.Latest(num_versions)
        case All():
            return versions.All()
        case Specific(numbers):
            return versions.Specific(numbers)


def aspired_version_policy(name: str) -> AspiredVersionPolicy:
    """
    Return the policy that configurations call *name*; "" is the default one.

    Raises:
        InvalidArgument: None of that name is installed, or it is no policy.
        FailedPrecondition: It cannot be imported.
    """
    if not name:
        return AvailabilityPreservingPolicy()
    factory = plugins.load(plugins.VERSION_POLICIES, name)
    try:
        policy: AspiredVersionPolicy = factory()  # type: ignore[operator]
        is_policy = callable(policy.next_action)
    except Exception as error:
        raise InvalidArgument(
            f"The version policy {name} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not is_policy:
        raise InvalidArgument(f"The version policy {name} has no method next_action")
    return CheckedPolicy(name, policy)
