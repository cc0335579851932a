"""
The functions of `tf.layers` that model functions of TensorFlow 1 call most.

TensorFlow with Keras 3 has none.  Variables get the names they always had (`dense`,
`dense_1`, …, with `kernel`, `bias`, `gamma`, `beta`, `moving_mean` and
`moving_variance` in them), so old checkpoints fit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from servable.export._tensorflow import tf, tf2

Function = Callable[..., Any]

_NAMES: Final = {"channels_last": "NHWC", "channels_first": "NCHW"}
_SPATIAL_RANK: Final = 4
_THERE: Final = (
    "average_pooling2d",
    "batch_normalization",
    "conv2d",
    "dense",
    "dropout",
    "flatten",
    "max_pooling2d",
)


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"tf.layers.{name} is not here: of tf.layers there are {', '.join(_THERE)}; "
        "tf_keras has all of them, with TF_USE_LEGACY_KERAS=1"
    )


def dense(
    inputs: Any,
    units: int,
    activation: Function | str | None = None,
    use_bias: bool = True,
    kernel_initializer: Any = None,
    bias_initializer: Any = None,
    kernel_regularizer: Function | None = None,
    bias_regularizer: Function | None = None,
    activity_regularizer: Function | None = None,
    kernel_constraint: Function | None = None,
    bias_constraint: Function | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> Any:
    """Return *inputs* times a kernel of [features, *units*], plus a bias."""
    inputs = tf.convert_to_tensor(inputs)
    size = _known(inputs.shape[-1], "dense", "the last dimension")
    with _scope(name, "dense", reuse):
        kernel = _variable(
            "kernel",
            [size, int(units)],
            inputs.dtype,
            trainable,
            kernel_initializer,
            kernel_regularizer,
            kernel_constraint,
        )
        if inputs.shape.rank == 2:  # noqa: PLR2004 - a matrix
            outputs = tf.matmul(inputs, kernel)
        else:
            outputs = tf.tensordot(inputs, kernel, [[inputs.shape.rank - 1], [0]])
        if use_bias:
            bias = _variable(
                "bias",
                [int(units)],
                inputs.dtype,
                trainable,
                bias_initializer or tf.zeros_initializer(),
                bias_regularizer,
                bias_constraint,
            )
            outputs = tf.nn.bias_add(outputs, bias)
        return _finished(outputs, activation, activity_regularizer)


def conv2d(
    inputs: Any,
    filters: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = (1, 1),
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: int | Sequence[int] = (1, 1),
    activation: Function | str | None = None,
    use_bias: bool = True,
    kernel_initializer: Any = None,
    bias_initializer: Any = None,
    kernel_regularizer: Function | None = None,
    bias_regularizer: Function | None = None,
    activity_regularizer: Function | None = None,
    kernel_constraint: Function | None = None,
    bias_constraint: Function | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> Any:
    """Return *inputs*, images, convolved with *filters* kernels, plus a bias."""
    inputs = tf.convert_to_tensor(inputs)
    at = _channel_axis(data_format)
    channels = _known(inputs.shape[at], "conv2d", "the number of channels")
    with _scope(name, "conv2d", reuse):
        kernel = _variable(
            "kernel",
            [*_pair(kernel_size), channels, filters],
            inputs.dtype,
            trainable,
            kernel_initializer,
            kernel_regularizer,
            kernel_constraint,
        )
        outputs = tf2.nn.conv2d(
            inputs,
            kernel,
            list(_pair(strides)),
            padding.upper(),
            _NAMES[data_format],
            list(_pair(dilation_rate)),
        )
        if use_bias:
            bias = _variable(
                "bias",
                [filters],
                inputs.dtype,
                trainable,
                bias_initializer or tf.zeros_initializer(),
                bias_regularizer,
                bias_constraint,
            )
            outputs = tf.nn.bias_add(outputs, bias, _NAMES[data_format])
        return _finished(outputs, activation, activity_regularizer)


def max_pooling2d(
    inputs: Any,
    pool_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str = "valid",
    data_format: str = "channels_last",
    name: str | None = None,
) -> Any:
    """Return the largest value of each window of *inputs*, images."""
    return _pooled(
        tf2.nn.max_pool2d, inputs, pool_size, strides, padding, data_format, name
    )


def average_pooling2d(
    inputs: Any,
    pool_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str = "valid",
    data_format: str = "channels_last",
    name: str | None = None,
) -> Any:
    """Return the mean of each window of *inputs*, images."""
    return _pooled(
        tf2.nn.avg_pool2d, inputs, pool_size, strides, padding, data_format, name
    )


def batch_normalization(
    inputs: Any,
    axis: int | Sequence[int] = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    center: bool = True,
    scale: bool = True,
    beta_initializer: Any = None,
    gamma_initializer: Any = None,
    moving_mean_initializer: Any = None,
    moving_variance_initializer: Any = None,
    beta_regularizer: Function | None = None,
    gamma_regularizer: Function | None = None,
    beta_constraint: Function | None = None,
    gamma_constraint: Function | None = None,
    training: Any = False,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
    renorm: bool = False,
    fused: bool | None = None,
) -> Any:
    """
    Return *inputs* with mean and variance of each channel made 0 and 1, then scaled.

    In training those of the batch are used, and the moving ones are updated by
    operations in the collection UPDATE_OPS.

    *training* is a bool or a boolean tensor.  The variance that is remembered of images
    is that of a sample, unless *fused* is False.

    Raises:
        NotImplementedError: renorm is asked for.
    """
    if renorm:
        raise NotImplementedError("batch_normalization with renorm=True")
    inputs = tf.convert_to_tensor(inputs)
    rank = inputs.shape.rank
    (given,) = (axis,) if isinstance(axis, int) else axis
    at: int = given % rank
    size = _known(inputs.shape[at], "batch_normalization", f"dimension {at}")
    kind = tf.float32 if inputs.dtype == tf.float16 else inputs.dtype
    with _scope(name, "batch_normalization", reuse):
        ones, zeros = tf.ones_initializer(), tf.zeros_initializer()
        gamma = tf.ones([size], kind)
        if scale:
            gamma = _variable(
                "gamma",
                [size],
                kind,
                trainable,
                gamma_initializer or ones,
                gamma_regularizer,
                gamma_constraint,
            )
        beta = tf.zeros([size], kind)
        if center:
            beta = _variable(
                "beta",
                [size],
                kind,
                trainable,
                beta_initializer or zeros,
                beta_regularizer,
                beta_constraint,
            )
        # What is assigned to, and not trained, is never partitioned.
        tf.get_variable_scope().set_partitioner(None)
        mean = _variable(
            "moving_mean", [size], kind, False, moving_mean_initializer or zeros
        )
        variance = _variable(
            "moving_variance", [size], kind, False, moving_variance_initializer or ones
        )
        if rank == _SPATIAL_RANK and at in (1, 3) and fused is not False:
            outputs, batch_mean, batch_variance = _fused(
                inputs, at, gamma, beta, mean, variance, epsilon, training
            )
        else:
            outputs, batch_mean, batch_variance = _by_moments(
                inputs, at, gamma, beta, mean, variance, epsilon, training
            )
        if trainable:
            _update_moving(mean, batch_mean, momentum, training)
            _update_moving(variance, batch_variance, momentum, training)
        return outputs


def dropout(
    inputs: Any,
    rate: Any = 0.5,
    noise_shape: Any = None,
    seed: int | None = None,
    training: Any = False,
    name: str | None = None,
) -> Any:
    """Return *inputs*, in training with a share *rate* of its values set to 0."""
    return _in_training(
        training,
        lambda: tf2.nn.dropout(inputs, rate, noise_shape, seed, name or "dropout"),
        lambda: tf.identity(inputs),
    )


def flatten(
    inputs: Any, name: str | None = None, data_format: str = "channels_last"
) -> Any:
    """Return *inputs* with all dimensions but the first made one."""
    inputs = tf.convert_to_tensor(inputs)
    with tf.name_scope(name or "flatten"):
        if data_format == "channels_first" and (inputs.shape.rank or 0) > 2:  # noqa: PLR2004
            channels_last = [0, *range(2, inputs.shape.rank), 1]
            inputs = tf.transpose(inputs, channels_last)
        size = inputs.shape[1:].num_elements()
        if size is None:
            return tf.reshape(inputs, [tf.shape(inputs)[0], -1])
        return tf.reshape(inputs, [-1, size])


def _scope(name: Any, default_name: str, reuse: Any) -> Any:
    # Operations of a scope that is entered already have its name once.
    is_entered = name is not None and name is tf.get_variable_scope()
    return tf.variable_scope(
        name,
        default_name=default_name,
        reuse=reuse,
        auxiliary_name_scope=not is_entered,
    )


def _variable(
    name: str,
    shape: Sequence[int],
    kind: Any,
    trainable: bool,
    initializer: Any = None,
    regularizer: Function | None = None,
    constraint: Function | None = None,
) -> Any:
    return tf.get_variable(
        name,
        shape,
        kind,
        initializer=initializer,
        regularizer=regularizer,
        constraint=constraint,
        trainable=trainable,
    )


def _finished(
    outputs: Any, activation: Function | str | None, regularizer: Function | None
) -> Any:
    if isinstance(activation, str):
        activation = None if activation == "linear" else getattr(tf.nn, activation)
    if activation is not None:
        outputs = activation(outputs)
    if regularizer is not None:
        loss = regularizer(outputs)
        tf.add_to_collection(tf.GraphKeys.REGULARIZATION_LOSSES, loss)
    return outputs


def _pooled(
    pool: Function,
    inputs: Any,
    size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str,
    data_format: str,
    name: str | None,
) -> Any:
    return pool(
        inputs,
        list(_pair(size)),
        list(_pair(strides)),
        padding.upper(),
        _NAMES[data_format],
        name,
    )


def _fused(
    inputs: Any,
    axis: int,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    training: Any,
) -> Any:
    data_format = "NHWC" if axis == _SPATIAL_RANK - 1 else "NCHW"
    options = {"epsilon": epsilon, "data_format": data_format}
    return _in_training(
        training,
        lambda: tf.nn.fused_batch_norm(
            inputs, gamma, beta, is_training=True, **options
        ),
        lambda: tf.nn.fused_batch_norm(
            inputs,
            gamma,
            beta,
            mean=mean,
            variance=variance,
            is_training=False,
            **options,
        ),
    )


def _by_moments(
    inputs: Any,
    axis: int,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    training: Any,
) -> Any:
    others = [at for at in range(inputs.shape.rank) if at != axis]
    used = _in_training(
        training,
        lambda: tf.nn.moments(inputs, others),
        lambda: (tf.identity(mean), tf.identity(variance)),
    )
    shape = [1] * inputs.shape.rank
    shape[axis] = -1
    spread = [tf.reshape(t, shape) for t in (*used, beta, gamma)]
    return tf.nn.batch_normalization(inputs, *spread, epsilon), *used


def _update_moving(moving: Any, value: Any, momentum: float, training: Any) -> None:
    if tf.get_static_value(training) is False or training in (False, 0):
        return
    share = _in_training(
        training, lambda: tf.constant(1.0 - momentum), lambda: tf.constant(0.0)
    )
    share = tf.cast(share, moving.dtype.base_dtype)
    update = tf.assign_sub(moving, (moving - value) * share, name="AssignMovingAvg")
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)


def _in_training(training: Any, yes: Function, no: Function) -> Any:
    known = tf.get_static_value(training) if tf.is_tensor(training) else training
    if known is None:
        return tf.cond(tf.cast(training, tf.bool), yes, no)
    return yes() if known else no()


def _channel_axis(data_format: str) -> int:
    return 1 if data_format == "channels_first" else -1


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return height, width


def _known(size: Any, function: str, what: str) -> int:
    known = tf.dimension_value(size)
    if known is None:
        raise ValueError(f"{function}: {what} of inputs must be known")
    return int(known)
