"""Heads over classes: one of many, one of two, any number of many."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final

from servable.estimator.export_outputs import (
    ClassificationOutput,
    ExportOutput,
    RegressionOutput,
)
from servable.estimator.heads import (
    SUM_OVER_BATCH_SIZE,
    Head,
    with_last_dimension,
)
from servable.export._tensorflow import tf

_UNKNOWN: Final = "UNK"


class _Classifier(Head):
    """
    A head over classes.

    Args:
        label_vocabulary: the classes' names; without it, their numbers as text.
    """

    _needs_integers: ClassVar = False
    _wrong_length: ClassVar = (
        "Length of label_vocabulary must be n_classes ({n_classes}). Given: {length}"
    )
    # How the area under the curve of precision and recall is summed up.
    _pr_summation: ClassVar = "careful_interpolation"

    def __init__(
        self,
        n_classes: int,
        label_vocabulary: Sequence[Any] | None,
        *options: Any,
        **named: Any,
    ) -> None:
        super().__init__(*options, **named)
        if label_vocabulary is not None:
            if not isinstance(label_vocabulary, list | tuple):
                raise ValueError(
                    "label_vocabulary should be a list or a tuple. "
                    f"Given type: {type(label_vocabulary)}"
                )
            if len(label_vocabulary) != n_classes:
                raise ValueError(
                    self._wrong_length.format(
                        length=len(label_vocabulary),
                        n_classes=n_classes,
                        label_vocabulary=label_vocabulary,
                    )
                )
        self._n_classes = n_classes
        self._label_vocabulary = label_vocabulary

    def _class_names(self) -> list[Any]:
        return list(self._label_vocabulary or map(str, range(self._n_classes)))

    def _all_classes(self, batch_size: Any) -> Any:
        names = tf.expand_dims(tf.constant(self._class_names(), tf.string), 0)
        return tf.tile(names, [batch_size, 1])

    def _class_predictions(self, logits: Any, scores: Any) -> dict[str, Any]:
        class_ids = tf.expand_dims(tf.argmax(scores, -1), -1)
        batch_size = tf.shape(logits)[0]
        all_ids = tf.expand_dims(tf.range(self._n_classes, dtype=tf.int32), 0)
        return {
            "class_ids": class_ids,
            "classes": self._names_of(class_ids),
            "all_class_ids": tf.tile(all_ids, [batch_size, 1]),
            "all_classes": self._all_classes(batch_size),
        }

    def _names_of(self, class_ids: Any) -> Any:
        if self._label_vocabulary is None:
            return tf.as_string(class_ids, name="str_classes")
        ids = tf.range(self._n_classes, dtype=tf.int64)
        names = tf.constant(list(self._label_vocabulary), tf.string)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(ids, names), _UNKNOWN
        )
        return table.lookup(class_ids)

    def _ids_of(self, labels: Any) -> Any:
        if labels.dtype != tf.string:
            raise ValueError(
                "Labels dtype should be string if there is a vocabulary. "
                f"Instead got {labels.dtype}"
            )
        ids = tf.range(self._n_classes, dtype=tf.int64)
        names = tf.constant(self._class_names(), tf.string)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(names, ids), -1
        )
        return table.lookup(labels)

    def _labels(self, labels: Any) -> Any:
        labels = with_last_dimension(labels, 1)
        if self._label_vocabulary is not None:
            labels = self._ids_of(labels)
        elif self._needs_integers and not labels.dtype.is_integer:
            raise ValueError(
                f"Labels dtype should be integer. Instead got {labels.dtype}."
            )
        labels = tf.cast(labels, tf.int64)
        in_range = [
            tf.debugging.assert_less(
                labels,
                tf.constant(self._n_classes, tf.int64),
                message=f"Labels must be less than n_classes ({self._n_classes})",
            ),
            tf.debugging.assert_non_negative(labels, message="Labels must be >= 0"),
        ]
        with tf.control_dependencies(in_range):
            return tf.identity(labels)

    def _classification(self, predictions: dict[str, Any]) -> ClassificationOutput:
        scores = predictions["probabilities"]
        return ClassificationOutput(
            scores=scores, classes=self._all_classes(tf.shape(scores)[0])
        )


class MultiClassHead(_Classifier):
    """
    One of more than two classes, by softmax.

    Raises:
        ValueError: there are too few classes, or names for another number of them.
    """

    _needs_integers = True
    _wrong_length = (
        '"label_vocabulary" does not have "n_classes" items. '
        "len(label_vocabulary)={length}, n_classes={n_classes}, "
        "label_vocabulary={label_vocabulary}"
    )

    def __init__(
        self,
        n_classes: int | None,
        weight_column: Any = None,
        label_vocabulary: Sequence[Any] | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        if n_classes is None:
            raise ValueError("n_classes cannot be None")
        if n_classes <= 2:  # noqa: PLR2004 - two are binary
            raise ValueError(f"n_classes must be > 2: {n_classes}.")
        super().__init__(
            n_classes, label_vocabulary, weight_column, loss_reduction, loss_fn, name
        )

    @property
    def logits_dimension(self) -> int:
        """One logit for each class."""
        return self._n_classes

    def predictions(self, logits: Any) -> dict[str, Any]:
        """Return logits, probabilities and classes."""
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits, name="probabilities"),
            **self._class_predictions(logits, logits),
        }

    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        return {"classification": self._classification(predictions)}

    def _losses(self, labels: Any, logits: Any) -> Any:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.squeeze(labels, -1), logits=logits
        )
        return tf.expand_dims(losses, -1)

    def _metrics(self, labels: Any, predictions: dict[str, Any], weights: Any) -> Any:
        ids = predictions["class_ids"]
        return {"accuracy": tf.metrics.accuracy(labels, ids, weights)}


class BinaryClassHead(_Classifier):
    """
    One of two classes, by a logistic function of one logit.

    Raises:
        ValueError: there are names for another number of classes.
    """

    def __init__(
        self,
        weight_column: Any = None,
        thresholds: Sequence[float] | None = None,
        label_vocabulary: Sequence[Any] | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            2, label_vocabulary, weight_column, loss_reduction, loss_fn, name
        )
        self._thresholds = tuple(thresholds or ())
        if not all(0 < threshold < 1 for threshold in self._thresholds):
            raise ValueError(f"thresholds not in (0, 1): {(self._thresholds,)}.")

    @property
    def logits_dimension(self) -> int:
        """One, that of the second class."""
        return 1

    def predictions(self, logits: Any) -> dict[str, Any]:
        """Return logits, the logistic, probabilities and classes."""
        logistic = tf.sigmoid(logits, name="logistic")
        two_logits = tf.concat([tf.zeros_like(logits), logits], -1, "two_class_logits")
        return {
            "logits": logits,
            "logistic": logistic,
            "probabilities": tf.nn.softmax(two_logits, name="probabilities"),
            **self._class_predictions(logits, two_logits),
        }

    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        return {
            "classification": self._classification(predictions),
            "regression": RegressionOutput(predictions["logistic"]),
        }

    def _losses(self, labels: Any, logits: Any) -> Any:
        return tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.cast(labels, logits.dtype), logits=logits
        )

    def _metrics(self, labels: Any, predictions: dict[str, Any], weights: Any) -> Any:
        ids, logistic = predictions["class_ids"], predictions["logistic"]
        mean = tf.metrics.mean(labels, weights)
        metrics = {
            "accuracy": tf.metrics.accuracy(labels, ids, weights),
            "precision": tf.metrics.precision(labels, ids, weights),
            "recall": tf.metrics.recall(labels, ids, weights),
            "prediction/mean": tf.metrics.mean(logistic, weights),
            "label/mean": mean,
            "accuracy_baseline": (tf.maximum(mean[0], 1 - mean[0]), mean[1]),
            **_areas(labels, logistic, weights, self._pr_summation),
        }
        return metrics | _at_thresholds(self._thresholds, labels, logistic, weights)


class MultiLabelHead(_Classifier):
    """
    Any number of the classes at once, by a logistic function of each logit.

    Args:
        thresholds: from which probability on a class counts, for metrics at each.
        classes_for_class_based_metrics: ids or names of classes that get metrics of
            their own.

    Raises:
        ValueError: there are too few classes, names for another number of them, or a
            threshold or class is out of range.
    """

    def __init__(
        self,
        n_classes: int,
        weight_column: Any = None,
        thresholds: Sequence[float] | None = None,
        label_vocabulary: Sequence[Any] | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        classes_for_class_based_metrics: Any = None,
        name: str | None = None,
    ) -> None:
        if not n_classes or n_classes <= 1:
            raise ValueError(
                "n_classes must be > 1 for multi-label classification. "
                f"Given: {n_classes}"
            )
        super().__init__(
            n_classes, label_vocabulary, weight_column, loss_reduction, loss_fn, name
        )
        self._thresholds = tuple(thresholds or ())
        for threshold in self._thresholds:
            if not 0 < threshold < 1:
                raise ValueError(
                    f"thresholds must be in (0, 1) range. Given: {threshold}"
                )
        self._judged_classes = [
            self._class_id(chosen) for chosen in classes_for_class_based_metrics or ()
        ]

    @property
    def logits_dimension(self) -> int:
        """One logit for each class."""
        return self._n_classes

    def predictions(self, logits: Any) -> dict[str, Any]:
        """Return logits and the probability of each class."""
        return {
            "logits": logits,
            "probabilities": tf.sigmoid(logits, name="probabilities"),
            "classes": self._all_classes(tf.shape(logits)[0]),
        }

    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        return {"classification": self._classification(predictions)}

    def _labels(self, labels: Any) -> Any:
        if isinstance(labels, tf.SparseTensor):
            indices = labels.values
            if self._label_vocabulary is not None:
                indices = self._ids_of(indices)
            sparse = tf.SparseTensor(labels.indices, indices, labels.dense_shape)
            return tf.cast(tf.sparse_to_indicator(sparse, self._n_classes), tf.float32)
        return with_last_dimension(tf.cast(labels, tf.float32), self._n_classes)

    def _losses(self, labels: Any, logits: Any) -> Any:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        return tf.reduce_mean(losses, -1, keepdims=True)

    def _metrics(self, labels: Any, predictions: dict[str, Any], weights: Any) -> Any:
        scores = predictions["probabilities"]
        metrics = {
            **_areas(labels, scores, weights, self._pr_summation),
            **_at_thresholds(self._thresholds, labels, scores, weights),
        }
        for class_id in self._judged_classes:
            of_class = slice(class_id, class_id + 1)
            its_labels, its_scores = labels[:, of_class], scores[:, of_class]
            areas = _areas(its_labels, its_scores, weights, self._pr_summation)
            name = (
                f"class{class_id}"
                if self._label_vocabulary is None
                else self._label_vocabulary[class_id]
            )
            metrics[f"probability_mean/{name}"] = tf.metrics.mean(its_scores, weights)
            metrics |= {f"{key}/{name}": area for key, area in areas.items()}
        return metrics

    def _class_id(self, chosen: Any) -> int:
        if isinstance(chosen, str):
            if self._label_vocabulary is None:
                raise ValueError(
                    "label_vocabulary must be provided when "
                    "classes_for_class_based_metrics are strings."
                )
            return list(self._label_vocabulary).index(chosen)
        if not 0 <= chosen < self._n_classes:
            raise ValueError(
                "All classes_for_class_based_metrics must be in range "
                f"[0, {self._n_classes - 1}]. Given: {chosen}"
            )
        return int(chosen)


def _areas(labels: Any, scores: Any, weights: Any, pr_summation: str) -> dict[str, Any]:
    return {
        "auc": tf.metrics.auc(labels, scores, weights),
        "auc_precision_recall": tf.metrics.auc(
            labels, scores, weights, curve="PR", summation_method=pr_summation
        ),
    }


def _at_thresholds(
    thresholds: Iterable[float], labels: Any, scores: Any, weights: Any
) -> dict[str, Any]:
    metrics = {}
    truths = tf.cast(labels, tf.int64)
    weights = tf.broadcast_to(weights, tf.shape(truths))
    for threshold in thresholds:
        above = tf.cast(scores > threshold, tf.int64)
        for name, metric in (
            ("accuracy", tf.metrics.accuracy),
            ("precision", tf.metrics.precision),
            ("recall", tf.metrics.recall),
        ):
            key = f"{name}/positive_threshold_{threshold:g}"
            metrics[key] = metric(truths, above, weights)
    return metrics
