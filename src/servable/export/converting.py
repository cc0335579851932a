"""
SavedModels of what came before: frozen graphs, session bundles, files of Keras.

The format is told from the source itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from servable.errors import InvalidArgument, NotFound, Unimplemented
from servable.export._tensorflow import tf
from servable.export.exporting import write
from servable.export.keras_files import load_keras
from servable.export.publishing import written_beside
from servable.export.saved_model_builder import SavedModelBuilder
from servable.export.session_bundle import META_GRAPH, convert_session_bundle
from servable.export.signatures import DEFAULT
from servable.export.steps import begin

KERAS_FILES: Final = (".keras", ".h5", ".hdf5")
_GRAPH_FILES: Final = (".pb", ".pbtxt")
_VARIABLES: Final = frozenset({"Variable", "VariableV2", "VarHandleOp"})
_NO_OUTPUT: Final = frozenset({"Assert", "NoOp", "Placeholder", "Const"})


def convert(
    source: Path,
    target: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
) -> Path:
    """
    Write *source* as the SavedModel *target*; return that.  Blocks.

    Args:
        source: a frozen GraphDef (.pb, .pbtxt), a session bundle, or a file of Keras.
        target: a directory that does not exist yet.
        inputs: for a GraphDef, tensors by the names of inputs; None for all of its
            placeholders.
        outputs: for a GraphDef, tensors by the names of outputs; None for all that
            depend on a placeholder and that nothing depends on.

    Raises:
        NotFound: there is no *source*.
        AlreadyExists: there is a *target*.
        Unimplemented: *source* is of another format.
        InvalidArgument: *source* does not fit its format, or names no such tensor.
        DataLoss: *source* is damaged.
    """
    if not source.exists():
        raise NotFound(f"{source} does not exist")
    begin("converting")
    with written_beside(target) as path:
        if (source / META_GRAPH).is_file():
            convert_session_bundle(source, path)
        elif source.suffix in KERAS_FILES:
            write(load_keras(str(source)), path)
        elif source.is_file() and source.suffix in _GRAPH_FILES:
            _convert_graph(source, path, inputs, outputs)
        else:
            raise Unimplemented(
                f"{source} is no session bundle (with {META_GRAPH} in it), no file of "
                f"Keras ({', '.join(KERAS_FILES)}) and no GraphDef "
                f"({', '.join(_GRAPH_FILES)})"
            )
    return target


def _convert_graph(
    source: Path,
    path: Path,
    inputs: Mapping[str, str] | None,
    outputs: Mapping[str, str] | None,
) -> None:
    definition = read_graph(source)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        try:
            tf.import_graph_def(definition, name="")
        except ValueError as exc:
            raise InvalidArgument(f"{source} cannot be imported: {exc}") from exc
        for operation in graph.get_operations():
            if operation.type in _VARIABLES:
                raise InvalidArgument(
                    f"{source} is not frozen: {operation.name!r} is a variable, whose "
                    "value is in a checkpoint and not in the graph"
                )
        fed = _tensors(graph, inputs) if inputs else _placeholders(graph)
        fetched = _tensors(graph, outputs) if outputs else _last(graph, fed)
        if not fed or not fetched:
            raise InvalidArgument(
                f"{source} has no {'outputs' if fed else 'inputs'} to be told by "
                "themselves: name them"
            )
        signature = tf.saved_model.predict_signature_def(fed, fetched)
        builder = SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {DEFAULT: signature},
            main_op=tf.tables_initializer(),
        )
        builder.save()


def read_graph(file: Path) -> Any:
    """
    Return the GraphDef in a file.

    Raises:
        InvalidArgument: it has none.
    """
    definition = tf.GraphDef()
    try:
        if file.suffix == ".pbtxt":
            text_format.Parse(file.read_text(), definition)
        else:
            definition.ParseFromString(file.read_bytes())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as exc:
        raise InvalidArgument(f"{file} is no GraphDef: {exc}") from None
    if not definition.node:
        raise InvalidArgument(f"{file} is no GraphDef: it has no nodes")
    return definition


def _tensors(graph: Any, names: Mapping[str, str]) -> dict[str, Any]:
    made = {}
    for key, name in names.items():
        try:
            made[key] = graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError) as exc:
            raise InvalidArgument(f"there is no tensor {name!r} in the graph") from exc
    return made


def _placeholders(graph: Any) -> dict[str, Any]:
    return {
        operation.name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation.type == "Placeholder"
    }


def _last(graph: Any, fed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what depends on *fed*, and nothing depends on."""
    depending = {tensor.op for tensor in fed.values()}
    for operation in graph.get_operations():  # in an order in which they may run
        if any(tensor.op in depending for tensor in operation.inputs):
            depending.add(operation)
    return {
        operation.name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation in depending
        and operation.type not in _NO_OUTPUT
        and len(operation.outputs) == 1
        and not operation.outputs[0].consumers()
    }
