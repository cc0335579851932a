"""
TensorFlow Lite models as servables: `model.tflite` in a version directory.

The interpreter is that of ai-edge-litert or, where that is not installed, of
TensorFlow.  An interpreter runs one request at a time, so there is a pool of them; a
request borrows one, and waits where there is none.
"""

import contextlib
import importlib
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from servable.apis import types_pb2
from servable.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ServingError,
    from_exception,
)
from servable.platforms.tensorflow import TFLITE_FILE as FILE
from servable.platforms.tflite_signatures import (
    TensorDetails,
    read_signatures,
    tensor_details,
    tensors_by_alias,
)

# What crosses to the engine and back: (DataType number, shape, data).
Tensor = tuple[int, tuple[int, ...], Any]

_RUNTIMES: Final = (
    ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated"),
    (
        "tensorflow.lite.python.interpreter",
        "tensorflow.lite.python.schema_py_generated",
    ),
)


@dataclass(frozen=True, slots=True)
class _Signature:
    inputs: Mapping[str, TensorDetails]
    outputs: Mapping[str, TensorDetails]


class TfLiteServable:
    """
    A TensorFlow Lite model; see _engine.PythonServable.  Thread-safe.

    Args:
        path: the version directory.
        num_interpreters: how many requests may run at a time.

    Raises:
        FailedPrecondition: No runtime is installed.
        InvalidArgument: The runtime refuses the model, or a signature names a tensor
            that it does not have.
        Unimplemented: A tensor is of a type that cannot be served.
    """

    def __init__(self, path: str, num_interpreters: int) -> None:
        self._interpreters, schema = _import_runtime()
        try:
            with open(os.path.join(path, FILE), "rb") as file:
                self._content = file.read()
        except OSError as error:
            raise from_exception(error) from error
        interpreter = self._new_interpreter()
        inputs = tensor_details(interpreter.get_input_details())
        outputs = tensor_details(interpreter.get_output_details())
        signatures = read_signatures(self._content, schema, inputs, outputs)
        self._signatures = {
            name: _Signature(
                tensors_by_alias(signature.inputs, inputs, name),
                tensors_by_alias(signature.outputs, outputs, name),
            )
            for name, signature in signatures.signature_def.items()
        }
        self.signature_def_map = signatures.SerializeToString(deterministic=True)
        # The last that was returned is the first to be lent: its memory is warm.
        self._pool: queue.LifoQueue[Any] = queue.LifoQueue()
        self._pool.put(interpreter)
        for _ in range(max(num_interpreters, 1) - 1):
            self._pool.put(None)  # made when it is needed

    def run(
        self, signature_name: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> list[Tensor]:
        """
        Return *outputs* of a signature, in that order; blocks while it runs.

        Raises:
            InvalidArgument: An input is of the wrong type, or missing.
            Internal: The runtime fails.
        """
        signature = self._signatures[signature_name]
        missing = signature.inputs.keys() - inputs.keys()
        if missing:
            names = ", ".join(sorted(missing))
            raise InvalidArgument(f"Missing input TFLite tensor: {names}")
        arrays = {
            alias: _to_array(position, inputs[alias], tensor)
            for position, (alias, tensor) in enumerate(sorted(signature.inputs.items()))
        }
        with self._borrowed() as interpreter:
            self._feed(interpreter, signature, arrays)
            with _failing_as("Failed to invoke TfLite interpreter"):
                interpreter.invoke()
            return [
                _from_array(
                    signature.outputs[alias].dtype,
                    interpreter.get_tensor(signature.outputs[alias].index),
                )
                for alias in outputs
            ]

    def release(self) -> None:
        """Let go of the model.  No run may be under way."""
        self._pool = queue.LifoQueue()
        self._content = b""

    def _feed(
        self, interpreter: Any, signature: _Signature, arrays: Mapping[str, Any]
    ) -> None:
        has_changed = False
        shapes = {
            detail["index"]: tuple(detail["shape"])
            for detail in interpreter.get_input_details()
        }
        for alias, array in arrays.items():
            index = signature.inputs[alias].index
            if shapes[index] != array.shape:
                with _failing_as("Failed to resize input tensor"):
                    interpreter.resize_tensor_input(index, array.shape)
                has_changed = True
        if has_changed:
            with _failing_as("Failed to allocate tensors"):
                interpreter.allocate_tensors()
        for alias, array in arrays.items():
            with _failing_as(f"Failed to set input tensor {alias}"):
                interpreter.set_tensor(signature.inputs[alias].index, array)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Any]:
        interpreter = self._pool.get()
        try:
            yield interpreter or (interpreter := self._new_interpreter())
        except BaseException:
            # One that failed may have lost its tensors.
            interpreter = None
            raise
        finally:
            self._pool.put(interpreter)

    def _new_interpreter(self) -> Any:
        try:
            interpreter = self._interpreters.Interpreter(
                model_content=self._content, num_threads=1
            )
            interpreter.allocate_tensors()
        except Exception as error:
            raise InvalidArgument(f"{FILE} cannot be opened: {error}") from error
        return interpreter

    def __repr__(self) -> str:
        return f"<TfLiteServable {sorted(self._signatures)}>"


def _import_runtime() -> tuple[Any, Any]:
    """Return the modules of the interpreter and of the format."""
    for interpreter, schema in _RUNTIMES:
        try:
            return importlib.import_module(interpreter), importlib.import_module(schema)
        except ImportError:
            continue
    raise FailedPrecondition(f"{FILE} needs a runtime: pip install 'servable[tflite]'")


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    try:
        yield
    except ServingError:
        raise
    except Exception as error:
        raise Internal(f"{what}: {error}") from error


def _to_array(position: int, tensor: Tensor, wanted: TensorDetails) -> Any:
    number, shape, data = tensor
    if number != wanted.dtype:
        raise InvalidArgument(
            f"Expects arg[{position}] to be {_name(wanted.dtype)} but {_name(number)} "
            "is provided"
        )
    if number == types_pb2.DT_STRING:
        strings = np.empty(len(data), object)
        strings[:] = data
        return strings.reshape(shape)
    return np.frombuffer(data, _NUMPY[number]).reshape(shape)


_NUMPY: Final[Mapping[int, Any]] = {
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_HALF: np.float16,
    types_pb2.DT_DOUBLE: np.float64,
    types_pb2.DT_INT8: np.int8,
    types_pb2.DT_UINT8: np.uint8,
    types_pb2.DT_INT16: np.int16,
    types_pb2.DT_UINT16: np.uint16,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_UINT32: np.uint32,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_UINT64: np.uint64,
    types_pb2.DT_BOOL: np.bool_,
    types_pb2.DT_COMPLEX64: np.complex64,
    types_pb2.DT_COMPLEX128: np.complex128,
}


def _from_array(number: int, value: Any) -> Tensor:
    array = np.asarray(value)
    if number == types_pb2.DT_STRING:
        return number, array.shape, [bytes(one) for one in array.reshape(-1)]
    flat = np.ascontiguousarray(array).reshape(-1)
    return number, array.shape, flat.view(np.uint8)


def _name(number: int) -> str:
    """Return a DataType as TensorFlow's errors name it, such as "float"."""
    return types_pb2.DataType.Name(number).removeprefix("DT_").lower()
