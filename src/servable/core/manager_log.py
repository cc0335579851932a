"""The log lines of the manager, as those who search TensorFlow Serving's know them."""

import logging

from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.errors import ServingError

# Under the manager's own name: where a line comes from is part of what is searched.
_log = logging.getLogger("servable.core.aspired_versions_manager")


def log_state(state: ServableState) -> None:
    """Tell of a version that has become available, or failed."""
    if state.manager_state is ManagerState.AVAILABLE:
        _log.info("Successfully loaded servable version %s", state.id)
    elif state.error is not None:
        _log.error(
            "Encountered an error for servable version %s: %s",
            state.id,
            state.error.status_text,
        )


def log_retry(servable_id: ServableId, retry: int) -> None:
    """Tell of an attempt that is not the first."""
    if retry:
        _log.info("Retrying of Loading servable: %s retry: %d", servable_id, retry)


def log_load(servable_id: ServableId, error: ServingError | None) -> None:
    """Tell of a load that failed."""
    if error is not None:
        _log.warning("Loading servable: %s failed: %s", servable_id, error.status_text)


def log_last_attempt(servable_id: ServableId, retries: int) -> None:
    """Tell that the last attempt is over, however it ended."""
    _log.info(
        "Retrying of Loading servable: %s exhausted max_num_retries: %d",
        servable_id,
        retries,
    )


def log_unload(servable_id: ServableId, error: ServingError | None) -> None:
    """Tell of an unload that went well."""
    if error is None:
        _log.info("Done quiescing servable version %s", servable_id)
        _log.info("Unloading just-loaded servable version %s", servable_id)
        _log.info("Done unloading servable version %s", servable_id)
