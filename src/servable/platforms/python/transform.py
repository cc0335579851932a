"""
`transform.py` beside a SavedModel: steps in Python before and after it.

The steps run in a process of their own, and the SavedModel in the engine as ever.
"""

import os
from typing import Final

from servable import _engine
from servable.platforms.platform import PlatformOptions
from servable.platforms.python.platform import require_allowed, start_worker

TRANSFORM_FILE: Final = "transform.py"


def transformed(
    options: PlatformOptions, path: str, servable: _engine.Servable
) -> _engine.Servable | None:
    """
    Return *servable* with the steps of its `transform.py`; None where there is none.

    Blocks until the steps are loaded.

    Raises:
        FailedPrecondition: there is one, and the server does not allow it.
        ServingError: what it fails to load with.
    """
    if not os.path.isfile(os.path.join(path, TRANSFORM_FILE)):
        return None
    require_allowed(options, f"{TRANSFORM_FILE} beside the SavedModel is")
    return start_worker(
        "servable.platforms.python.loading:FromFile",
        path,
        options.python_run_limit_s,
        {"file": TRANSFORM_FILE, "class_name": "Transform"},
        servable,
        memory_limit_bytes=options.python_memory_limit_bytes,
    )
