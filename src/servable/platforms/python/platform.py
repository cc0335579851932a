"""
Platforms whose models run in a process of their own.

WorkerPlatform is for any model that follows PythonModel; the platform "python" is the
one whose models bring their code along, and needs the server's leave.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from servable import _engine
from servable.core.resources import estimate_from_files
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import FailedPrecondition, NotFound, from_exception
from servable.platforms.platform import ChoosesBatching, PlatformOptions
from servable.platforms.warmup import ModelWarmup

_logger = logging.getLogger(__name__)

MODEL_FILE: Final = "model.py"
# The package may be where an interpreter does not look by itself.
_SOURCE: Final = str(Path(__file__).parents[3])
_BOOTSTRAP: Final = (
    "import sys; sys.path.append(sys.argv[2]); "
    "from servable.platforms.python.hosting import main; main(sys.argv[1:])"
)
# What an interpreter with NumPy takes before it loads anything.
_PROCESS_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class WorkerPlatform:
    """
    Makes Loaders of models that run in a process of their own; see Platform.

    Attributes:
        name: as model configs have it.
        factory: "module:attribute" of what makes a PythonModel; it is imported in the
            model's process only.
        run_limit_s: a run that takes longer has hung; its process is ended and
            started again.
        arguments: of the factory; what JSON can hold.
        warmup: replays what a version brings along; None: nothing is.
        batching: says how the requests of a version are put into batches; None: each
            runs by itself.
        memory_limit_bytes: how much memory for data the process may have; 0 for any.
    """

    name: str
    factory: str
    run_limit_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    warmup: ModelWarmup | None = None
    batching: ChoosesBatching | None = None
    memory_limit_bytes: int = 0

    def loader(self, servable_id: ServableId, path: StoragePath) -> "WorkerLoader":
        """Return the Loader of the version at *path*."""
        return WorkerLoader(self, servable_id, path)


class WorkerLoader:
    """One version that runs in a process of its own; see Loader."""

    def __init__(
        self, platform: WorkerPlatform, servable_id: ServableId, path: StoragePath
    ) -> None:
        self._platform = platform
        self._id = servable_id
        self._path = path
        self._servable: _engine.Servable | None = None

    def estimate_resources(self) -> int:
        """Return 1.2 times the bytes of all files, and what a process needs."""
        return estimate_from_files(self._path, _PROCESS_BYTES)

    def load(self) -> None:
        """
        Start the process, have it load the model, and warm it up.

        Raises:
            NotFound: there is no such directory.
            ServingError: what the model fails to load with, or its warm-up, or what is
                wrong with the parameters of its batching.
        """
        if not os.path.isdir(self._path):
            raise NotFound(f"There is no version directory for {self._id}")
        chooses = self._platform.batching
        batching = chooses.of(self._id.name, self._path) if chooses else None
        servable = start_worker(
            self._platform.factory,
            self._path,
            self._platform.run_limit_s,
            self._platform.arguments,
            memory_limit_bytes=self._platform.memory_limit_bytes,
        )
        if batching is not None:
            servable.set_batching(batching)
        try:
            if self._platform.warmup is not None:
                self._platform.warmup.run(self._path, servable)
        except BaseException:
            servable.close()
            raise
        self._servable = servable

    def servable(self) -> _engine.Servable:
        """Return what the engine runs."""
        if self._servable is None:
            raise FailedPrecondition(f"{self._id} is not loaded")
        return self._servable

    def unload(self) -> None:
        """Wait for the last request, and end the process."""
        if self._servable is not None:
            self._servable.close()
            self._servable = None


def start_worker(
    factory: str,
    path: str,
    run_limit_s: float,
    arguments: Mapping[str, Any],
    inner: _engine.Servable | None = None,
    *,
    memory_limit_bytes: int = 0,
) -> _engine.Servable:
    """
    Return a servable that a process of its own runs; blocks until it is loaded.

    Args:
        factory: see WorkerPlatform, as for the other arguments.
        path: the version directory.
        run_limit_s: how long a run may take.
        arguments: of the factory.
        inner: what a Transform stands around; None for a PythonModel.
        memory_limit_bytes: see WorkerPlatform.

    Raises:
        ServingError: what the model fails to load with.
    """
    payload: dict[str, Any] = {
        "factory": factory,
        "path": path,
        "arguments": dict(arguments),
        "memory_limit_bytes": memory_limit_bytes,
        "is_debugged": _logger.isEnabledFor(logging.DEBUG),
        # What this process can import, that one can; but not from where it was started.
        "import_path": [os.path.abspath(entry) for entry in sys.path if entry],
    }
    if inner is not None:
        payload["inner"] = inner.signature_def_map.hex()
    command = [
        sys.executable,
        "-P",  # the working directory is no place to import from
        "-c",
        _BOOTSTRAP,
        str(os.getpid()),
        _SOURCE,
    ]
    try:
        return _engine.load_worker(
            command, json.dumps(payload).encode(), run_limit_s, inner
        )
    except _engine.EngineError as error:
        raise from_exception(error) from error


def worker_platform(
    name: str,
    factory: str,
    options: PlatformOptions,
    engine: object,
    arguments: Mapping[str, Any] | None = None,
) -> WorkerPlatform:
    """
    Return a WorkerPlatform that does as the server's options say.

    Args:
        name: as model configs have it.
        factory: see WorkerPlatform.
        options: as a platform's own factory gets them.
        engine: the same; it counts warm-ups.
        arguments: of the factory.
    """
    warmup = ModelWarmup(
        cast("_engine.Engine", engine), options.num_request_iterations_for_warmup
    )
    return WorkerPlatform(
        name,
        factory,
        options.python_run_limit_s,
        arguments or {},
        warmup if options.enable_model_warmup else None,
        options.read_platform_batching(),
        options.python_memory_limit_bytes,
    )


def python_platform(options: PlatformOptions, engine: object) -> WorkerPlatform:
    """
    Make the platform "python".

    Raises:
        FailedPrecondition: the server does not allow models to bring code along.
    """
    require_allowed(options, 'model_platform: "python" runs')
    return worker_platform(
        "python",
        "servable.platforms.python.loading:FromFile",
        options,
        engine,
        {"file": MODEL_FILE, "class_name": "Model"},
    )


def require_allowed(options: PlatformOptions, what: str) -> None:
    """
    Check that models may bring Python code along.

    Raises:
        FailedPrecondition: they may not; it says *what* would run such code.
    """
    if not options.allow_python_models:
        raise FailedPrecondition(
            f"{what} Python code from the directories of models; --allow_python_models "
            "allows that"
        )
