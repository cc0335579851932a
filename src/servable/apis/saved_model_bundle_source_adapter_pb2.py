"""Messages of tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.proto")
