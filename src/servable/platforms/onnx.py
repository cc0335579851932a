"""
The platform "onnx": `model.onnx`, run by ONNX Runtime in a process of its own.

Inputs and outputs are those of the graph, under the one signature `serving_default`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from servable.platforms.platform import PlatformOptions
from servable.platforms.python.model import Arrays, Signature, TensorSpec
from servable.platforms.python.platform import WorkerPlatform, worker_platform

FILE: Final = "model.onnx"

_TENSOR: Final = re.compile(r"tensor\((\w+)\)")
# ONNX's names where they are not NumPy's.
_DTYPES: Final = {"float": "float32", "double": "float64", "string": "string"}


class OnnxModel:
    """A PythonModel of an ONNX graph; runs may be made from several threads."""

    threads = 4

    def __init__(self) -> None:
        self._session: Any = None
        self._outputs: Sequence[str] = ()
        self._dtypes: Mapping[str, Any] = {}

    def load(self, path: str) -> None:
        """
        Open the graph.

        Raises:
            NotFound: there is none.
            FailedPrecondition: ONNX Runtime is not installed.
            InvalidArgument: ONNX Runtime refuses it.
        """
        file = os.path.join(path, FILE)
        if not os.path.isfile(file):
            raise NotFound(f"There is no {FILE} in the version directory")
        try:
            import onnxruntime  # noqa: PLC0415 - optional
        except ImportError:
            raise FailedPrecondition(
                f"{FILE} needs ONNX Runtime: pip install 'servable[onnx]'"
            ) from None
        try:
            self._session = onnxruntime.InferenceSession(
                file, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:
            raise InvalidArgument(f"{FILE} cannot be opened: {error}") from error

    def signatures(self) -> Mapping[str, Signature]:
        """Return the graph's inputs and outputs."""
        inputs = {node.name: _spec(node) for node in self._session.get_inputs()}
        outputs = {node.name: _spec(node) for node in self._session.get_outputs()}
        self._outputs = tuple(outputs)
        return {"serving_default": Signature(inputs, outputs)}

    def run(self, _signature_name: str, inputs: Arrays) -> Mapping[str, Any]:
        """
        Run the graph.

        Raises:
            InvalidArgument: ONNX Runtime refuses the inputs.
        """
        feeds = {name: _to_onnx(array) for name, array in inputs.items()}
        try:
            results = self._session.run(self._outputs, feeds)
        except Exception as error:
            if type(error).__name__ == "InvalidArgument":
                raise InvalidArgument(str(error)) from None
            raise
        return dict(zip(self._outputs, results, strict=True))


def onnx_platform(options: PlatformOptions, engine: object) -> WorkerPlatform:
    """Make the platform "onnx"."""
    return worker_platform("onnx", "servable.platforms.onnx:OnnxModel", options, engine)


def _spec(node: Any) -> TensorSpec:
    match = _TENSOR.fullmatch(node.type)
    if match is None:
        raise Unimplemented(
            f"{node.name} is of ONNX's type {node.type}; only tensors are served"
        )
    # A dimension with a name, or none, may have any size.
    shape = [size if isinstance(size, int) else None for size in node.shape]
    return TensorSpec(_DTYPES.get(match[1], match[1]), shape)


def _to_onnx(array: Any) -> Any:
    if array.dtype != object:
        return array
    try:
        texts = [text.decode() for text in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"ONNX takes texts in UTF-8 only: {error}") from None
    decoded = array.copy()
    decoded.reshape(-1)[:] = texts
    return decoded
