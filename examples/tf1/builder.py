"""
A model without an Estimator: two meta graphs, and class labels from a vocabulary.

    python -m examples.tf1.builder VERSION_DIRECTORY

A script of the time of TensorFlow 1.4; only the import of TensorFlow has changed.
The meta graph for serving has the signature `my_classification_signature`, which
takes examples and answers the best classes by name; the names are an asset.
"""

import sys
import tempfile

import numpy as np

from servable.estimator.v1 import tf  # was: import tensorflow as tf

LABELS = ["cat", "dog", "fish", "bird"]
TOP = 3


def build(serialized_examples):
    spec = {"x": tf.FixedLenFeature([4], tf.float32)}
    x = tf.parse_example(serialized_examples, spec)["x"]
    w = tf.get_variable("w", initializer=np.eye(4, dtype=np.float32) * 2)
    return tf.nn.softmax(tf.matmul(x, w))


def main(export_dir):
    with tempfile.NamedTemporaryFile("w", suffix="_labels.txt") as vocabulary:
        vocabulary.write("\n".join(LABELS) + "\n")
        vocabulary.flush()
        export(export_dir, vocabulary.name)


def export(export_dir, vocabulary_file):
    builder = tf.saved_model.builder.SavedModelBuilder(export_dir)

    # The first meta graph goes along with the variables.
    with tf.Session(graph=tf.Graph()) as sess:
        tf_example = tf.placeholder(tf.string, [None], name="tf_example")
        values, indices = tf.nn.top_k(build(tf_example), TOP)
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                vocabulary_file,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            "UNKNOWN",
        )
        names = table.lookup(tf.to_int64(indices))
        info = tf.saved_model.utils.build_tensor_info
        constants = tf.saved_model.signature_constants
        signature = tf.saved_model.signature_def_utils.build_signature_def(
            inputs={constants.CLASSIFY_INPUTS: info(tf_example)},
            outputs={
                constants.CLASSIFY_OUTPUT_CLASSES: info(names),
                constants.CLASSIFY_OUTPUT_SCORES: info(values),
            },
            method_name=constants.CLASSIFY_METHOD_NAME,
        )
        sess.run([tf.global_variables_initializer(), tf.tables_initializer()])
        builder.add_meta_graph_and_variables(
            sess,
            [tf.saved_model.tag_constants.SERVING],
            signature_def_map={
                "my_classification_signature": signature,
                constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature,
            },
            assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            legacy_init_op=tf.tables_initializer(),
        )

    # Further ones share them.
    with tf.Session(graph=tf.Graph()):
        build(tf.placeholder(tf.string, [None]))
        builder.add_meta_graph([tf.saved_model.tag_constants.TRAINING])

    print(builder.save().decode())


if __name__ == "__main__":
    main(sys.argv[1])
