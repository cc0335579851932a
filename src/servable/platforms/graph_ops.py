"""
Which operations a SavedModel's graphs have, and what those can do to the machine.

Read without TensorFlow, and without parsing the nodes: graphs may be hundreds of
megabytes.  Most operations compute and no more; those that reach beyond their inputs
and outputs are a table here.  Operations of libraries that are loaded besides are not
known to it.
"""

import mmap
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from servable.apis import POOL, graph_pb2, saved_model_pb2
from servable.errors import DataLoss, FailedPrecondition
from servable.platforms.saved_model_files import GRAPH_FILES

META_GRAPHS: Final = 2  # of SavedModel
_GRAPH: Final = 2  # of MetaGraphDef
_NODES, _LIBRARY = 1, 2  # of GraphDef
_FUNCTIONS: Final = 1  # of FunctionDefLibrary
_FUNCTION_NODES: Final = 3  # of FunctionDef
_NAME, _OP = 1, 2  # of NodeDef
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10

EFFECTS: Final[Mapping[str, str]] = {
    "files": "reads or writes files that the graph names",
    "network": "connects to other machines, or lets them connect",
    "python": "calls functions of the Python program that made it",
    "print": "writes to the server's standard error",
    "abort": "ends the server's process",
    "checkpoint": "reads or writes checkpoints, as every model with variables does",
    "assets": "reads vocabularies, as models with look-up tables do",
}
# What models have by their nature; told, and not counted against them.
ORDINARY: Final = frozenset({"checkpoint", "assets"})

_OPS: Final[Mapping[str, str]] = {
    "files": """
        ReadFile WriteFile MatchingFiles RecordInput Skipgram
        FixedUnigramCandidateSampler
        WholeFileReader WholeFileReaderV2 TextLineReader TextLineReaderV2
        FixedLengthRecordReader FixedLengthRecordReaderV2 TFRecordReader
        TFRecordReaderV2 LMDBReader
        TextLineDataset FixedLengthRecordDataset FixedLengthRecordDatasetV2
        TFRecordDataset TFRecordDatasetV2 CSVDataset CSVDatasetV2
        ExperimentalCSVDataset LMDBDataset ExperimentalLMDBDataset
        MatchingFilesDataset ExperimentalMatchingFilesDataset CacheDataset
        CacheDatasetV2 SaveDataset SaveDatasetV2 LoadDataset SnapshotDataset
        SnapshotDatasetV2 SnapshotDatasetReader SnapshotNestedDatasetReader
        SnapshotChunkDataset ListSnapshotChunksDataset DatasetToTFRecord
        ExperimentalDatasetToTFRecord SqlDataset ExperimentalSqlDataset
        CreateSummaryFileWriter CreateSummaryDbWriter CalibrationStatisticsSaver
        DumpTensor InitializeTRTResource SerializeTRTResource
        FileSystemSetConfiguration DebugIdentity DebugIdentityV2 DebugIdentityV3
        DebugNanCount DebugNumericSummary DebugNumericSummaryV2
        DistributedSave
    """,
    "network": """
        RpcServer RpcServerStart RpcServerRegister RpcClient RpcCall RemoteCall
        Send Recv _Send _Recv _HostSend _HostRecv
        DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3
        DataServiceDatasetV4 RegisterDataset RegisterDatasetV2 DistributedSave
        CollectiveReduce CollectiveReduceV2 CollectiveReduceV3 CollectiveGather
        CollectiveGatherV2 CollectiveBcastSend CollectiveBcastSendV2
        CollectiveBcastRecv CollectiveBcastRecvV2 CollectiveAllToAllV2
        CollectiveAllToAllV3 CollectiveReduceScatterV2 CollectivePermute
        CollectiveInitializeCommunicator CollectiveAssignGroupV2
        ConfigureDistributedTPU _ConfigureDistributedTPU
        _InitializeHostForDistributedTPU WorkerHeartbeat
        SqlDataset ExperimentalSqlDataset
        DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount
        DebugNumericSummary DebugNumericSummaryV2
    """,
    "python": "PyFunc PyFuncStateless EagerPyFunc",
    "print": "Print PrintV2",
    "abort": "Abort",
    "checkpoint": """
        Save SaveV2 SaveSlices Restore RestoreV2 RestoreSlice MergeV2Checkpoints
        LoadAndRemapMatrix DTensorRestoreV2
    """,
    "assets": """
        InitializeTableFromTextFile InitializeTableFromTextFileV2
        GenerateVocabRemapping
    """,
}
EFFECTS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    op: tuple(effect for effect in EFFECTS if op in _OPS[effect].split())
    for ops in _OPS.values()
    for op in ops.split()
}


