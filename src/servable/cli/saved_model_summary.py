"""
What a SavedModel says of itself, read without TensorFlow and without its graphs.

Graphs may be hundreds of megabytes; the file is mapped, and only the fields that are
shown are parsed.
"""

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from servable.apis import POOL, graph_pb2, meta_graph_pb2, saved_model_pb2
from servable.client.signatures import Signature, signatures_from
from servable.errors import DataLoss, NotFound
from servable.platforms.saved_model_files import GRAPH_FILES, VARIABLES_DIRECTORY
from servable.sources.versions import versions_among

# Of MetaGraphDef: meta_info_def, collection_def, signature_def, asset_file_def.
_SHOWN_FIELDS: Final = frozenset({1, 4, 5, 6})
_ASSETS: Final = "saved_model_assets"  # the collection that version 1 has them in
_GRAPH: Final = 2  # of MetaGraphDef
_NODES, _LIBRARY = 1, 2  # of GraphDef
_FUNCTIONS: Final = 1  # of FunctionDefLibrary
_FUNCTION_NODES: Final = 3  # of FunctionDef
_OP: Final = 2  # of NodeDef
_META_GRAPHS: Final = 2  # of SavedModel
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """
    One graph of a SavedModel.

    Attributes:
        assets: file names and their sizes in bytes.
        ops: how many nodes of each operation there are, functions included; the most
            frequent first.
    """

    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: Mapping[str, Signature]
    assets: Mapping[str, int | None]
    ops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """
    A SavedModel on disk.

    Attributes:
        path: the version directory.
        version: its number, None when it was named itself.
        other_versions: its neighbours, ascending.
        graph_bytes: size of the graph file.
        variables_bytes: size of all variables.
        extra: files in assets.extra, and their sizes in bytes.
    """

    path: Path
    version: int | None
    other_versions: tuple[int, ...]
    graph_bytes: int
    variables_bytes: int
    meta_graphs: tuple[MetaGraph, ...]
    extra: Mapping[str, int]


def summarize(path: Path) -> Summary:
    """
    Return what is in the SavedModel at *path*, or in the newest version under it.

    Raises:
        NotFound: there is neither a SavedModel nor a version of one.
        DataLoss: the file is damaged.
    """
    directory, version, others = find_version(path)
    graph = next(directory / f for f in GRAPH_FILES if (directory / f).is_file())
    meta_graphs = _read_text(graph) if graph.suffix == ".pbtxt" else _read_binary(graph)
    return Summary(
        directory,
        version,
        others,
        graph.stat().st_size,
        sum(_sizes(directory / VARIABLES_DIRECTORY).values()),
        tuple(_meta_graph(proto, ops, directory) for proto, ops in meta_graphs),
        _sizes(directory / "assets.extra"),
    )


