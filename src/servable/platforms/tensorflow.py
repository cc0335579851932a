"""
The platform "tensorflow": SavedModels, opened by the C library of a TensorFlow wheel.

Python's TensorFlow is not imported; the engine opens the library that it brings.  The
exception are models whose variables only Python's TensorFlow can restore: those are
recognised by `unrestored_variables` before anything is opened.
"""

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from servable import _engine
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import (
    FailedPrecondition,
    NotFound,
    Unavailable,
    Unimplemented,
    from_exception,
)
from servable.platforms.graph_ops import check_operations
from servable.platforms.saved_model_files import (
    GRAPH_FILES,
    Completeness,
    Verdict,
    judge_directory,
)
from servable.platforms.session_config import read_mlmd_uuid, session_config_of
from servable.platforms.tensorflow_library import LIBRARY
from servable.platforms.unrestored_variables import (
    ObjectGraphModel,
    read_object_graph_model,
)
from servable.platforms.warmup import ModelWarmup

_logger = logging.getLogger(__name__)

Transform: TypeAlias = Callable[[str, _engine.Servable], _engine.Servable | None]
ChooseBatching: TypeAlias = Callable[[str, str], "_engine.BatchingParameters | None"]
"""Says of a model's name and a version's path how its requests are batched."""

TFLITE_FILE: Final = "model.tflite"
_NICE_WHILE_LOADING = 10


class Releasable(Protocol):
    """What a runtime in Python holds."""

    def release(self) -> None:
        """Let go of it, when no run is under way any more."""


@dataclass(frozen=True, slots=True)
class OpenSavedModel:
    """
    A SavedModel that was opened.

    Attributes:
        servable: what the engine runs.
        in_python: the same, if it is run by a runtime in Python.
        inner: the SavedModel itself, if servable has steps around it.
    """

    servable: _engine.Servable
    in_python: "Releasable | None" = None
    inner: _engine.Servable | None = None

    def close(self) -> None:
        """Wait for the last request, and free everything."""
        self.servable.close()
        if self.inner is not None:
            self.inner.close()
        if self.in_python is not None:
            self.in_python.release()


