"""
What others install: which plug-ins there are, and how one is got.

A plug-in is an entry point of one of the GROUPS.  Nothing is imported before it is
asked for, and one that cannot be imported is an error of its own that hurts no other.
Names of our own cannot be taken by others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

from servable.errors import FailedPrecondition, InvalidArgument

PLATFORMS: Final = "servable.platforms"
SOURCES: Final = "servable.sources"
VERSION_POLICIES: Final = "servable.version_policies"
BATCHING_POLICIES: Final = "servable.batching_policies"
BATCHERS: Final = "servable.batchers"

GROUPS: Final = (PLATFORMS, SOURCES, VERSION_POLICIES, BATCHING_POLICIES, BATCHERS)

_OURS: Final = "servable"

# Also there where the package is run from its sources, without being installed.
_DATABASES: Final = "servable.sources.database_source:database_source"
_MLFLOW: Final = "servable.sources.mlflow_registry:mlflow_source"
_STORES: Final = "servable.sources.object_store:object_store_source"
_BUILT_IN: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        SOURCES: {
            "file": "servable.sources.file_system:file_system_source",
            **dict.fromkeys(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"), _STORES),
            **dict.fromkeys(("http", "https", "hf", "memory"), _STORES),
            **dict.fromkeys(("sqlite", "postgres", "postgresql"), _DATABASES),
            "postgresql+psycopg": _DATABASES,
            **dict.fromkeys(("models", "mlflow", "mlflow+https"), _MLFLOW),
        },
        PLATFORMS: {
            "composite": "servable.platforms.composite:composite_platform",
            "hashmap": "servable.platforms.hashmap:hashmap_platform",
            "native": "servable.platforms.native:native_platform",
            "onnx": "servable.platforms.onnx:onnx_platform",
            "python": "servable.platforms.python.platform:python_platform",
            "sklearn": "servable.platforms.sklearn:sklearn_platform",
            "xgboost": "servable.platforms.xgboost:xgboost_platform",
        },
        BATCHERS: {"rows": "servable.batching.batcher:RowBatcher"},
        VERSION_POLICIES: {
            "availability_preserving": (
                "servable.core.version_policy:AvailabilityPreservingPolicy"
            ),
            "resource_preserving": (
                "servable.core.version_policy:ResourcePreservingPolicy"
            ),
        },
    }
)


@dataclass(frozen=True, slots=True)
class Plugin:
    """
    One plug-in that is installed.

    Attributes:
        group: one of GROUPS.
        name: what configurations call it.
        target: where it is, as "module:object".
        distribution: name and version of the package that brought it.
    """

    group: str
    name: str
    target: str
    distribution: str

    def load(self) -> object:
        """
        Import it and return the object.  May block.

        Raises:
            FailedPrecondition: It cannot be imported, whatever the reason.
        """
        try:
            return EntryPoint(self.name, self.target, self.group).load()
        except (Exception, SystemExit) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise FailedPrecondition(
                f"The plug-in {self.name} of {self.group} ({self.distribution}) cannot "
                f"be imported: {type(error).__name__}: {reason}"
            ) from error


def installed(group: str) -> tuple[Plugin, ...]:
    """Return all plug-ins of *group*, ours included, sorted by name."""
    found = {
        entry_point.name: Plugin(
            group, entry_point.name, entry_point.value, _distribution(entry_point)
        )
        for entry_point in entry_points(group=group)
    }
    ours = {
        name: Plugin(group, name, target, _OURS)
        for name, target in _BUILT_IN.get(group, {}).items()
    }
    return tuple(sorted((found | ours).values(), key=lambda plugin: plugin.name))


def built_in(group: str, name: str) -> Plugin | None:
    """Return our own plug-in of *group* called *name*, None if there is none."""
    target = _BUILT_IN.get(group, {}).get(name)
    return None if target is None else Plugin(group, name, target, _OURS)


def load(group: str, name: str, besides: Iterable[str] = ()) -> object:
    """
    Import the plug-in of *group* called *name* and return the object.

    *besides* are names that are no plug-ins' and could have been meant as well.

    Raises:
        InvalidArgument: None of that name is installed.
        FailedPrecondition: It cannot be imported.
    """
    plugins = installed(group)
    for plugin in plugins:
        if plugin.name == name:
            return plugin.load()
    known = (
        ", ".join(sorted({*(plugin.name for plugin in plugins), *besides})) or "none"
    )
    raise InvalidArgument(f"There is no {name} among {group}; installed are: {known}")


def _distribution(entry_point: EntryPoint) -> str:
    found = entry_point.dist
    return f"{found.name} {found.version}" if found else "unknown"