def find_version(path: Path) -> tuple[Path, int | None, tuple[int, ...]]:
    """
    Return the version directory that *path* means, its number, the other numbers.

    Raises:
        NotFound: as summarize.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist")
    if not path.is_dir():
        raise NotFound(
            f"{path} is a file; give the directory that has {GRAPH_FILES[0]} in it"
        )
    if _is_saved_model(path):
        return path, None, ()
    listing = versions_among(child.name for child in path.iterdir() if child.is_dir())
    found = {
        number: path / name
        for number, name in sorted(listing.versions.items())
        if _is_saved_model(path / name)
    }
    if found:
        newest = max(found)
        return found[newest], newest, tuple(n for n in found if n != newest)
    raise NotFound(f"{path} is no SavedModel: {_why_not(path, listing.versions)}")


def _why_not(path: Path, versions: Mapping[int, str]) -> str:
    if versions:
        name = versions[max(versions)]
        return f"its version {name} has no {GRAPH_FILES[0]}"
    names = sorted(child.name for child in path.iterdir())
    if not names:
        return "the directory is empty"
    nested = [name for name in names if _is_saved_model(path / name)]
    if nested:
        return f"it has one in {nested[0]!r}, but versions are named by numbers"
    for name in names:
        if name.endswith((".keras", ".h5", ".hdf5")):
            return f"{name} is a Keras file; model.export(…) makes a SavedModel of it"
    return f"there is neither {GRAPH_FILES[0]} nor a directory named by a number in it"


def _is_saved_model(path: Path) -> bool:
    return any((path / name).is_file() for name in GRAPH_FILES)


def _meta_graph(
    proto: meta_graph_pb2.MetaGraphDef, ops: Counter[str], directory: Path
) -> MetaGraph:
    sizes = _sizes(directory / "assets")
    collected = [
        meta_graph_pb2.AssetFileDef.FromString(any_.value)
        for any_ in proto.collection_def[_ASSETS].any_list.value
    ]
    names = sorted({asset.filename for asset in (*proto.asset_file_def, *collected)})
    return MetaGraph(
        tuple(proto.meta_info_def.tags),
        proto.meta_info_def.tensorflow_version,
        signatures_from(proto.signature_def),
        {name: sizes.get(name) for name in names},
        dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
    )


def _sizes(directory: Path) -> Mapping[str, int]:
    if not directory.is_dir():
        return {}
    return {
        str(file.relative_to(directory)): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def _read_text(file: Path) -> list[tuple[meta_graph_pb2.MetaGraphDef, Counter[str]]]:
    try:
        model = text_format.Parse(
            file.read_text("utf-8"),
            saved_model_pb2.SavedModel(),
            allow_unknown_field=True,
            descriptor_pool=POOL,
        )
    except (text_format.ParseError, UnicodeDecodeError) as exc:
        raise DataLoss(f"{file} is damaged: {exc}") from None
    return [(proto, _ops_of(proto.graph_def)) for proto in model.meta_graphs]


def _ops_of(graph: graph_pb2.GraphDef) -> Counter[str]:
    ops = Counter(node.op for node in graph.node)
    for function in graph.library.function:
        ops.update(node.op for node in function.node_def)
    return ops


def _read_binary(
    file: Path,
) -> list[tuple[meta_graph_pb2.MetaGraphDef, Counter[str]]]:
    if not file.stat().st_size:
        raise DataLoss(f"{file} is empty; was it copied completely?")
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with memoryview(mapped) as data:
            return [
                (_shown_part(data[start:end]), _ops_in(data, start, end))
                for field, _tag, start, end in _fields(data)
                if field == _META_GRAPHS
            ]
    except (DecodeError, IndexError, ValueError):
        raise DataLoss(f"{file} is damaged; was it copied completely?") from None
    finally:
        mapped.close()


def _shown_part(meta_graph: memoryview) -> meta_graph_pb2.MetaGraphDef:
    with meta_graph:
        shown = b"".join(
            bytes(meta_graph[tag:end])
            for field, tag, _start, end in _fields(meta_graph)
            if field in _SHOWN_FIELDS
        )
    return meta_graph_pb2.MetaGraphDef.FromString(shown)


def _ops_in(data: memoryview, start: int, end: int) -> Counter[str]:
    """Count the operations of the MetaGraphDef there, without parsing its nodes."""
    ops: Counter[str] = Counter()
    for graph in _inside(data, start, end, _GRAPH):
        for node in _inside(data, *graph, _NODES):
            ops.update(_op_of(data, *node))
        for library in _inside(data, *graph, _LIBRARY):
            for function in _inside(data, *library, _FUNCTIONS):
                for node in _inside(data, *function, _FUNCTION_NODES):
                    ops.update(_op_of(data, *node))
    return ops


def _op_of(data: memoryview, start: int, end: int) -> list[str]:
    return [
        bytes(data[a:b]).decode(errors="backslashreplace")
        for a, b in _inside(data, start, end, _OP)
    ]


def _inside(
    data: memoryview, start: int, end: int, number: int
) -> Iterator[tuple[int, int]]:
    """Yield where the values of a field are, in the message from *start* to *end*."""
    for field, _tag, at, until in _fields(data, start, end):
        if field == number:
            yield at, until


def _fields(
    data: memoryview, at: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's number, and where its tag, its value and its end are."""
    end = len(data) if end is None else end
    while at < end:
        tag_at = at
        tag, at = _varint(data, at)
        start = at
        match tag & 7:
            case kind if kind == _VARINT:
                _, at = _varint(data, at)
            case kind if kind == _FIXED64:
                at += 8
            case kind if kind == _LENGTH:
                length, start = _varint(data, at)
                at = start + length
            case kind if kind == _FIXED32:
                at += 4
            case kind:
                raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("the file ends early")
        yield tag >> 3, tag_at, start, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says "more"
            return value, at
        shift += 7
