"""The public life of a version: what GetModelStatus answers."""

import enum
from dataclasses import dataclass

from servable.core.servable_id import ServableId
from servable.errors import Code, ServingError


class ManagerState(enum.IntEnum):
    """Five states; the numbers are those on the wire."""

    START = 10  # managed, and nothing done yet
    LOADING = 20
    AVAILABLE = 30  # requests can be sent to it
    UNLOADING = 40  # requests can no longer be sent to it
    END = 50  # unloaded, or failed: the error tells


@dataclass(frozen=True, slots=True)
class ServableState:
    """
    The state of one version at one time.

    Attributes:
        id: which version.
        manager_state: where it is.
        error: why it is in END; None when all is well.
        generation: of its stream, in which it was aspired; see
            AspiredVersionsManager.begin_generation.
    """

    id: ServableId
    manager_state: ManagerState
    error: ServingError | None = None
    generation: int = 0

    @property
    def code(self) -> Code:
        """The canonical code of the error, OK without one."""
        return self.error.code if self.error else Code.OK

    @property
    def message(self) -> str:
        """The text of the error, empty without one."""
        return self.error.message if self.error else ""

    def __str__(self) -> str:
        status = f" due to error: {self.error.status_text}" if self.error else ""
        return f"{self.id} {self.manager_state.name}{status}"
