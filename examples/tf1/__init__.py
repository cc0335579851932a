"""Scripts as they were written for TensorFlow 1.4, with one import changed."""
