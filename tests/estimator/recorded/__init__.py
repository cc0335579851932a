"""What tf.estimator of TensorFlow 2.15 did, for comparison."""
