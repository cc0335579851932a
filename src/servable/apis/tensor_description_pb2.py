"""Messages of tensorflow/core/framework/tensor_description.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow/core/framework/tensor_description.proto")
