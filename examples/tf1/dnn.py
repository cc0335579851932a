"""
A classifier of flowers by a model_fn of dense layers, from training to a version.

    python -m examples.tf1.dnn BASE_PATH

A script of the time of TensorFlow 1.4; only the import of TensorFlow has changed.
"""

import sys
import tempfile

import numpy as np

from servable.estimator.v1 import tf  # was: import tensorflow as tf

CLASSES = ["setosa", "versicolor", "virginica"]
CENTERS = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]])


def make_data(n, seed):
    """Return flowers that scatter around the centers, and which kind each is."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, len(CLASSES), n)
    x = CENTERS[labels] + rng.normal(0, 0.25, (n, 4))
    return {"measures": x.astype(np.float32)}, labels.astype(np.int64)


def model_fn(features, labels, mode, params):
    net = features["measures"]
    for units in params["hidden_units"]:
        net = tf.layers.dense(net, units, activation=tf.nn.relu)
        net = tf.layers.dropout(
            net, rate=0.1, training=mode == tf.estimator.ModeKeys.TRAIN
        )
    logits = tf.layers.dense(net, params["n_classes"], name="logits")

    probabilities = tf.nn.softmax(logits)
    predicted = tf.argmax(logits, 1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        classes = tf.tile(
            tf.expand_dims(tf.constant(CLASSES), 0), [tf.shape(logits)[0], 1]
        )
        export_outputs = {
            tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: (
                tf.estimator.export.ClassificationOutput(
                    scores=probabilities, classes=classes
                )
            ),
            "predict": tf.estimator.export.PredictOutput(
                {"class_id": predicted, "probabilities": probabilities}
            ),
        }
        return tf.estimator.EstimatorSpec(
            mode, predictions={"class_id": predicted}, export_outputs=export_outputs
        )

    loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
    train_op = tf.train.AdamOptimizer(params["learning_rate"]).minimize(
        loss, global_step=tf.train.get_global_step()
    )
    metrics = {"accuracy": tf.metrics.accuracy(labels, predicted)}
    return tf.estimator.EstimatorSpec(
        mode, loss=loss, train_op=train_op, eval_metric_ops=metrics
    )


def main(base_path):
    train_x, train_y = make_data(600, seed=0)
    eval_x, eval_y = make_data(200, seed=1)
    classifier = tf.estimator.Estimator(
        model_fn=model_fn,
        model_dir=tempfile.mkdtemp(),
        params={"hidden_units": [16, 16], "n_classes": 3, "learning_rate": 0.01},
    )
    classifier.train(
        tf.estimator.inputs.numpy_input_fn(
            train_x, train_y, batch_size=64, num_epochs=None, shuffle=True
        ),
        steps=200,
    )
    print(
        classifier.evaluate(
            tf.estimator.inputs.numpy_input_fn(eval_x, eval_y, shuffle=False)
        )
    )

    feature_spec = {"measures": tf.FixedLenFeature([4], tf.float32)}
    receiver_fn = tf.estimator.export.build_parsing_serving_input_receiver_fn(
        feature_spec
    )
    print(classifier.export_savedmodel(base_path, receiver_fn).decode())


if __name__ == "__main__":
    main(sys.argv[1])