def effects_of(op: str) -> tuple[str, ...]:
    """Return the names in EFFECTS of what *op* can do beyond computing."""
    return EFFECTS_OF.get(op, ())


def check_operations(path: str, forbidden: Collection[str]) -> None:
    """
    Check that no graph of the SavedModel at *path* can do what is *forbidden*.

    Blocks on the file system.

    Raises:
        FailedPrecondition: One can; it says which operations.
        DataLoss: The file is damaged.
    """
    if not forbidden:
        return
    found = [
        f"{op} ({', '.join(effects)})"
        for op in sorted(operations_of(path))
        if (effects := [effect for effect in effects_of(op) if effect in forbidden])
    ]
    if found:
        raise FailedPrecondition(
            f"The model has operations that forbid_ops forbids: {', '.join(found)}"
        )


def operations_of(path: str) -> Counter[str]:
    """
    Count the operations in all graphs of the SavedModel at *path*.

    Empty when there is no graph: whoever opens it says so.  Blocks.

    Raises:
        DataLoss: The file is damaged.
    """
    for name in GRAPH_FILES:
        file = os.path.join(path, name)
        if os.path.isfile(file) and os.path.getsize(file):
            read = _read_text if name.endswith(".pbtxt") else _read_binary
            return read(file)
    return Counter()


def _read_text(file: str) -> Counter[str]:
    try:
        with open(file, encoding="utf-8") as stream:
            model = text_format.Parse(
                stream.read(),
                saved_model_pb2.SavedModel(),
                allow_unknown_field=True,
                descriptor_pool=POOL,
            )
    except (text_format.ParseError, UnicodeDecodeError, RecursionError):
        raise _damaged(file) from None
    return sum((ops_of(g.graph_def) for g in model.meta_graphs), Counter())


def _read_binary(file: str) -> Counter[str]:
    with open(file, "rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with memoryview(mapped) as data:
            graphs = [
                ops_in(data, start, end)
                for field, _tag, start, end in fields(data)
                if field == META_GRAPHS
            ]
    except (DecodeError, IndexError, ValueError):
        raise _damaged(file) from None
    finally:
        mapped.close()
    return sum(graphs, Counter())


def _damaged(file: str) -> DataLoss:
    return DataLoss(f"{os.path.basename(file)} is damaged; was it copied completely?")


def ops_of(graph: graph_pb2.GraphDef) -> Counter[str]:
    """Count the operations of *graph*, functions included."""
    ops = Counter(node.op for node in graph.node)
    for function in graph.library.function:
        ops.update(node.op for node in function.node_def)
    return ops


def ops_in(data: memoryview, start: int, end: int) -> Counter[str]:
    """
    Count the operations of the MetaGraphDef there, without parsing its nodes.

    Raises:
        ValueError, IndexError: The bytes are none.
    """
    ops: Counter[str] = Counter()
    for graph in _inside(data, start, end, _GRAPH):
        for node in _inside(data, *graph, _NODES):
            ops.update(_texts(data, *node, _OP))
        for library in _inside(data, *graph, _LIBRARY):
            for function in _inside(data, *library, _FUNCTIONS):
                for node in _inside(data, *function, _FUNCTION_NODES):
                    ops.update(_texts(data, *node, _OP))
    return ops


def node_names_in(data: memoryview, start: int, end: int) -> frozenset[str]:
    """
    Return the names of the nodes of the MetaGraphDef there, without parsing them.

    Raises:
        ValueError, IndexError: The bytes are none.
    """
    return frozenset(
        name
        for graph in _inside(data, start, end, _GRAPH)
        for node in _inside(data, *graph, _NODES)
        for name in _texts(data, *node, _NAME)
    )


def _texts(data: memoryview, start: int, end: int, number: int) -> list[str]:
    return [
        bytes(data[a:b]).decode(errors="backslashreplace")
        for a, b in _inside(data, start, end, number)
    ]


def _inside(
    data: memoryview, start: int, end: int, number: int
) -> Iterator[tuple[int, int]]:
    """Yield where the values of a field are, in the message from *start* to *end*."""
    for field, _tag, at, until in fields(data, start, end):
        if field == number:
            yield at, until


def fields(
    data: memoryview, at: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """
    Yield each field's number, and where its tag, its value and its end are.

    Raises:
        ValueError, IndexError: The bytes are no message.
    """
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
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says "more"
            return value, at
    raise ValueError("a number without end")
