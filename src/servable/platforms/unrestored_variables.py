"""
Which variables a SavedModel reads without ever restoring them.

A session assigns variables in two places only: it runs the graph's restore operation,
and then its initializer.  A variable that a signature reads and that neither of them
is given the handle of stays without a value, and each run that reads it fails with
FAILED_PRECONDITION, whatever is in the checkpoint.  Python's `tf.saved_model.load`
does not run the restore operation: it goes by the graph of objects that is stored
beside the graph of operations, and finds the values.

Keras 3 models that were written by `tf.saved_model.save` are of this kind: the
restore operation assigns copies of the variables that nothing reads.  Those written
by `model.export`, by tf.keras 2, from tf.Module or by TensorFlow 1 are not.  Nothing
here asks who wrote a model: the three sets of handles decide.

Functions get the handles of their variables as arguments, so the top level of the
graph says it all; the library of functions, nearly all of a big graph, is skipped
unread.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from servable.platforms.saved_model_files import GRAPH_FILES, VARIABLES_DIRECTORY

_INITIALIZER_SIGNATURE: Final = "__saved_model_init_op"
_INITIALIZER_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")
_LONGEST_VARINT: Final = 10


@dataclass(frozen=True, slots=True)
class ObjectGraphModel:
    """
    A SavedModel with a graph of objects, as far as it matters which loader it needs.

    Attributes:
        unrestored_variables: names of those that signatures read, and that only the
            graph of objects can restore; sorted.
        signature_def_map: a serialized tensorflow.serving.SignatureDefMap.
    """

    unrestored_variables: tuple[str, ...]
    signature_def_map: bytes


def read_object_graph_model(path: str, tags: Sequence[str]) -> ObjectGraphModel | None:
    """
    Read what the SavedModel at *path* says of its variables.

    None when it has no graph of objects, no checkpoint, no graph with just these
    tags, or cannot be read: TensorFlow's own loader then says what is wrong.  Blocks
    on the file system; memory and time do not depend on the library of functions.
    """
    index = os.path.join(path, VARIABLES_DIRECTORY, "variables.index")
    if not os.path.isfile(index):
        return None
    try:
        with open(os.path.join(path, GRAPH_FILES[0]), "rb") as file:
            return _read(_Message(file, 0, os.fstat(file.fileno()).st_size), set(tags))
    except (OSError, _Malformed, UnicodeDecodeError):
        return None


class _Malformed(Exception):
    """The bytes are no protobuf message."""


@dataclass(frozen=True, slots=True)
class _Message:
    """A part of a file that holds a protobuf message."""

    file: BinaryIO
    start: int
    end: int

    def __iter__(self) -> "Iterator[tuple[int, _Message]]":
        """Yield the number and place of each field that has a length."""
        at = self.start
        while at < self.end:
            self.file.seek(at)
            key = self._varint()
            match key & 7:
                case 0:
                    self._varint()
                    at = self.file.tell()
                case 1:
                    at = self.file.tell() + 8
                case 5:
                    at = self.file.tell() + 4
                case 2:
                    length = self._varint()
                    start = self.file.tell()
                    at = start + length
                    if at > self.end:
                        raise _Malformed
                    yield key >> 3, _Message(self.file, start, at)
                case _:
                    raise _Malformed
        if at != self.end:
            raise _Malformed

    def of(self, number: int) -> "Iterator[_Message]":
        """Yield the fields of one number."""
        return (message for found, message in self if found == number)

    def read(self) -> bytes:
        self.file.seek(self.start)
        return self.file.read(self.end - self.start)

    def text(self) -> str:
        return self.read().decode()

    def first_text(self, number: int) -> str:
        return next((message.text() for message in self.of(number)), "")

    def _varint(self) -> int:
        value = 0
        for position in range(_LONGEST_VARINT):
            byte = self.file.read(1)
            if not byte:
                break
            value |= (byte[0] & 0x7F) << (7 * position)
            if byte[0] < 0x80:  # noqa: PLR2004 - the last byte of a varint
                return value
        raise _Malformed


@dataclass(slots=True)
class _MetaGraph:
    """The places of what is read of a MetaGraphDef."""

    tags: set[str] = field(default_factory=set)
    graphs: list[_Message] = field(default_factory=list)
    restore_operation: str = ""
    initializers: list[str] = field(default_factory=list)
    signatures: list[_Message] = field(default_factory=list)
    has_object_graph: bool = False


def _read(saved_model: _Message, tags: set[str]) -> ObjectGraphModel | None:
    for message in saved_model.of(2):  # meta_graphs
        meta_graph = _meta_graph(message)
        if meta_graph.tags == tags:
            break
    else:
        return None
    if not meta_graph.has_object_graph:
        return None
    nodes = _Nodes()
    for graph in meta_graph.graphs:
        nodes.add(graph)
    roots, fed = list(meta_graph.initializers), set[str]()
    read: list[str] = []
    for entry in meta_graph.signatures:
        signature = _signature(entry)
        if signature.name == _INITIALIZER_SIGNATURE:
            roots += signature.outputs
        else:
            read += signature.outputs
            fed |= {_node_name(tensor) for tensor in signature.inputs}
    assigned = nodes.variables_below([meta_graph.restore_operation, *roots], set())
    unrestored = nodes.variables_below(read, fed) - assigned
    entries = (entry.read() for entry in meta_graph.signatures)
    return ObjectGraphModel(
        tuple(sorted(unrestored)),
        # The entries are those of SignatureDefMap.signature_def, field 1.
        b"".join(b"\x0a" + _varint_bytes(len(entry)) + entry for entry in entries),
    )


def _meta_graph(message: _Message) -> _MetaGraph:
    found = _MetaGraph()
    for number, part in message:
        match number:
            case 1:  # meta_info_def, and its tags
                found.tags = {tag.text() for tag in part.of(4)}
            case 2:
                found.graphs.append(part)
            case 3:  # saver_def
                found.restore_operation = part.first_text(3)
            case 4:  # an entry of collection_def: CollectionDef.node_list.value
                if part.first_text(1) in _INITIALIZER_COLLECTIONS:
                    found.initializers += [
                        name.text()
                        for value in part.of(2)
                        for node_list in value.of(1)
                        for name in node_list.of(1)
                    ]
            case 5:
                found.signatures.append(part)
            case 7:
                found.has_object_graph = True
            case _:
                pass
    return found


@dataclass(slots=True)
class _Signature:
    """The tensors that one SignatureDef names."""

    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def _signature(entry: _Message) -> _Signature:
    found = _Signature(entry.first_text(1))
    for signature in entry.of(2):
        for number, tensor in signature:  # 1 inputs, 2 outputs: alias to TensorInfo
            names = {1: found.inputs, 2: found.outputs}.get(number)
            if names is not None:
                names += [info.first_text(1) for info in tensor.of(2)]
    return found


class _Nodes:
    """The top level of a graph: what each node needs, and which are variables."""

    def __init__(self) -> None:
        self._inputs: dict[str, list[str]] = {}
        self._variables: dict[str, str] = {}

    def add(self, graph: _Message) -> None:
        for node in graph.of(1):
            name, operation, inputs = "", "", list[str]()
            attributes: list[_Message] = []
            for number, part in node:
                match number:
                    case 1:
                        name = part.text()
                    case 2:
                        operation = part.text()
                    case 3:
                        inputs.append(_node_name(part.text()))
                    case 5:
                        attributes.append(part)
                    case _:
                        pass
            self._inputs[name] = inputs
            if operation == "VarHandleOp":
                self._variables[name] = _shared_name(attributes) or name

    def variables_below(self, tensors: Iterable[str], fed: set[str]) -> set[str]:
        """Return the variables whose handles *tensors* depend on, not through *fed*."""
        waiting = [_node_name(tensor) for tensor in tensors]
        seen = set(fed)
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self._variables:
                found.add(self._variables[name])
            waiting += self._inputs.get(name, ())
        return found


def _shared_name(attributes: Iterable[_Message]) -> str:
    """Return what a session knows a variable by: AttrValue.s of `shared_name`."""
    for attribute in attributes:
        if attribute.first_text(1) == "shared_name":
            return next((value.first_text(2) for value in attribute.of(2)), "")
    return ""


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - seven bits to a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
