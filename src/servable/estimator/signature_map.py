"""
Which signatures an exported model has, and which are left out, and why.

A signature is left out, never an error: because its requests cannot be fed to the
receiver, because it needs a placeholder that nobody feeds, or because no server would
take it.  The log says so.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from servable.estimator.export_outputs import (
    DEFAULT_KEY,
    EvalOutput,
    ExportOutput,
    TrainOutput,
    with_default,
)
from servable.estimator.mode_keys import ModeKeys
from servable.estimator.receivers import named_receivers
from servable.export._tensorflow import tf

_logger = logging.getLogger(__name__)


def signature_map(spec: Any, receiver: Any, mode: str) -> dict[str, Any]:
    """
    Return the SignatureDefs, by name, of the model *spec* behind *receiver*.

    *mode* is that of the export: in PREDICT mode no signature stays that no server
    would take, whichever mode *spec* is of.

    Raises:
        TypeError: export_outputs is no dict of ExportOutputs.
        ValueError: there are several outputs, and none of them is the default.
    """
    alternatives = getattr(receiver, "receiver_tensors_alternatives", None) or {}
    outputs = outputs_of(spec)
    made: dict[str, Any] = {}
    excluded: dict[str, str] = {}
    for prefix, tensors in [
        ("", receiver.receiver_tensors),
        *((f"{name or 'None'}:", tensors) for name, tensors in alternatives.items()),
    ]:
        named = named_receivers(tensors)
        for key, output in outputs.items():
            name = f"{prefix}{key or 'None'}"
            try:
                made[name] = _signature(output, named)
            except ValueError as exc:
                excluded[name] = str(exc)
    if mode == ModeKeys.PREDICT:
        is_valid = tf.saved_model.is_valid_signature
        for name in [name for name, made_def in made.items() if not is_valid(made_def)]:
            excluded[name] = "no request could be made to it"
            del made[name]
        _log(made, excluded)
    return made


def outputs_of(spec: Any) -> Mapping[Any, ExportOutput]:
    """Return what the model offers in the mode of *spec*, by signature key."""
    if spec.mode == ModeKeys.PREDICT:
        outputs: Mapping[Any, ExportOutput] = with_default(
            spec.export_outputs, spec.predictions
        )
        return outputs
    kind = TrainOutput if spec.mode == ModeKeys.TRAIN else EvalOutput
    output = kind(
        loss=spec.loss, predictions=spec.predictions, metrics=spec.eval_metric_ops
    )
    return {spec.mode: output}


def _signature(output: ExportOutput, receiver_tensors: Mapping[str, Any]) -> Any:
    signature = output.as_signature_def(receiver_tensors)
    graph = tf.get_default_graph()
    outputs = [
        graph.as_graph_element(name).op
        for info in signature.outputs.values()
        for name in _tensor_names(info)
    ]
    unfed = _unfed_placeholders(outputs, _operations(receiver_tensors.values()))
    if unfed:
        raise ValueError(
            "it needs placeholders that are not among its inputs: "
            + ", ".join(sorted(unfed))
        )
    return signature


def _tensor_names(info: Any) -> Iterable[str]:
    if info.WhichOneof("encoding") == "coo_sparse":
        return (
            info.coo_sparse.indices_tensor_name,
            info.coo_sparse.values_tensor_name,
            info.coo_sparse.dense_shape_tensor_name,
        )
    return (info.name,)


def _operations(tensors: Iterable[Any]) -> set[Any]:
    components = tf.nest.flatten(list(tensors), expand_composites=True)
    return {component.op for component in components}


def _unfed_placeholders(outputs: Iterable[Any], fed: set[Any]) -> set[str]:
    """
    Return the placeholders that *outputs* are computed from beyond those *fed*.

    What they only wait for, as control inputs, does not count, as it never did.
    """
    unfed = set()
    seen = set(fed)
    waiting = [operation for operation in outputs if operation not in seen]
    while waiting:
        operation = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        if operation.type == "Placeholder":
            unfed.add(operation.name)
        waiting.extend(tensor.op for tensor in operation.inputs)
    return unfed


def _log(made: Mapping[str, Any], excluded: Mapping[str, str]) -> None:
    for name, signature in made.items():
        _logger.info("Signature %s: %s", name, signature.method_name)
    for name, reason in excluded.items():
        _logger.info("Signature %s is left out: %s", name, reason)
    if not made:
        _logger.warning("Export includes no signatures!")
    elif DEFAULT_KEY not in made:
        _logger.warning("Export includes no default signature!")
