"""
Input functions over arrays and data frames.

Batches cross the ends of epochs; the last one may be smaller.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from servable.export._tensorflow import tf, tf2

InputFn = Callable[[], Any]


def numpy_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int = 1000,
    num_threads: int = 1,
) -> InputFn:
    """
    Return an input function over arrays.

    Args:
        x: an array, or a dict of them; the first dimension is that of examples.
        y: labels, in the same form; None for none.
        batch_size: examples in a batch.
        num_epochs: how often to go through the arrays; None for ever.
        shuffle: whether to take examples in a random order.
        queue_capacity: among how many examples the next one is drawn from.
        num_threads: has no effect.

    Returns:
        A function that returns features, or (features, labels), of the forms of x, y.

    Raises:
        ValueError: shuffle is not given, there are no arrays, or their lengths differ.
    """
    del num_threads
    _check_shuffle(shuffle)
    if isinstance(x, Mapping) and not x:
        raise ValueError("x cannot be an empty dict")
    if isinstance(y, Mapping) and not y:
        raise ValueError("y cannot be empty dict, use None instead.")
    if not isinstance(x, Mapping | np.ndarray):
        raise TypeError(f"x must be a dict or array; got {type(x).__name__}")
    _check_lengths(x, y)
    arrays: list[Any] = [
        np.asarray(a) for a in tf2.nest.flatten([x, y]) if a is not None
    ]

    def input_fn() -> Any:
        columns = _batches(arrays, batch_size, num_epochs, shuffle, queue_capacity)
        if y is None:
            return tf2.nest.pack_sequence_as(x, columns)
        features, labels = tf2.nest.pack_sequence_as([x, y], columns)
        return features, labels

    return input_fn


def pandas_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int = 1000,
    num_threads: int = 1,
    target_column: str = "target",
) -> InputFn:
    """
    Return an input function over a data frame *x*, and a series or frame *y* of labels.

    Otherwise as numpy_input_fn; features are a dict of the columns.

    Raises:
        ValueError: as numpy_input_fn; the indices differ, or x has target_column.
    """
    if y is not None:
        if target_column in x:
            raise ValueError(
                f"Cannot use name {target_column} for target column: DataFrame "
                "already has a column with that name: " + str(x.columns)
            )
        if not np.array_equal(x.index, y.index):
            raise ValueError(
                f"Index for x and y are mismatched.\nIndex for x: {x.index}\n"
                f"Index for y: {y.index}\n"
            )
    features = {name: x[name].to_numpy() for name in x.columns}
    labels = None if y is None else y.to_numpy()
    return numpy_input_fn(
        features, labels, batch_size, num_epochs, shuffle, queue_capacity, num_threads
    )


def _check_shuffle(shuffle: Any) -> None:
    if not isinstance(shuffle, bool):
        raise ValueError(
            "shuffle must be provided and explicitly set as boolean (it is recommended "
            f"to set it as True for training); got {shuffle}"
        )


def _check_lengths(x: Any, y: Any) -> None:
    columns = x if isinstance(x, Mapping) else {"x": x}
    labels = {} if y is None else y if isinstance(y, Mapping) else {"y": y}
    both = set(columns) & set(labels) if isinstance(y, Mapping) else set()
    if both:
        raise ValueError(
            f"{len(both)} duplicate keys are found in both x and y: {both}"
        )
    arrays = (*columns.values(), *labels.values())
    if len({array.shape[0] for array in arrays}) > 1:
        raise ValueError(
            "Length of tensors in x and y is mismatched. All elements in x and y must "
            f"have the same length.\nShapes in x: {_shapes(x)}\n"
            f"Shapes in y: {_shapes(y)}\n"
        )


def _shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: array.shape for key, array in value.items()}
    return None if value is None else value.shape


def _batches(
    arrays: list[Any],
    batch_size: int,
    num_epochs: int | None,
    shuffle: bool | None,
    among: int,
) -> list[Any]:
    rows = tf.data.Dataset.range(len(arrays[0]))
    if shuffle:
        rows = rows.shuffle(min(among, len(arrays[0])))
    rows = rows.repeat(num_epochs).batch(batch_size)
    chosen = tf.data.make_one_shot_iterator(rows).get_next()
    types = [
        tf.string if array.dtype == object else tf.as_dtype(array.dtype)
        for array in arrays
    ]
    # The arrays stay in Python: as constants they would be part of the graph.
    columns = tf.numpy_function(
        lambda at: [array[at] for array in arrays], [chosen], types
    )
    for column, array in zip(columns, arrays, strict=True):
        column.set_shape([None, *array.shape[1:]])
    return list(columns)
