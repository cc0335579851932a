"""Several heads on one model: their losses added up, each under its name."""

from collections.abc import Sequence
from typing import Any

from servable.estimator.export_outputs import (
    DEFAULT_KEY,
    ExportOutput,
    PredictOutput,
)
from servable.estimator.heads import Head
from servable.estimator.mode_keys import ModeKeys
from servable.export._tensorflow import tf


class MultiHead(Head):
    """
    Heads of different names; logits and labels are dicts by these names.

    Logits may also be one tensor, which is split among the heads in their order.  The
    signatures of a head are served as `NAME/SIGNATURE`, its default one as `NAME`, and
    that of the first head is the model's.

    Args:
        heads: each with a name.
        head_weights: what the loss of each is multiplied by; 1 if not given.

    Raises:
        ValueError: there are no heads, one has no name, or there are other numbers of
            heads and weights.
    """

    def __init__(
        self, heads: Sequence[Head], head_weights: Sequence[float] | None = None
    ) -> None:
        if not heads:
            raise ValueError(f"Must specify heads. Given: {heads}")
        for head in heads:
            if not head.name:
                raise ValueError(
                    f"All given heads must have name specified. Given: {head}"
                )
        if head_weights and len(head_weights) != len(heads):
            raise ValueError(
                "heads and head_weights must have the same size. Given len(heads): "
                f"{len(heads)}. Given len(head_weights): {len(head_weights)}."
            )
        super().__init__(name="_".join(str(head.name) for head in heads))
        self._heads = tuple(heads)
        self._head_weights = tuple(head_weights or [1.0] * len(heads))

    @property
    def logits_dimension(self) -> int:
        """The sum of those of all heads."""
        return sum(head.logits_dimension for head in self._heads)

    def predictions(self, logits: Any) -> dict[Any, Any]:
        """Return the predictions of all heads by (name of the head, name)."""
        return {
            (head.name, key): value
            for head in self._heads
            for key, value in head.predictions(logits[head.name]).items()
        }

    def _judged(
        self, features: Any, mode: str, logits: Any, labels: Any, predictions: Any
    ) -> tuple[Any, dict[str, Any]]:
        labels = self._given(labels)
        if not isinstance(labels, dict):
            raise ValueError(f"labels must be a dict. Given: {labels}")
        self._check_has_all(labels, "labels")
        losses: list[Any] = []
        metrics: dict[str, Any] = {}
        for head, weight in zip(self._heads, self._head_weights, strict=True):
            name = head.name
            loss, of_head = head._judged(
                features, mode, logits[name], labels[name], _of(head, predictions)
            )
            losses.append(loss * weight)
            metrics |= of_head
            if mode == ModeKeys.EVAL:
                metrics[f"loss/{name}"] = tf.metrics.mean(loss)
        return tf.add_n(losses), metrics

    def _all_outputs(self, predictions: dict[Any, Any]) -> dict[str, ExportOutput]:
        outputs: dict[str, ExportOutput] = {}
        for head in self._heads:
            for key, output in head._all_outputs(_of(head, predictions)).items():
                if key == DEFAULT_KEY:
                    outputs.setdefault(DEFAULT_KEY, output)
                    outputs[str(head.name)] = output
                else:
                    outputs[f"{head.name}/{key}"] = output
        outputs["predict"] = PredictOutput(predictions)
        return outputs

    def _checked(self, logits: Any) -> dict[str, Any]:
        if not isinstance(logits, dict):
            logits = self._split(tf.convert_to_tensor(logits))
        self._check_has_all(logits, "logits")
        return {
            str(head.name): head._checked(logits[head.name]) for head in self._heads
        }

    def _split(self, logits: Any) -> dict[str | None, Any]:
        sizes = [head.logits_dimension for head in self._heads]
        total = self.logits_dimension
        if logits.shape.rank is None or logits.shape[-1] != total:
            given = logits.shape.rank and logits.shape[-1]
            shape = logits.shape.as_list() if given else logits.shape
            raise ValueError(
                f"Could not split logits of shape {shape} among the heads with "
                f"individual logits dimensions: {sizes}. The last dimension of the "
                f"logits tensor should equal {given} but is {total}."
            )
        parts = tf.split(logits, sizes, axis=-1)
        return {head.name: part for head, part in zip(self._heads, parts, strict=True)}

    def _check_has_all(self, values: dict[Any, Any], what: str) -> None:
        missing = [head.name for head in self._heads if head.name not in values]
        if missing:
            raise ValueError(f"{what} has missing values for head(s): {missing}")

    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        raise NotImplementedError  # of its heads only

    def _labels(self, labels: Any) -> Any:
        raise NotImplementedError  # of its heads only

    def _losses(self, labels: Any, logits: Any) -> Any:
        raise NotImplementedError  # of its heads only

    def _metrics(self, labels: Any, predictions: dict[str, Any], weights: Any) -> Any:
        raise NotImplementedError  # of its heads only


def _of(head: Head, predictions: dict[Any, Any]) -> dict[str, Any]:
    return {
        key: value for (name, key), value in predictions.items() if name == head.name
    }
