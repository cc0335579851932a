"""
The platform "native": libraries with a C interface, run by the engine.

A version directory has `servable.so`, made with <servable/servable.h> or
<servable/servable.hpp>, and whatever it reads.  Once it is loaded no request needs
Python.  A library is code of the server's process, and needs the server's leave.

What is opened is a copy of the file, in a directory of its own: the linker takes two
files of one path for one library, and a file that changes while it is open changes the
code that runs.
"""

import contextlib
import logging
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, cast

from servable import _engine
from servable.core.resources import estimate_from_files
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import FailedPrecondition, NotFound, from_exception
from servable.platforms import elf
from servable.platforms.platform import ChoosesBatching, PlatformOptions
from servable.platforms.warmup import ModelWarmup

_logger = logging.getLogger(__name__)

LIBRARY: Final = "servable.so"
# Where copies are: the number of the process that uses them is part of the name.
_COPIES: Final = "servable-native-"
_IS_LIBRARY: Final = re.compile(r"\.so(\.\d+)*$")


@dataclass(frozen=True, slots=True)
class NativePlatform:
    """
    Makes Loaders of native libraries; see Platform.

    Attributes:
        warmup: replays what a version brings along; None: nothing is.
        batching: says how the requests of a version are batched; None: they are not.
    """

    loads_in_process: ClassVar[Literal[True]] = True

    name: str = "native"
    warmup: ModelWarmup | None = None
    batching: ChoosesBatching | None = None

    def loader(self, servable_id: ServableId, path: StoragePath) -> "NativeLoader":
        """Return the Loader of the version at *path*."""
        return NativeLoader(self, servable_id, path)


class NativeLoader:
    """One version of a native library; see Loader."""

    def __init__(
        self, platform: NativePlatform, servable_id: ServableId, path: StoragePath
    ) -> None:
        self._platform = platform
        self._id = servable_id
        self._path = path
        self._servable: _engine.Servable | None = None
        self._opened = contextlib.ExitStack()

    def estimate_resources(self) -> int:
        """Return 1.2 times the bytes of all files."""
        return estimate_from_files(self._path)

    def load(self) -> None:
        """
        Open the library, have it load the directory, and warm it up.

        Raises:
            NotFound: there is no such directory, or no library in it.
            FailedPrecondition: the library is none that this server can run.
            ServingError: what the servable fails to load with, or its warm-up, or what
                is wrong with the parameters of its batching.
        """
        library = os.path.join(self._path, LIBRARY)
        if not os.path.isdir(self._path):
            raise NotFound(f"There is no version directory for {self._id}")
        if not os.path.isfile(library):
            raise NotFound(f"There is no {LIBRARY} in the version directory")
        batching = (
            self._platform.batching.of(self._id.name, self._path)
            if self._platform.batching is not None
            else None
        )
        remove_left_copies()
        with contextlib.ExitStack() as failed:
            copy = failed.enter_context(_copied(self._path))
            _look_at(copy, self._id)
            try:
                servable = _engine.load_native(
                    copy,
                    os.path.abspath(self._path),
                    self._id.name,
                    self._id.version,
                )
            except _engine.EngineError as error:
                raise from_exception(error) from error
            failed.callback(servable.close)
            if self._platform.warmup is not None:
                self._platform.warmup.run(self._path, servable)
            if batching is not None:
                servable.set_batching(batching)
            self._servable = servable
            self._opened = failed.pop_all()

    def servable(self) -> _engine.Servable:
        """Return what the engine runs."""
        if self._servable is None:
            raise FailedPrecondition(f"{self._id} is not loaded")
        return self._servable

    def unload(self) -> None:
        """Wait for the last request, and close the library."""
        self._servable = None
        self._opened.close()


def native_platform(options: PlatformOptions, engine: object) -> NativePlatform:
    """
    Make the platform "native".

    Raises:
        FailedPrecondition: the server does not allow models to be libraries.
    """
    if not options.allow_native_models:
        raise FailedPrecondition(
            'model_platform: "native" runs libraries from the directories of models in '
            "the server's process; --allow_native_models allows that"
        )
    warmup = ModelWarmup(
        cast("_engine.Engine", engine), options.num_request_iterations_for_warmup
    )
    return NativePlatform(
        warmup=warmup if options.enable_model_warmup else None,
        batching=options.read_platform_batching(),
    )


def remove_left_copies() -> None:
    """
    Remove the copies of processes that are no more, as one that crashed leaves some,
    and one that tried a version first.

    A library that is open stays so without its file; only debuggers would miss it.
    """
    for entry in os.scandir(tempfile.gettempdir()):
        number = re.match(rf"{_COPIES}(\d+)-", entry.name)
        if number and not os.path.exists(f"/proc/{number[1]}"):
            shutil.rmtree(entry.path, ignore_errors=True)


@contextlib.contextmanager
def _copied(path: str) -> Iterator[str]:
    """
    Give the path of a copy of the library in the version directory *path*.

    The libraries beside it are copied too, as it may look for them where it is itself.
    """
    prefix = f"{_COPIES}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix) as directory:
        for name in os.listdir(path):
            source = os.path.join(path, name)
            if _IS_LIBRARY.search(name) and os.path.isfile(source):
                shutil.copyfile(source, os.path.join(directory, name))
        yield os.path.join(directory, LIBRARY)


def _look_at(library: str, servable_id: ServableId) -> None:
    """
    Check that the file is a library for this machine, and warn of what it shares.

    Raises:
        FailedPrecondition: it is none.
    """
    with _mapped(library) as file:
        elf.check_library(file)
        unique = elf.unique_symbols(file)
    if unique:
        _logger.warning(
            "The versions of %s share %d variables, such as %s, and stay in memory: "
            "compile %s with -fvisibility=hidden -fno-gnu-unique",
            servable_id.name,
            len(unique),
            unique[0],
            LIBRARY,
        )


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[memoryview]:
    with open(path, "rb") as file:
        if not os.path.getsize(path):  # which cannot be mapped
            yield memoryview(b"")
            return
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view
