"""
Session bundles, the format before SavedModel, as far as they are converted.

What they say of themselves is in collections of their MetaGraphDef, as messages that
TensorFlow has forgotten; they are described here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from servable.errors import DataLoss, InvalidArgument
from servable.export._tensorflow import tf
from servable.export.reasons import reason_of
from servable.export.requests import CLASSIFY, PREDICT, REGRESS
from servable.export.saved_model_builder import SavedModelBuilder
from servable.export.signatures import DEFAULT

META_GRAPH: Final = "export.meta"
_PACKAGE: Final = "tensorflow.serving"
_STRING, _MESSAGE = 9, 11
_OPTIONAL, _REPEATED = 1, 3

# Message: field number, name, and the message that it is; "" for text, "*" for a map.
_MESSAGES: Final[Mapping[str, tuple[tuple[int, str, str], ...]]] = {
    "TensorBinding": ((1, "tensor_name", ""),),
    "AssetFile": ((1, "tensor_binding", "TensorBinding"), (2, "filename", "")),
    "RegressionSignature": (
        (1, "input", "TensorBinding"),
        (2, "output", "TensorBinding"),
    ),
    "ClassificationSignature": (
        (1, "input", "TensorBinding"),
        (2, "classes", "TensorBinding"),
        (3, "scores", "TensorBinding"),
    ),
    "GenericSignature": ((1, "map", "*TensorBinding"),),
    "Signature": (
        (1, "regression_signature", "RegressionSignature"),
        (2, "classification_signature", "ClassificationSignature"),
        (3, "generic_signature", "GenericSignature"),
    ),
    "Signatures": (
        (1, "default_signature", "Signature"),
        (2, "named_signatures", "*Signature"),
    ),
}


def message_class(name: str) -> Any:
    """Return the class of one of the messages that session bundles have."""
    return _CLASSES[f"{_PACKAGE}.{name}"]


def _classes() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="session_bundle_manifest.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            _add_field(message, number, field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)


def _add_field(message: Any, number: int, name: str, kind: str) -> None:
    if not kind:
        message.field.add(name=name, number=number, type=_STRING, label=_OPTIONAL)
        return
    full = f".{_PACKAGE}.{kind.removeprefix('*')}"
    if kind.startswith("*"):
        # A map is a repeated message of a key and a value.
        entry = message.nested_type.add(name=_entry_name(name))
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_STRING, label=_OPTIONAL)
        entry.field.add(
            name="value", number=2, type=_MESSAGE, type_name=full, label=_OPTIONAL
        )
        full = f".{_PACKAGE}.{message.name}.{entry.name}"
    message.field.add(
        name=name,
        number=number,
        type=_MESSAGE,
        type_name=full,
        label=_REPEATED if kind.startswith("*") else _OPTIONAL,
    )


def _entry_name(field: str) -> str:
    return "".join(part.capitalize() for part in field.split("_")) + "Entry"


_CLASSES: Final = _classes()


@dataclass(frozen=True, slots=True)
class _Manifest:
    signatures: Any
    assets: Mapping[str, str]  # file names by tensor
    init_op: str


def convert_session_bundle(bundle: Path, target: Path) -> None:
    """
    Write the session bundle *bundle* as a SavedModel at *target*, an empty directory.

    Raises:
        DataLoss: it is damaged.
        InvalidArgument: it has no signature that can be served.
    """
    meta_graph = tf.MetaGraphDef()
    try:
        meta_graph.ParseFromString((bundle / META_GRAPH).read_bytes())
        manifest = _manifest(meta_graph)
    except DecodeError as exc:
        raise DataLoss(f"{bundle / META_GRAPH} is damaged: {exc}") from None
    for node in meta_graph.graph_def.node:
        file = manifest.assets.get(f"{node.name}:0")
        if file is not None and node.op == "Const":
            path = os.fsencode(bundle / "assets" / file)
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(path, shape=[]))
    for name in ("serving_signatures", "serving_assets", "serving_init_op"):
        meta_graph.collection_def.pop(name, None)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.train.import_meta_graph(meta_graph, clear_devices=True)
        signatures = signature_defs(manifest.signatures, graph)
        if not signatures:
            raise InvalidArgument(f"{bundle} has no signature that can be served")
        _restore(session, meta_graph.saver_def, bundle)
        builder = SavedModelBuilder(str(target))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signatures,
            [graph.get_tensor_by_name(name) for name in manifest.assets],
            main_op=(
                graph.get_operation_by_name(manifest.init_op)
                if manifest.init_op
                else None
            ),
        )
        builder.save()


def _manifest(meta_graph: Any) -> _Manifest:
    collections = meta_graph.collection_def
    signatures = message_class("Signatures")()
    for value in collections["serving_signatures"].any_list.value:
        signatures.MergeFromString(value.value)
    assets = {}
    for value in collections["serving_assets"].any_list.value:
        asset = message_class("AssetFile").FromString(value.value)
        assets[asset.tensor_binding.tensor_name] = asset.filename
    init = list(collections["serving_init_op"].node_list.value)
    return _Manifest(signatures, assets, init[0] if init else "")


def _restore(session: Any, saver_def: Any, bundle: Path) -> None:
    sharded = any(bundle.glob("export-?????-of-?????"))
    path = bundle / ("export-?????-of-?????" if sharded else "export")
    try:
        session.run(
            saver_def.restore_op_name, {saver_def.filename_tensor_name: str(path)}
        )
    except tf.errors.OpError as exc:
        raise DataLoss(
            f"the variables of {bundle} cannot be read: {reason_of(exc)}"
        ) from exc


def signature_defs(signatures: Any, graph: Any) -> dict[str, Any]:
    """
    Return SignatureDefs that do what the *signatures* of a session bundle do.

    The default one is `serving_default`; the generic ones called `inputs` and
    `outputs` together are a predict signature, and the default if there is no other.
    """
    made = {}
    for name, signature in signatures.named_signatures.items():
        if not signature.HasField("generic_signature"):
            made[name] = _signature_def(signature, graph)
    if signatures.HasField("default_signature"):
        made[DEFAULT] = _signature_def(signatures.default_signature, graph)
    named = signatures.named_signatures
    if "inputs" in named and "outputs" in named:
        made[DEFAULT if DEFAULT not in made else "predict"] = _build(
            dict(named["inputs"].generic_signature.map),
            dict(named["outputs"].generic_signature.map),
            PREDICT,
            graph,
        )
    return {name: signature for name, signature in made.items() if signature}


def _signature_def(signature: Any, graph: Any) -> Any:
    if signature.HasField("regression_signature"):
        kind = signature.regression_signature
        return _build({"inputs": kind.input}, {"outputs": kind.output}, REGRESS, graph)
    if signature.HasField("classification_signature"):
        kind = signature.classification_signature
        outputs = {"classes": kind.classes, "scores": kind.scores}
        return _build({"inputs": kind.input}, outputs, CLASSIFY, graph)
    return None


def _build(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str, graph: Any
) -> Any:
    def infos(bindings: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            name: tf.saved_model.utils.build_tensor_info(
                graph.get_tensor_by_name(binding.tensor_name)
            )
            for name, binding in bindings.items()
            if binding.tensor_name
        }

    return tf.saved_model.build_signature_def(infos(inputs), infos(outputs), method)
