"""
Folding what comes after a convolution into its weights.

A batch normalization in inference, or a product with a constant for each channel, is
the convolution with other weights and a bias.  Only graphs whose weights are
constants can be folded; what does not fit is left as it is.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from servable.export._tensorflow import tf2

_CONVOLUTIONS: Final = frozenset({"Conv2D", "DepthwiseConv2dNative"})
_NORMALIZATIONS: Final = frozenset(
    {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
)
_ADDITIONS: Final = frozenset({"Add", "AddV2", "BiasAdd"})


def fold(graph: Any, kept: Iterable[str]) -> int:
    """
    Fold into the convolutions of *graph*, a GraphDef, in place; return how often.

    Args:
        graph: nodes that are not needed any more stay in it.
        kept: names of nodes whose values are asked for, and must stay what they are.
    """
    return _Folding(graph, frozenset(kept)).run()


class _Folding:
    def __init__(self, graph: Any, kept: frozenset[str]) -> None:
        self._graph = graph
        self._kept = kept
        self._nodes = {node.name: node for node in graph.node}
        self._uses = Counter(_tensor(i) for node in graph.node for i in node.input)

    def run(self) -> int:
        """Fold all there is; what has been folded may be folded again."""
        count = 0
        for node in list(self._graph.node):
            if node.op in _NORMALIZATIONS:
                count += self._fold_normalization(node)
            elif node.op == "Mul":
                count += self._fold_product(node)
            elif node.op in _ADDITIONS:
                self._as_bias(node)
        return count

    def _fold_normalization(self, node: Any) -> bool:
        if node.attr["is_training"].b:
            return False
        if any(self._uses[f"{node.name}:{output}"] for output in range(1, 6)):
            return False
        found = self._convolution_before(node.input[0])
        constants = [self._constant(name) for name in node.input[1:5]]
        if found is None or any(constant is None for constant in constants):
            return False
        gamma, beta, mean, variance = (np.asarray(c, np.float64) for c in constants)
        scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
        if not self._scale(found, scale):
            return False
        shift = beta - mean * scale
        self._become_bias(node, node.input[0], shift, found)
        return True

    def _fold_product(self, node: Any) -> bool:
        for at, other in ((0, 1), (1, 0)):
            found = self._convolution_before(node.input[at])
            factor = self._constant(node.input[other])
            if found is None or factor is None:
                continue
            scale = _per_channel(factor, found)
            if scale is None or not self._scale(found, np.asarray(scale, np.float64)):
                continue
            # The node itself stays, and does nothing, for whoever asks for its name.
            source = node.input[at]
            kind = node.attr["T"].type
            node.op = "Identity"
            del node.input[:]
            node.input.append(source)
            node.attr.clear()
            node.attr["T"].type = kind
            return True
        return False

    def _as_bias(self, node: Any) -> None:
        """Make a sum with a constant for each channel a BiasAdd, which is fused."""
        if node.op == "BiasAdd":
            return
        for at, other in ((0, 1), (1, 0)):
            found = self._convolution_before(node.input[at])
            constant = self._constant(node.input[other])
            if found is None or constant is None:
                continue
            bias = _per_channel(constant, found)
            if bias is not None:
                self._become_bias(node, node.input[at], bias, found)
                return

    def _convolution_before(self, name: str) -> Any | None:
        """Return the convolution that makes *name*, if nobody else uses it."""
        while True:
            if self._uses[_tensor(name)] != 1:
                return None
            node = self._nodes.get(_tensor(name).partition(":")[0])
            if node is None or node.name in self._kept:
                return None
            if node.op in _CONVOLUTIONS:
                return node
            if node.op != "Identity":
                return None
            name = node.input[0]

    def _constant(self, name: str) -> Any | None:
        node = self._nodes.get(_tensor(name).partition(":")[0])
        while node is not None and node.op == "Identity":
            node = self._nodes.get(_tensor(node.input[0]).partition(":")[0])
        if node is None or node.op != "Const":
            return None
        return tf2.make_ndarray(node.attr["value"].tensor)

    def _scale(self, convolution: Any, scale: Any) -> bool:
        """Multiply the weights of *convolution*, for each channel it makes."""
        weights = self._constant(convolution.input[1])
        if weights is None or convolution.input[1].startswith("^"):
            return False
        channels = weights.shape[-1]
        if convolution.op == "DepthwiseConv2dNative":
            channels *= weights.shape[-2]
        if scale.shape != (channels,):
            return False
        if convolution.op == "DepthwiseConv2dNative":
            scale = scale.reshape(weights.shape[-2:])
        made = self._add_constant(
            f"{convolution.name}/folded_weights",
            (weights.astype(np.float64) * scale).astype(weights.dtype),
        )
        convolution.input[1] = made
        return True

    def _become_bias(self, node: Any, source: str, bias: Any, convolution: Any) -> None:
        kind = convolution.attr["T"].type
        dtype = tf2.as_dtype(kind).as_numpy_dtype
        constant = self._add_constant(
            f"{node.name}/folded_bias", np.asarray(bias).astype(dtype).reshape(-1)
        )
        controls = [name for name in node.input if name.startswith("^")]
        node.op = "BiasAdd"
        del node.input[:]
        node.input.extend([source, constant, *controls])
        node.attr.clear()
        node.attr["T"].type = kind
        node.attr["data_format"].s = convolution.attr["data_format"].s or b"NHWC"

    def _add_constant(self, name: str, value: Any) -> str:
        while name in self._nodes:
            name += "_"
        node = self._graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf2.as_dtype(value.dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf2.make_tensor_proto(value))
        self._nodes[name] = node
        self._uses[f"{name}:0"] += 1
        return name


def _tensor(name: str) -> str:
    """Return the name of an input in one form; control inputs are not alike others."""
    return name if name.startswith("^") or ":" in name else f"{name}:0"


def _per_channel(value: Any, convolution: Any) -> Any | None:
    """Return *value*, added to or multiplied with images, as one for each channel."""
    if value.dtype.kind != "f" or not value.shape:
        return None
    data_format = convolution.attr["data_format"].s or b"NHWC"
    shape = (1,) * (4 - value.ndim) + value.shape
    axis = 3 if data_format == b"NHWC" else 1
    if value.ndim > 4 or value.size != shape[axis]:  # noqa: PLR2004 - images
        return None
    return value.reshape(-1)