class ShowsMetadata(Protocol):
    """Whoever shows what ML Metadata calls versions: servable._engine.Engine."""

    def set_mlmd_uuid(self, name: str, version: int, uuid: str | None) -> None:
        """See servable._engine.Engine."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """
    How sessions are made.

    Attributes:
        target: names the runtime that has them; "": this process.
        load_run_options: serialized tensorflow.RunOptions of what loads a model.
        fixed_inputs: what every run is fed: names in the graph and serialized
            TensorProtos.
        transient_ram_bytes: what a load needs beside the files of the version.
        shows_metadata: whether TensorFlow, and *engine*, are told what a version is
            called.
    """

    target: str = ""
    load_run_options: bytes = b""
    fixed_inputs: Sequence[tuple[str, bytes]] = ()
    transient_ram_bytes: int = 0
    shows_metadata: bool = False
    engine: ShowsMetadata | None = None


class TensorFlowPlatform:
    """
    Makes Loaders of SavedModels; see Platform.

    Args:
        session_config: a serialized tensorflow.ConfigProto.
        tags: name the graph to load.
        warmup: replays what a SavedModel brings along; None: nothing is.
        transform: puts steps of the version directory around its servable, and
            returns None where there are none.
        session: how sessions are made, beside their configuration.
        num_tflite_interpreters: for a version with a TensorFlow Lite model; 0: such
            models are not looked for.
        batching: says, of a model's name and a version's path, how requests are put
            into batches, None: each runs by itself; raises what the load shall fail
            with.
        forbidden: names of effects that the operations of a graph must not have.
    """

    name = "tensorflow"
    loads_in_process: Literal[True] = True

    def __init__(
        self,
        session_config: bytes,
        tags: Sequence[str],
        warmup: ModelWarmup | None = None,
        transform: Transform = lambda _path, _servable: None,
        session: SessionOptions | None = None,
        num_tflite_interpreters: int = 0,
        batching: ChooseBatching = lambda *_: None,
        forbidden: Collection[str] = (),
    ) -> None:
        self._forbidden = frozenset(forbidden)
        self._num_tflite_interpreters = num_tflite_interpreters
        self._transform = transform
        self._session = session or SessionOptions()
        self._session_config = session_config
        self._tags = tuple(tags)
        self._warmup = warmup
        self._batching = batching
        # Set once TensorFlow has made the threads that all sessions share.
        self._has_threads = threading.Event()

    def loader(self, servable_id: ServableId, path: StoragePath) -> "SavedModelLoader":
        """Return the Loader of the version at *path*."""
        return SavedModelLoader(self, servable_id, path)

    @property
    def transient_ram_bytes(self) -> int:
        """What a load needs beside the files of the version."""
        return self._session.transient_ram_bytes

    def open(self, path: str, servable_id: ServableId | None = None) -> OpenSavedModel:
        """
        Open the SavedModel at *path*.  Blocks for as long as TensorFlow takes.

        TensorFlow is told that it is *servable_id* if the options say so.

        Raises:
            ServingError: with TensorFlow's own code and text, or what is wrong with
                the parameters of its batching.
        """
        model_name = servable_id.name if servable_id else ""
        batching = self._batching(model_name, path)
        if self.has_tflite_model(path):
            opened = self._open_tflite(path)
        else:
            opened = self._open(path, servable_id)
        try:
            outer = self._transform(path, opened.servable)
        except BaseException:
            opened.close()
            raise
        if outer is not None:
            opened = dataclasses.replace(opened, servable=outer, inner=opened.servable)
        if batching is not None:
            opened.servable.set_batching(batching)
        return opened

    def has_tflite_model(self, path: str) -> bool:
        """Return whether the version at *path* is served by TensorFlow Lite."""
        return self._num_tflite_interpreters > 0 and os.path.isfile(
            os.path.join(path, TFLITE_FILE)
        )

    def warm_up(self, path: str, servable: _engine.Servable) -> None:
        """Replay what comes with the SavedModel at *path*; fails as its requests do."""
        if self._warmup is not None:
            self._warmup.run(path, servable)

    def _open(self, path: str, servable_id: ServableId | None) -> OpenSavedModel:
        check_operations(path, self._forbidden)
        LIBRARY.open()
        model = read_object_graph_model(path, self._tags)
        if model is not None and model.unrestored_variables:
            return self._open_in_python(path, model)
        # Threads inherit the priority of those that make them.  The first load makes
        # the ones that later run requests, so only what comes after it may be slow.
        if self._has_threads.is_set() and not _engine.give_way(_NICE_WHILE_LOADING):
            _logger.debug("Loading at the priority of serving")
        try:
            servable = _engine.load_saved_model(
                path,
                self._tags,
                session_config_of(
                    self._session_config,
                    path,
                    servable_id if self._session.shows_metadata else None,
                ),
                inter_op_in_caller=True,
                session_target=self._session.target,
                load_run_options=self._session.load_run_options,
                fixed_inputs=list(self._session.fixed_inputs),
            )
        except _engine.EngineError as error:
            raise from_exception(error) from error
        self._has_threads.set()
        return OpenSavedModel(servable)

    def show_metadata(
        self, servable_id: ServableId, path: str, *, is_loaded: bool
    ) -> None:
        """Show in the metrics what ML Metadata calls a version, while it is loaded."""
        engine = self._session.engine
        if engine is not None and self._session.shows_metadata:
            uuid = read_mlmd_uuid(path) if is_loaded else None
            engine.set_mlmd_uuid(servable_id.name, servable_id.version, uuid)

    def _open_tflite(self, path: str) -> OpenSavedModel:
        # Few servers need it.
        from servable.platforms import tflite  # noqa: PLC0415

        in_python = tflite.TfLiteServable(path, self._num_tflite_interpreters)
        try:
            servable = _engine.python_servable(in_python, in_python.signature_def_map)
        except _engine.EngineError as error:
            raise from_exception(error) from error
        return OpenSavedModel(servable, in_python)

    def _open_in_python(self, path: str, model: ObjectGraphModel) -> OpenSavedModel:
        _logger.warning(
            "The SavedModel at %s does not restore %d of its variables, such as %s, "
            "when it is served; Python's TensorFlow can, and runs it, more slowly. "
            "Export it again for full speed: model.export(path), instead of "
            "tf.saved_model.save(model, path).",
            path,
            len(model.unrestored_variables),
            model.unrestored_variables[0],
        )
        # Few models need it, and what it imports takes longer than the rest of this.
        from servable.platforms import object_loader  # noqa: PLC0415

        in_python = object_loader.ObjectLoaderServable(path, self._tags)
        try:
            servable = _engine.python_servable(in_python, model.signature_def_map)
        except _engine.EngineError as error:
            raise from_exception(error) from error
        return OpenSavedModel(servable, in_python)


class SavedModelLoader:
    """One version of a SavedModel; see Loader."""

    def __init__(
        self, platform: TensorFlowPlatform, servable_id: ServableId, path: StoragePath
    ) -> None:
        self._platform = platform
        self._id = servable_id
        self._path = path
        self._opened: OpenSavedModel | None = None

    def estimate_resources(self) -> int:
        """Return 1.2 times the bytes of all files, and what loading needs beside."""
        return int(1.2 * _bytes_below(self._path)) + self._platform.transient_ram_bytes

    def load(self) -> None:
        """
        Open the SavedModel, when all of its files are there, and warm it up.

        Raises:
            Unimplemented: It is a session bundle, the format before SavedModel.
            NotFound: It is no SavedModel, or has no graph with the tags.
            Unavailable: Some of its files are missing yet.
            ServingError: TensorFlow cannot open it, or it cannot be warmed up.
        """
        if not self._platform.has_tflite_model(self._path):
            _check_files(self._path)
        opened = self._platform.open(self._path, self._id)
        try:
            self._platform.warm_up(self._path, opened.servable)
        except BaseException:
            opened.close()
            raise
        self._opened = opened
        self._platform.show_metadata(self._id, self._path, is_loaded=True)

    def servable(self) -> _engine.Servable:
        """Return what the engine runs."""
        if self._opened is None:
            raise FailedPrecondition(f"{self._id} is not loaded")
        return self._opened.servable

    def unload(self) -> None:
        """Wait for the last request, and free what was loaded."""
        if self._opened is not None:
            self._platform.show_metadata(self._id, self._path, is_loaded=False)
            self._opened.close()
            self._opened = None


def _check_files(path: str) -> None:
    if os.path.exists(os.path.join(path, "export.meta")):
        raise Unimplemented("Session Bundle is deprecated and removed.")
    verdict = judge_directory(path)
    if not os.path.isdir(path):
        verdict = Verdict(Completeness.NOT_A_SAVED_MODEL)
    match verdict.completeness:
        case Completeness.NOT_A_SAVED_MODEL:
            raise NotFound(
                "Specified file path does not appear to contain a SavedModel bundle "
                f"(should have a file called `{GRAPH_FILES[0]}`)\n"
                f"Specified file path: {path}"
            )
        case Completeness.INCOMPLETE:
            raise Unavailable(
                f"The SavedModel at {path} is not complete: {verdict.reason}"
            )
        case Completeness.COMPLETE:
            return


def _bytes_below(path: str) -> int:
    def fail(error: OSError) -> None:
        raise error

    # A plain file is no version either, which loading it tells.
    if os.path.isfile(path):
        return os.stat(path).st_size
    total = 0
    for directory, _, names in os.walk(path, onerror=fail):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a link to nothing
                total += os.stat(os.path.join(directory, name)).st_size
    return total
