"""
SavedModels that only Python's TensorFlow can restore, as servables.

The slower of two roads: TensorFlow is imported into the server, and a request takes
the GIL on its way in and out, though not while its graph runs.  Which models need it
is told by `unrestored_variables`; this module loads and runs them, and gives their
errors the codes and texts that the other road gives.
"""

import contextlib
import ctypes
import gc
import importlib
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np

from servable.apis import types_pb2
from servable.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ServingError,
    from_code,
    from_exception,
)

# What crosses to the engine and back: (DataType number, shape, data).
Tensor = tuple[int, tuple[int, ...], object]

# What eager TensorFlow puts round the text that a session gives: where the operation
# was made, with the paths of whoever made it, and what called it.
_ORIGIN: Final = re.compile(
    r"Graph execution error:\n\n"
    r"(?:Detected at node .*\n"
    r"(?:<stack traces unavailable>\n|(?:[ \t]+.*\n|\n)*)?)*"
    r"|\{\{function_node \S+\}\} "
)
_CALLER: Final = re.compile(r"\s*\[Op:[^\]]*\](?: name: \S*)?\s*\Z")


class ObjectLoaderServable:
    """
    A SavedModel that Python's TensorFlow has loaded; see _engine.PythonServable.

    Thread-safe.  The first one imports TensorFlow, which takes seconds.

    Args:
        path: the version directory.
        tags: name the graph to load.

    Raises:
        FailedPrecondition: Python's TensorFlow cannot be imported.
        ServingError: TensorFlow cannot load it.
    """

    def __init__(self, path: str, tags: Sequence[str]) -> None:
        self._tensorflow = _import_tensorflow()
        try:
            # Functions hold the variables they use weakly: the model keeps them alive.
            self._model: Any = self._tensorflow.saved_model.load(path, list(tags))
            self._functions = {
                name: _Function(
                    function,
                    {
                        alias: spec.dtype.as_datatype_enum
                        for alias, spec in function.structured_input_signature[
                            1
                        ].items()
                    },
                )
                for name, function in self._model.signatures.items()
            }
        except Exception as error:
            raise self._serving_error(error) from error

    def run(
        self, signature_name: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> list[Tensor]:
        """
        Return *outputs* of a signature, in that order; blocks while its graph runs.

        Raises:
            ServingError: with the code, and as far as there is one the text, that a
                session gives.
        """
        function = self._functions.get(signature_name)
        if function is None:
            raise FailedPrecondition(
                f"Signature {signature_name} cannot be called in this model"
            )
        try:
            # What other signatures of a MultiInference are fed is none of its business.
            feeds = {
                alias: self._to_tensorflow(position, tensor, function.dtypes[alias])
                for position, (alias, tensor) in enumerate(inputs.items())
                if alias in function.dtypes
            }
            results = function.call(**feeds)
            return [_from_tensorflow(results[alias]) for alias in outputs]
        except Exception as error:  # noqa: BLE001 - models raise what they like
            raise self._serving_error(error) from None

    def release(self) -> None:
        """Let go of the model, and give its memory back.  No run may be under way."""
        self._functions = {}
        self._model = None
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # other C libraries
            ctypes.CDLL(None).malloc_trim(0)

    def _to_tensorflow(self, position: int, tensor: Tensor, expected: int) -> object:
        number, shape, data = tensor
        if number != expected:
            raise InvalidArgument(
                f"Expects arg[{position}] to be {_dtype_name(expected)} but "
                f"{_dtype_name(number)} is provided"
            )
        dtype = self._tensorflow.as_dtype(number)
        if dtype == self._tensorflow.string:
            array = np.array(data, dtype=object)
        else:
            array = np.frombuffer(data, dtype.as_numpy_dtype)  # type: ignore[call-overload]
        return self._tensorflow.constant(array.reshape(shape), dtype)

    def _serving_error(self, error: Exception) -> ServingError:
        match error:
            case ServingError():
                return error
            case self._tensorflow.errors.OpError():
                return from_code(error.error_code, _plain(error.message))
            case UnicodeDecodeError():
                # TensorFlow's text quotes the request, which need not be UTF-8.
                return InvalidArgument(_plain(error.object.decode(errors="replace")))
            case TypeError():
                return InvalidArgument(str(error))
            case KeyError():
                return Internal(f"The model has no {error}")
            case _:
                return from_exception(error)

    def __repr__(self) -> str:
        return f"<ObjectLoaderServable {sorted(self._functions)}>"


@dataclass(frozen=True, slots=True)
class _Function:
    """A signature's function, and the DataType numbers of what it takes."""

    call: Callable[..., Mapping[str, Any]]
    dtypes: Mapping[str, int]


_import_lock = threading.Lock()


def _import_tensorflow() -> ModuleType:
    with _import_lock:
        is_first = "tensorflow" not in sys.modules
        try:
            tensorflow = importlib.import_module("tensorflow")
        except Exception as error:
            raise FailedPrecondition(
                "This SavedModel needs Python's TensorFlow, which cannot be imported: "
                f"{error}; a model written by model.export(path) does without"
            ) from error
        if is_first:
            # Its modules stay for good; walking them makes each collection hold up
            # requests for a good part of a second.
            gc.collect()
            gc.freeze()
        return tensorflow


def _from_tensorflow(tensor: Any) -> Tensor:
    number = int(tensor.dtype.as_datatype_enum)
    shape = tuple(tensor.shape.as_list())
    value = tensor.numpy()
    if number == types_pb2.DT_STRING:
        return number, shape, np.asarray(value, dtype=object).ravel().tolist()
    array = np.ascontiguousarray(value).reshape(-1)
    return number, shape, array.view(np.uint8)


def _dtype_name(number: int) -> str:
    """Return a DataType as TensorFlow's errors name it, such as "float"."""
    try:
        return types_pb2.DataType.Name(number).removeprefix("DT_").lower()
    except ValueError:
        return f"unknown dtype {number}"


def _plain(message: str) -> str:
    """Return the part of an eager error that a session would have given."""
    origin = _ORIGIN.match(message)
    return _CALLER.sub("", message[origin.end() :] if origin else message)
