"""
What a SavedModel says of itself, read without TensorFlow and without its graphs.

Graphs may be hundreds of megabytes; the file is mapped, and only the fields that are
shown are parsed.
"""

import mmap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from servable.apis import POOL, meta_graph_pb2, saved_model_pb2
from servable.client.signatures import Signature, signatures_from
from servable.errors import DataLoss, NotFound
from servable.platforms.graph_ops import (
    META_GRAPHS,
    fields,
    node_names_in,
    ops_in,
    ops_of,
)
from servable.platforms.saved_model_files import GRAPH_FILES, VARIABLES_DIRECTORY
from servable.sources.versions import versions_among

# Of MetaGraphDef: meta_info_def, collection_def, signature_def, asset_file_def.
_SHOWN_FIELDS: Final = frozenset({1, 4, 5, 6})
_ASSETS: Final = "saved_model_assets"  # the collection that version 1 has them in

# What is shown of a graph, its operations, and the names of its nodes.
_Read = tuple[meta_graph_pb2.MetaGraphDef, Counter[str], Collection[str]]


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """
    One graph of a SavedModel.

    Attributes:
        faults: which tensors signatures name that are not in the graph, for people.
        assets: file names and their sizes in bytes.
        ops: how many nodes of each operation there are, functions included; the most
            frequent first.
    """

    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: Mapping[str, Signature]
    faults: tuple[str, ...]
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
        tuple(_meta_graph(*read, directory) for read in meta_graphs),
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
    proto: meta_graph_pb2.MetaGraphDef,
    ops: Counter[str],
    nodes: Collection[str],
    directory: Path,
) -> MetaGraph:
    signatures = signatures_from(proto.signature_def)
    sizes = _sizes(directory / "assets")
    collected = [
        meta_graph_pb2.AssetFileDef.FromString(any_.value)
        for any_ in proto.collection_def[_ASSETS].any_list.value
    ]
    names = sorted({asset.filename for asset in (*proto.asset_file_def, *collected)})
    return MetaGraph(
        tuple(proto.meta_info_def.tags),
        proto.meta_info_def.tensorflow_version,
        signatures,
        tuple(_faults(signatures, nodes)),
        {name: sizes.get(name) for name in names},
        dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
    )


def _faults(
    signatures: Mapping[str, Signature], nodes: Collection[str]
) -> Iterator[str]:
    for signature in signatures.values():
        for what, specs in ("input", signature.inputs), ("output", signature.outputs):
            for name, spec in specs.items():
                # Sparse tensors have no name of their own.
                if spec.name and spec.name.partition(":")[0] not in nodes:
                    yield (
                        f"signature {signature.name!r}, {what} {name!r}: "
                        f"tensor {spec.name!r} is not in the graph"
                    )


def _sizes(directory: Path) -> Mapping[str, int]:
    if not directory.is_dir():
        return {}
    return {
        str(file.relative_to(directory)): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def _read_text(file: Path) -> list[_Read]:
    try:
        model = text_format.Parse(
            file.read_text("utf-8"),
            saved_model_pb2.SavedModel(),
            allow_unknown_field=True,
            descriptor_pool=POOL,
        )
    except (text_format.ParseError, UnicodeDecodeError) as exc:
        raise DataLoss(f"{file} is damaged: {exc}") from None
    return [
        (proto, ops_of(proto.graph_def), {node.name for node in proto.graph_def.node})
        for proto in model.meta_graphs
    ]


def _read_binary(file: Path) -> list[_Read]:
    if not file.stat().st_size:
        raise DataLoss(f"{file} is empty; was it copied completely?")
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with memoryview(mapped) as data:
            return [
                (
                    _shown_part(data[start:end]),
                    ops_in(data, start, end),
                    node_names_in(data, start, end),
                )
                for field, _tag, start, end in fields(data)
                if field == META_GRAPHS
            ]
    except (DecodeError, IndexError, ValueError):
        raise DataLoss(f"{file} is damaged; was it copied completely?") from None
    finally:
        mapped.close()


def _shown_part(meta_graph: memoryview) -> meta_graph_pb2.MetaGraphDef:
    with meta_graph:
        shown = b"".join(
            bytes(meta_graph[tag:end])
            for field, tag, _start, end in fields(meta_graph)
            if field in _SHOWN_FIELDS
        )
    return meta_graph_pb2.MetaGraphDef.FromString(shown)
