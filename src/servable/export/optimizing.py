"""
A faster SavedModel of another, with the same signatures and answers.

Variables become constants, which lets Grappler compute what does not depend on
inputs, and batch normalizations become part of the convolutions before them.  Tables
and assets are kept.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from servable.apis import meta_graph_pb2
from servable.errors import FailedPrecondition, InvalidArgument
from servable.export._tensorflow import tf
from servable.export.answers import Tolerance, arrays_of, differences
from servable.export.folding import fold
from servable.export.publishing import check_complete, written_beside
from servable.export.reasons import reason_of
from servable.export.replay import replay
from servable.export.requests import Log, read_warmup, request_of
from servable.export.saved_model_builder import SavedModelBuilder
from servable.export.steps import begin

_SERVE: Final = ("serve",)
_INIT_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")
_INIT_SIGNATURE: Final = "__saved_model_init_op"
_GRAPPLER: Final = ("function", "constfold", "arithmetic", "dependency", "pruning")


@dataclass(frozen=True, slots=True)
class Optimized:
    """
    What became of a model.

    Attributes:
        path: where it is.
        nodes: how many operations it had and has.
        folded: how many operations were folded into convolutions.
        compared: how many requests were answered the same.
    """

    path: Path
    nodes: tuple[int, int]
    folded: int
    compared: int


def optimize(
    source: Path,
    target: Path,
    *,
    logs: Sequence[Log] | None = None,
    tolerance: Tolerance | None = None,
) -> Optimized:
    """
    Write a faster SavedModel of *source* as *target*.  Blocks.

    Args:
        source: a SavedModel with a graph for serving.
        target: a directory that does not exist yet.
        logs: requests that both have to answer the same; None for those that come
            with the model.
        tolerance: how far answers may be apart.

    Raises:
        AlreadyExists: there is a *target*.
        NotFound: *source* is no SavedModel.
        InvalidArgument: *source* has no graph for serving, or nothing to ask it.
        FailedPrecondition: *source* is not complete or cannot be loaded, or the faster
            model answers otherwise; nothing is written.
    """
    check_complete(source)
    asked = list(read_warmup(source) if logs is None else logs)
    with written_beside(target) as made:
        nodes, folded = _write(source, made)
        _copy_what_goes_along(source, made)
        compared = _compare(source, made, asked, tolerance or Tolerance())
    return Optimized(target, nodes, folded, compared)


def _write(source: Path, target: Path) -> tuple[tuple[int, int], int]:
    begin("loading the model")
    with tf.Graph().as_default(), tf.Session() as session:
        try:
            loaded = tf.saved_model.loader.load(session, _SERVE, str(source))
        except (OSError, RuntimeError) as exc:
            raise InvalidArgument(f"{source} has no graph for serving: {exc}") from exc
        except tf.errors.OpError as exc:
            raise FailedPrecondition(
                f"{source} cannot be loaded: {reason_of(exc)}"
            ) from exc
        init = _init_op(loaded)
        kept = _signature_nodes(loaded)
        names = sorted({*kept, *([init] if init else []), *_asset_nodes(loaded)})
        before = session.graph.as_graph_def()
        if missing := sorted(set(kept) - {node.name for node in before.node}):
            raise InvalidArgument(
                f"{source} has signatures of tensors that are not in its graph: "
                + ", ".join(missing)
            )
        _read_assets_directly(before, _asset_nodes(loaded))
        frozen = tf.graph_util.convert_variables_to_constants(
            session,
            before,
            names,
        )
    begin("simplifying the graph")
    signatures = _usable(loaded.signature_def)
    simplified = _grappler(frozen, names)
    folded = fold(simplified, names)
    simplified = _grappler(simplified, names)
    assets = _name_assets(simplified, loaded, source)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.import_graph_def(simplified, name="")
        builder = SavedModelBuilder(str(target))
        builder.add_meta_graph_and_variables(
            session,
            list(_SERVE),
            signatures,
            [graph.get_tensor_by_name(name) for name in assets],
            main_op=graph.get_operation_by_name(init) if init else None,
        )
        builder.save()
    return (_size(before), _size(simplified)), folded


def _read_assets_directly(graph: Any, assets: Sequence[str]) -> None:
    """
    Have nodes of *graph* read *assets* themselves, in place.

    Version 2 keeps their paths in variables that the init op assigns.
    """
    named = {_tensor_node(name) for name in assets}
    paths = {
        node.input[0]: node.input[1]
        for node in graph.node
        if node.op == "AssignVariableOp" and _tensor_node(node.input[1]) in named
    }
    for node in graph.node:
        if not node.input or node.input[0] not in paths:
            continue
        controls = [name for name in node.input if name.startswith("^")]
        if node.op == "ReadVariableOp":
            controls.insert(0, paths[node.input[0]])
            node.op = "Identity"
            node.attr["T"].CopyFrom(node.attr["dtype"])
            del node.attr["dtype"]
        elif node.op == "AssignVariableOp":
            node.op = "NoOp"
            node.attr.clear()
        else:
            continue
        del node.input[:]
        node.input.extend(controls)


def _tensor_node(name: str) -> str:
    return name.partition(":")[0]


def _usable(signatures: Any) -> dict[str, Any]:
    return {
        name: signature
        for name, signature in signatures.items()
        if not name.startswith("__saved_model")
    }


def _init_op(meta_graph: Any) -> str:
    for name in _INIT_COLLECTIONS:
        if name in meta_graph.collection_def:
            (operation,) = meta_graph.collection_def[name].node_list.value
            return str(operation)
    if _INIT_SIGNATURE in meta_graph.signature_def:
        (output,) = meta_graph.signature_def[_INIT_SIGNATURE].outputs.values()
        return _tensor_node(output.name)
    return ""


def _signature_nodes(meta_graph: Any) -> list[str]:
    return sorted(
        {
            _tensor_node(name)
            for signature in _usable(meta_graph.signature_def).values()
            for side in (signature.inputs, signature.outputs)
            for info in side.values()
            for name in _tensor_names(info)
        }
    )


def _tensor_names(info: Any) -> Sequence[str]:
    if info.WhichOneof("encoding") == "coo_sparse":
        sparse = info.coo_sparse
        return (
            sparse.indices_tensor_name,
            sparse.values_tensor_name,
            sparse.dense_shape_tensor_name,
        )
    return (info.name,)


def _asset_nodes(meta_graph: Any) -> list[str]:
    return [_tensor_node(asset.tensor_info.name) for asset in _assets(meta_graph)]


def _assets(meta_graph: Any) -> list[Any]:
    """Return the assets; version 1 has them in a collection, version 2 in a field."""
    collected = [
        meta_graph_pb2.AssetFileDef.FromString(any_.value)
        for any_ in meta_graph.collection_def["saved_model_assets"].any_list.value
    ]
    return [*meta_graph.asset_file_def, *collected]


def _name_assets(graph: Any, meta_graph: Any, source: Path) -> list[str]:
    """Have constants name the files that are their assets; return the tensors."""
    files = {
        asset.tensor_info.name: source / "assets" / asset.filename
        for asset in _assets(meta_graph)
    }
    for node in graph.node:
        if f"{node.name}:0" in files:
            path = os.fsencode(files[f"{node.name}:0"])
            node.op = "Const"  # version 2 has placeholders there
            node.attr.clear()
            node.attr["dtype"].type = tf.string.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(path, shape=[]))
    return list(files)


def _grappler(graph: Any, kept: Sequence[str]) -> Any:
    """Return *graph* as TensorFlow's optimizers leave it, with all nodes *kept*."""
    # TensorFlow has no public name for it.
    from tensorflow.python.grappler import tf_optimizer  # noqa: PLC0415

    meta_graph = tf.MetaGraphDef()
    meta_graph.graph_def.CopyFrom(graph)
    fetches = meta_graph.collection_def["train_op"].node_list
    fetches.value.extend(kept)
    config = tf.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.optimizers.extend(_GRAPPLER)
    rewriting.meta_optimizer_iterations = rewriting.TWO
    rewriting.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _size(graph: Any) -> int:
    return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)


def _copy_what_goes_along(source: Path, target: Path) -> None:
    if (source / "assets.extra").is_dir():
        shutil.copytree(source / "assets.extra", target / "assets.extra")
    if (source / "batching_params.pbtxt").is_file():
        shutil.copy(source / "batching_params.pbtxt", target)


def _compare(
    source: Path, made: Path, logs: Sequence[Log], tolerance: Tolerance
) -> int:
    """Compare answers; return how many there were."""
    compared = 0
    begin("asking both models")
    before, after = replay(source, logs), replay(made, logs)
    for log, old, new in zip(logs, before, after, strict=True):
        name = request_of(log).model_spec.signature_name or "serving_default"
        if old.error is not None:
            continue  # what fails anyway tells nothing
        compared += 1
        if new.error is not None:
            unlike = [new.error.message]
        else:
            unlike = list(
                differences(
                    arrays_of(log, old.response),
                    arrays_of(log, new.response),
                    tolerance,
                )
            )
        if unlike:
            raise FailedPrecondition(
                f"the faster model answers otherwise, for signature {name!r}: "
                + "; ".join(unlike)
            )
    return compared
