"""
What a listing of a base path means: which children are versions, and which count.

Everything here is pure, and the same for every kind of base path.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

_INT64 = range(-(2**63), 2**63)
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*", re.ASCII)


def version_number(name: str) -> int | None:
    """Return the version that a directory *name* stands for, None for none."""
    match = _NUMBER.fullmatch(name)
    if match is None or len(match[1].lstrip("+-0")) > len(str(_INT64.stop)):
        return None  # int() raises for what is much longer
    number = int(match[1])
    return number if number in _INT64 else None


@dataclass(frozen=True, slots=True)
class Listing:
    """
    What was found under a base path.

    Attributes:
        versions: number to the name of the child that stands for it.
        duplicates: children that stand for a number that another one has.
    """

    versions: dict[int, str]
    duplicates: tuple[str, ...] = ()


def versions_among(names: Iterable[str]) -> Listing:
    """
    Return which of the children *names* are versions.

    Any whole name that reads as a signed 64-bit integer is one, be it a directory
    or not.  Of names for the same number the last counts.
    """
    versions: dict[int, str] = {}
    duplicates: list[str] = []
    for name in sorted(names):
        number = version_number(name)
        if number is None:
            continue
        if number in versions:
            duplicates.append(versions[number])
        versions[number] = name
    return Listing(versions, tuple(duplicates))


class ServableVersionPolicy(Protocol):
    """Which of the versions that are there are aspired."""

    def choose(self, versions: Iterable[int]) -> list[int]:
        """
        Return those of *versions* to aspire, in the order to announce them.

        Raises:
            NotFound: One that must be there is not; nothing is to change.
        """


@dataclass(frozen=True, slots=True)
class Latest:
    """The *num_versions* highest numbers, highest first; 0 counts as 1."""

    num_versions: int = 1

    def choose(self, versions: Iterable[int]) -> list[int]:
        """See ServableVersionPolicy."""
        return sorted(versions, reverse=True)[: max(self.num_versions, 1)]


@dataclass(frozen=True, slots=True)
class All:
    """Every version."""

    def choose(self, versions: Iterable[int]) -> list[int]:
        """See ServableVersionPolicy."""
        return list(versions)


@dataclass(frozen=True, slots=True)
class Specific:
    """The versions that are named, as far as they are there."""

    versions: tuple[int, ...]

    def choose(self, versions: Iterable[int]) -> list[int]:
        """See ServableVersionPolicy."""
        present = set(versions)
        return [v for v in dict.fromkeys(self.versions) if v in present]


def is_yet_to_come(
    policy: ServableVersionPolicy, there: Iterable[int], told: Iterable[int]
) -> bool:
    """
    Return whether *policy* names versions of which none is there, nor ever was told.

    Nothing is to change then: they may be a slip, and no reason to serve nothing.
    """
    named = policy.versions if isinstance(policy, Specific) else ()
    return bool(named) and not {*named} & {*there, *told}


@dataclass(frozen=True, slots=True)
class ServableToMonitor:
    """One servable stream on disk."""

    servable_name: str
    base_path: str
    servable_version_policy: ServableVersionPolicy = field(default_factory=Latest)


@dataclass(frozen=True, slots=True)
class FileSystemStoragePathSourceConfig:
    """
    What to look at.

    Attributes:
        servables: in the order in which they are looked at.
        servable_versions_always_present: finding no version at all is taken for a
            fault of the file system, and unloads nothing.
    """

    servables: tuple[ServableToMonitor, ...] = ()
    servable_versions_always_present: bool = False
