"""
Which versions of one servable are looked into, fetched and aspired; decided purely.

A version in a store is settled when two looks in a row have found the same files, or
when its store publishes whole versions; only then it is fetched.  One that somebody is
publishing is none yet, and holds up no other.  A version is aspired when it has been
fetched, and until then those before it stay.  Nothing here blocks, reads a
clock or knows a store.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from servable.errors import NotFound, ServingError
from servable.sources.store import Content, LocalContent
from servable.sources.versions import (
    Listing,
    ServableVersionPolicy,
    is_yet_to_come,
)

# A fetch that fails for a moment is nobody's business but the log's.
FAILURES_BEFORE_TOLD = 3


@dataclass(slots=True)
class _Version:
    """
    What is known of one version.

    Attributes:
        content: what it consisted of at the last look into it.
        looked_at: the number of that look.
        is_settled: nobody is writing it any more.
        is_claimed: a publisher has said that it is not done with it.
        path: where it was fetched to, None while it was not.
        fetched: the identity of what is at path.
        failures: of fetching this content, in a row.
        error: of the last one.
        retry_at: when to try again.
    """

    content: Content | LocalContent | None = None
    looked_at: int = 0
    is_settled: bool = False
    is_claimed: bool = False
    path: str | None = None
    fetched: str = ""
    failures: int = 0
    error: ServingError | None = None
    retry_at: float = 0.0

    @property
    def came_before(self) -> str:
        """The identity of what was there when it did not load; "" if it has not."""
        return self.content.instead_of if isinstance(self.content, Content) else ""

    @property
    def is_fetched(self) -> bool:
        return self.content is not None and self.fetched == self.content.identity


@dataclass(frozen=True, slots=True)
class Aspired:
    """One version to be told of: where it is, or what is wrong with it."""

    version: int
    path: str | None
    error: ServingError | None = None


@dataclass(slots=True)
class RemoteVersions:
    """
    The versions of one servable in a store.

    Not thread-safe.

    Attributes:
        policy: which of those that are there are wanted.
    """

    policy: ServableVersionPolicy
    _versions: dict[int, _Version] = field(default_factory=dict)
    _listed: tuple[int, ...] = ()
    _told: tuple[int, ...] = ()
    _looks: int = 0

    def list_found(self, listing: Listing) -> None:
        """
        Take *listing* as what is there now.

        Raises:
            NotFound: A version that must be there is not; nothing is to change.
        """
        self.policy.choose(listing.versions)
        self._listed = tuple(sorted(listing.versions))
        self._looks += 1

    def to_look_into(self, is_available: Callable[[int], bool]) -> list[int]:
        """
        Return the versions whose content matters now.

        Those are the ones that are wanted, also in place of others that are not
        settled, and those that are not; one that is served is left alone.
        """
        unsettled = {
            number
            for number, version in self._versions.items()
            if number in self._listed and not version.is_settled
        }
        wanted = {*self._choose(self._published()), *self._wanted(), *unsettled}
        return sorted(
            number
            for number in wanted
            if not (self._is_fetched(number) and is_available(number))
        )

    def content_found(self, number: int, content: Content | LocalContent) -> None:
        """Take *content* as what the version consists of now."""
        known = self._versions.setdefault(number, _Version())
        if isinstance(content, Content) and known.came_before == content.identity:
            content = content.afresh()
        is_same = known.content and known.content.identity == content.identity
        is_whole = isinstance(content, LocalContent) or content.is_whole
        known.is_claimed = isinstance(content, Content) and content.is_claimed
        is_at_rest = is_same and known.looked_at == self._looks - 1
        known.is_settled = (is_whole or bool(is_at_rest)) and not known.is_claimed
        known.content, known.looked_at = content, self._looks
        if not is_same:
            known.failures, known.error, known.retry_at = 0, None, 0.0
        if isinstance(content, LocalContent):
            known.path, known.fetched = content.path, content.identity

    def did_not_load(self, number: int, path: object) -> bool:
        """
        Note that what is at *path* does not load; return whether to fetch it again.

        That is so where the store tells no hash of some file, which may have come
        corrupt; and once, as what comes like that twice is like that.
        """
        known = self._versions.get(number)
        if known is None or known.path != path or not known.is_fetched:
            return False
        content = known.content
        if not isinstance(content, Content) or content.is_checked or content.instead_of:
            return False
        known.content = content.afresh()
        return True

    def to_fetch(self, now: float) -> list[tuple[int, Content]]:
        """Return what is settled and wanted and was not fetched yet, best first."""
        return [
            (number, content)
            for number in self._wanted()
            if isinstance(content := self._versions[number].content, Content)
            and not self._versions[number].is_fetched
            and self._versions[number].looked_at == self._looks
            and self._versions[number].retry_at <= now
        ]

    def fetched(self, number: int, content: Content, path: str) -> None:
        """Note that *content* is at *path*."""
        if (known := self._versions.get(number)) is not None:
            known.path, known.fetched = path, content.identity
            known.failures, known.error, known.retry_at = 0, None, 0.0

    def failed(self, number: int, error: ServingError, now: float) -> int:
        """Note that a version could not be fetched; return how often in a row."""
        known = self._versions.setdefault(number, _Version())
        known.failures += 1
        known.error, known.retry_at = error, now
        return known.failures

    def put_off(self, number: int, retry_at: float) -> None:
        """Do not fetch a version that failed before *retry_at*."""
        self._versions[number].retry_at = retry_at

    @property
    def is_waiting(self) -> bool:
        """Whether something is wanted of what is there, or is yet to come."""
        return bool(self._choose(self._published())) or self._is_yet_to_come

    @property
    def is_done(self) -> bool:
        """Whether everything that is wanted has been fetched."""
        published = self._published()
        return bool(published) and all(
            self._is_fetched(number) for number in self._choose(published)
        )

    def aspire(self) -> list[Aspired]:
        """Return which versions are aspired now, in the order to announce them."""
        ready = [number for number in self._listed if self._path(number)]
        aspired = self._choose(ready)
        wanted = self._choose(self._published())
        if len(aspired) < len(wanted) or self._is_yet_to_come:
            # What was aspired before stays while something is on its way.
            kept = (number for number in self._told if number in self._listed)
            aspired += [n for n in kept if n not in aspired and self._path(n)]
        self._told = tuple(aspired)
        return [Aspired(number, self._path(number)) for number in aspired] + [
            Aspired(number, None, error)
            for number in wanted
            if number not in aspired and (error := self._told_error(number))
        ]

    def forget(self, is_needed: Callable[[int], bool]) -> list[int]:
        """Return the versions whose files are of no use now, and forget the files."""
        gone = [
            number
            for number, version in self._versions.items()
            if version.path and number not in self._told and not is_needed(number)
        ]
        for number in gone:
            self._versions[number].path, self._versions[number].fetched = None, ""
        for number in [n for n in self._versions if n not in self._listed]:
            if self._versions[number].path is None:
                del self._versions[number]
        return gone

    @property
    def _is_yet_to_come(self) -> bool:
        is_there = bool(self._listed)
        return is_there and is_yet_to_come(self.policy, self._listed, self._told)

    def _published(self) -> list[int]:
        """Return the versions that are there and that nobody is at."""
        known = self._versions
        return [n for n in self._listed if n not in known or not known[n].is_claimed]

    def _wanted(self) -> Sequence[int]:
        settled = [n for n in self._listed if n in self._versions]
        return self._choose(n for n in settled if self._versions[n].is_settled)

    def _choose(self, versions: Iterable[int]) -> list[int]:
        try:
            return self.policy.choose(versions)
        except NotFound:
            return []  # of those that are there something is missing yet

    def _is_fetched(self, number: int) -> bool:
        known = self._versions.get(number)
        return known is not None and known.is_fetched

    def _path(self, number: int) -> str | None:
        known = self._versions.get(number)
        return known.path if known else None

    def _told_error(self, number: int) -> ServingError | None:
        known = self._versions.get(number)
        told = known is not None and known.failures >= FAILURES_BEFORE_TOLD
        return known.error if known and told else None


def back_off_s(failures: int, poll_wait_s: float, jitter: float) -> float:
    """
    Return how many seconds to wait before the next look at a store.

    Args:
        failures: of looks in a row, until now.
        poll_wait_s: between looks that succeed.
        jitter: from 0 to 1, drawn anew each time, so that servers that were started
            at one time do not ask at one time for ever.
    """
    if not failures:
        return poll_wait_s * (0.9 + 0.2 * jitter)
    longest = max(60.0, poll_wait_s)
    delay_s = min(max(poll_wait_s, 1.0) * 2.0 ** min(failures - 1, 16), longest)
    return delay_s * (0.5 + 0.5 * jitter)
