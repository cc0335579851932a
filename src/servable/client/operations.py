"""
What a client can ask of a server, and what comes back; no protocol in it.

The codecs say how each operation looks over gRPC and over REST.  What is made for every
single request is a NamedTuple, which costs a fifth of a frozen dataclass.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from servable.apis import example_pb2, model_server_config_pb2
from servable.client.dtypes import DType
from servable.client.signatures import Signature
from servable.errors import Code, InvalidArgument, ServingError, from_code


class ModelRef(NamedTuple):
    """A model, and which of its versions: a number, a label, or the latest."""

    name: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"model {self.name!r} version {self.version}"
        if self.label is not None:
            return f"model {self.name!r} label {self.label!r}"
        return f"model {self.name!r}"


@functools.lru_cache(maxsize=256)
def model_ref(
    name: str, version: int | None = None, label: str | None = None
) -> ModelRef:
    """
    Return the ModelRef of what a caller gave.

    Raises:
        InvalidArgument: it has no name, a version that is no number or a label that
            is no text, or both a version and a label.
    """
    if not name or not isinstance(name, str):
        raise InvalidArgument(f"a model is a name, and {name!r} is none")
    if version is not None and label is not None:
        raise InvalidArgument(
            f"version={version} and label={label!r} exclude each other"
        )
    if version is not None:
        try:
            version = operator.index(version)
        except TypeError:
            raise InvalidArgument(
                f"version={version!r} is no number; a version is one, as 3"
            ) from None
        if version.bit_length() > 63:  # noqa: PLR2004 - int64 on the wire
            raise InvalidArgument(f"version={version} is more than 64 bits can hold")
    if label is not None and (not label or not isinstance(label, str)):
        raise InvalidArgument(f"label={label!r} is no label; a label is text")
    return ModelRef(name, version, label)


class Tensor(NamedTuple):
    """An array, and the type to send it as."""

    array: npt.NDArray[Any]
    dtype: DType


class Predict(NamedTuple):
    """
    Run a signature.

    Attributes:
        signature: what it looks like, where that is known.
        writable: the arrays that come back are to be changed.
    """

    model: ModelRef
    signature_name: str
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str] = ()
    signature: Signature | None = None
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Classify:
    """Classify examples."""

    model: ModelRef
    signature_name: str
    examples: Sequence[example_pb2.Example]
    context: example_pb2.Example | None = None


@dataclass(frozen=True, slots=True)
class Regress:
    """Regress examples."""

    model: ModelRef
    signature_name: str
    examples: Sequence[example_pb2.Example]
    context: example_pb2.Example | None = None


@dataclass(frozen=True, slots=True)
class MultiInference:
    """Classify and regress the same examples; `tasks` are (signature, method)."""

    model: ModelRef
    tasks: Sequence[tuple[str, str]]
    examples: Sequence[example_pb2.Example]
    context: example_pb2.Example | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """Ask for the signatures."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class Status:
    """Ask for the state of the versions."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class ReloadConfig:
    """Replace the set of models."""

    config: model_server_config_pb2.ModelServerConfig


Operation: TypeAlias = (
    Predict | Classify | Regress | MultiInference | Metadata | Status | ReloadConfig
)


class Outputs(dict[str, npt.NDArray[Any]]):
    """
    Outputs by name, as arrays.

    Attributes:
        version: the version that made them; None over REST, which does not say.
    """

    __slots__ = ("version",)

    def __init__(
        self, outputs: Mapping[str, npt.NDArray[Any]], version: int | None
    ) -> None:
        super().__init__(outputs)
        self.version = version


@dataclass(frozen=True, slots=True)
class Classification:
    """
    Classes of every example, as two arrays of shape [examples, classes].

    Attributes:
        labels: text; empty where the model gives scores only.
        scores: float32; zero where the model gives labels only.
    """

    labels: npt.NDArray[Any]
    scores: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """
    The state of one version of a model.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING, END or UNKNOWN.
        code: OK, or why loading or unloading failed.
        message: "", or the text that goes with the code.
    """

    version: int
    state: str
    code: Code
    message: str

    @property
    def error(self) -> ServingError | None:
        """The failure as an exception, None without one."""
        return None if self.code is Code.OK else from_code(self.code, self.message)

    def __str__(self) -> str:
        failure = f" ({self.code.name}: {self.message})" if self.code else ""
        return f"version {self.version} is {self.state}{failure}"
