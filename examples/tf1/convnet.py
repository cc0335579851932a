"""
A convolutional network with batch norm and moving averages, served with JPEG files.

    python -m examples.tf1.convnet BASE_PATH

A script of the time of TensorFlow 1.4; only the import of TensorFlow has changed.
It tells pictures of stripes that lie from those of stripes that stand.
"""

import sys
import tempfile

import numpy as np

from servable.estimator.v1 import tf  # was: import tensorflow as tf

SIZE = 16
DECAY = 0.9


def make_pictures(n, seed):
    """Return uint8 pictures, and 1 for those whose stripes stand."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, 2, n)
    wave = np.sin(
        np.arange(SIZE) * rng.uniform(1.2, 2.0, (n, 1)) + rng.uniform(0, 6, (n, 1))
    )
    lying = np.repeat(wave[:, :, None], SIZE, 2)
    pictures = np.where(labels[:, None, None], lying.transpose(0, 2, 1), lying)
    pictures = 128 + 80 * pictures + rng.normal(0, 20, pictures.shape)
    pictures = np.repeat(pictures.clip(0, 255).astype(np.uint8)[..., None], 3, 3)
    return pictures, labels.astype(np.int64)


def preprocess_image(image, is_training):
    image = tf.image.resize_images(tf.to_float(image), [SIZE, SIZE])
    if is_training:
        image = tf.image.random_brightness(image, 16.0)
    return image / 127.5 - 1.0


def train_input_fn():
    dataset = tf.data.Dataset.from_tensor_slices(make_pictures(256, seed=0))
    dataset = dataset.map(
        lambda image, label: ({"image": preprocess_image(image, True)}, label)
    )
    return dataset.shuffle(256).repeat().batch(32)


def eval_input_fn():
    dataset = tf.data.Dataset.from_tensor_slices(make_pictures(128, seed=1))
    dataset = dataset.map(
        lambda image, label: ({"image": preprocess_image(image, False)}, label)
    )
    return dataset.batch(64)


def model_fn(features, labels, mode, params):
    is_training = mode == tf.estimator.ModeKeys.TRAIN
    net = features["image"]
    for filters in params["filters"]:
        net = tf.layers.conv2d(net, filters, 3, padding="same", use_bias=False)
        net = tf.layers.batch_normalization(net, momentum=DECAY, training=is_training)
        net = tf.nn.relu(net)
        net = tf.layers.max_pooling2d(net, 2, 2)
    logits = tf.layers.dense(tf.layers.flatten(net), 2)
    classes = tf.argmax(logits, 1)

    ema = tf.train.ExponentialMovingAverage(DECAY, tf.train.get_global_step())
    if mode == tf.estimator.ModeKeys.PREDICT:
        export_outputs = {
            "scores": tf.estimator.export.PredictOutput(
                {"logits": logits, "classes": classes}
            )
        }
        # The averages are served, and not what the variables were last.
        saver = tf.train.Saver(ema.variables_to_restore())
        return tf.estimator.EstimatorSpec(
            mode,
            predictions={"classes": classes},
            scaffold=tf.train.Scaffold(saver=saver),
            export_outputs=export_outputs,
        )

    total_loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
    update_ops = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    with tf.control_dependencies(update_ops):
        step = tf.train.MomentumOptimizer(0.02, 0.9).minimize(
            total_loss, global_step=tf.train.get_global_step()
        )
    with tf.control_dependencies([step]):
        train_op = ema.apply(tf.trainable_variables())
    return tf.estimator.EstimatorSpec(
        mode,
        loss=total_loss,
        train_op=train_op,
        eval_metric_ops={"accuracy": tf.metrics.accuracy(labels, classes)},
    )


def decode_image_string_tensor(encoded_image_string_tensor):
    """Decode a string of bytes represent an image Tensor."""
    image_tensor = tf.image.decode_image(encoded_image_string_tensor, channels=3)
    image_tensor.set_shape((None, None, 3))
    return image_tensor


def serving_input_receiver_fn():
    """Parse and preprocess data for serving model."""
    encoded_image_string_tensor = tf.placeholder(
        dtype=tf.string, shape=[None], name="encoded_image_string_tensor"
    )
    receiver_tensors = {"image": encoded_image_string_tensor}
    images = tf.map_fn(
        lambda data: preprocess_image(decode_image_string_tensor(data), False),
        encoded_image_string_tensor,
        back_prop=False,
        dtype=tf.float32,
    )
    return tf.estimator.export.ServingInputReceiver({"image": images}, receiver_tensors)


def main(base_path):
    config = tf.estimator.RunConfig(
        model_dir=tempfile.mkdtemp(), save_checkpoints_steps=50, tf_random_seed=1
    )
    estimator = tf.estimator.Estimator(
        model_fn, config=config, params={"filters": [8, 16]}
    )
    tf.estimator.train_and_evaluate(
        estimator,
        tf.estimator.TrainSpec(train_input_fn, max_steps=80),
        tf.estimator.EvalSpec(eval_input_fn, steps=None),
    )
    print(estimator.evaluate(eval_input_fn))
    print(estimator.export_savedmodel(base_path, serving_input_receiver_fn).decode())


if __name__ == "__main__":
    main(sys.argv[1])
