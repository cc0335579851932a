"""Messages of tensorflow/core/protobuf/verifier_config.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow/core/protobuf/verifier_config.proto")
