"""
The process that runs one version; platform.py says how it is started.

It loads what the engine tells it to load, and answers calls on as many threads as the
model allows.  The engine decides when it ends: by closing the connection, or by
killing it when a run takes too long.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from servable.errors import (
    Code,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
    Unimplemented,
    from_exception,
)
from servable.platforms.python import frames
from servable.platforms.python.model import (
    Arrays,
    PythonModel,
    Signature,
    TensorSpec,
    Transform,
    from_signature_def_map,
    to_signature_def_map,
)

_PR_SET_PDEATHSIG: Final = 1
_MAX_THREADS: Final = 256


class Hosted(Protocol):
    """What is loaded in this process."""

    signatures: Mapping[str, Signature]

    def call(self, call: frames.Call) -> Arrays:
        """Return what a call asks for; raises what it failed with."""


class HostedModel:
    """A PythonModel whose outputs are checked."""

    def __init__(self, model: PythonModel) -> None:
        self.signatures = model.signatures()
        self._model = model

    def call(self, call: frames.Call) -> Arrays:
        """Run the model."""
        if call.method != "run":
            raise Unimplemented(f"A model has no {call.method}")
        outputs = self._model.run(call.signature_name, call.inputs)
        return checked(outputs, self.signatures[call.signature_name].outputs, call)


class HostedTransform:
    """A Transform, and the signatures of the SavedModel that it is for."""

    def __init__(self, transform: Transform, inner: Mapping[str, Signature]) -> None:
        declare = getattr(transform, "signatures", None)
        self.signatures = declare(inner) if declare is not None else inner
        self._inner = inner
        self._transform = transform

    def call(self, call: frames.Call) -> Arrays:
        """Do one of the two steps."""
        name = call.signature_name
        if call.method == "preprocess":
            prepared = self._transform.preprocess(name, call.inputs)
            return checked(prepared, self._inner[name].inputs, call)
        outputs = self._transform.postprocess(name, call.inputs)
        return checked(outputs, self.signatures[name].outputs, call)


def checked(
    given: object, specs: Mapping[str, TensorSpec], call: frames.Call
) -> Arrays:
    """
    Return the arrays that *call* wants of what a model has given.

    Raises:
        Internal: one is missing, or not as *specs* has it.
    """
    if not isinstance(given, Mapping):
        raise Internal(
            f"{call.method} returned {type(given).__name__}; a dictionary of arrays "
            "was expected"
        )
    for alias in call.outputs:
        if alias not in given:
            raise Internal(
                f"{call.method} returned no {alias}; it has "
                f"{', '.join(map(str, given)) or 'nothing'}"
            )
    return {alias: specs[alias].to_array(alias, given[alias]) for alias in call.outputs}


def load(payload: Mapping[str, Any]) -> tuple[Hosted, int]:
    """
    Return what the engine wants loaded, and on how many threads it may be called.

    Args:
        payload: `factory` ("module:attribute") makes the model of `arguments`, `path`
            is its version directory, and `import_path` has where else to import
            from; `memory_limit_bytes` holds from here on; with `inner`, a
            SignatureDefMap in hexadecimal, it is a Transform.  `is_debugged` says
            that the traceback of a load that fails is to be written.

    Raises:
        ServingError: it cannot be loaded.
    """
    _limit_memory(payload["memory_limit_bytes"])
    sys.path += [path for path in payload["import_path"] if path not in sys.path]
    module, _, attribute = payload["factory"].partition(":")
    made = getattr(importlib.import_module(module), attribute)(**payload["arguments"])
    made.load(payload["path"])
    threads = getattr(made, "threads", 1)
    if not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:
        raise InvalidArgument(f"threads is {threads!r}; 1 to {_MAX_THREADS} is right")
    if "inner" in payload:
        inner = from_signature_def_map(bytes.fromhex(payload["inner"]))
        return HostedTransform(made, inner), threads
    return HostedModel(made), threads


def serve(stream: socket.socket, hosted: Hosted, threads: int) -> None:
    """Answer calls until the stream ends.  Blocks."""
    reading, writing = threading.Lock(), threading.Lock()

    def answer_all() -> None:
        while True:
            # Whoever reads a call also runs it: no thread hands work to another.
            with reading:
                body = frames.read(stream)
            if body is None:
                return
            pieces = answer(hosted, frames.parse_call(body))
            with writing:
                for piece in pieces:
                    stream.sendall(piece)

    for _ in range(threads - 1):
        threading.Thread(target=_until_gone(answer_all), daemon=True).start()
    _until_gone(answer_all)()


def answer(hosted: Hosted, call: frames.Call) -> list[Any]:
    """Return the frame that answers *call*, whatever the model does."""
    try:
        return frames.answer(call.id, hosted.call(call))
    except ServingError as error:
        return frames.failure(call.id, error.code, error.message)
    except MemoryError:
        return frames.failure(
            call.id, Code.RESOURCE_EXHAUSTED, "The model ran out of memory"
        )
    except BaseException as error:  # noqa: BLE001 - models raise what they like
        traceback.print_exc()
        return frames.failure(call.id, Code.INTERNAL, described(error))


def described(error: BaseException) -> str:
    """Return class and text of an exception; of a system error without its paths."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main(arguments: list[str]) -> None:
    """Serve the connection that is our standard input; *arguments* name the parent."""
    _end_with_the_server(int(arguments[0]))
    stream = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    hello = frames.read(stream)
    if hello is None:
        return
    payload = json.loads(bytes(hello))
    try:
        hosted, threads = load(payload)
        pieces = frames.ready(to_signature_def_map(hosted.signatures), threads)
    except BaseException as error:  # noqa: BLE001 - models raise what they like
        _tell_why_not_loaded(error, payload)
        failure = _load_error(error)
        pieces = frames.not_ready(failure.code, failure.message)
        hosted = None
    stream.sendall(b"".join(pieces))
    if hosted is not None:
        serve(stream, hosted, threads)
    sys.stdout.flush()
    os._exit(0)  # whatever threads the model has left behind


def _limit_memory(limit_bytes: int) -> None:
    """Let allocations fail beyond *limit_bytes*; mapped files do not count."""
    if limit_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit_bytes = min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _tell_why_not_loaded(error: BaseException, payload: Mapping[str, Any]) -> None:
    """
    Write where a load failed, which the status does not tell.

    Who refuses with an error of this package has said all in words.
    """
    if payload["is_debugged"]:
        traceback.print_exc()
    elif not isinstance(error, ServingError):
        found = traceback.extract_tb(error.__traceback__)
        of_model = [f for f in found if f.filename.startswith(payload["path"])]
        last = (of_model or found)[-1]
        place = f"{os.path.basename(last.filename)}, line {last.lineno}, in {last.name}"
        why = described(error).partition("\n")[0]
        print(f"{place}: {why}", file=sys.stderr)  # noqa: T201 - into the server's log


def _load_error(error: BaseException) -> ServingError:
    if isinstance(error, MemoryError):
        return ResourceExhausted("The model ran out of memory")
    if isinstance(error, ImportError | SystemExit):
        return FailedPrecondition(described(error))
    return from_exception(error)


def _until_gone(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        # A server that is gone needs no answers.
        with contextlib.suppress(OSError, EOFError):
            work()

    return run


def _end_with_the_server(parent: int) -> None:
    """Have the kernel end this process with its parent; signals are the parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)  # it was gone before
