"""A model server for TensorFlow models that speaks the TensorFlow Serving API."""
