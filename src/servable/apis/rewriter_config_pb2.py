"""Messages of tensorflow/core/protobuf/rewriter_config.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow/core/protobuf/rewriter_config.proto")
