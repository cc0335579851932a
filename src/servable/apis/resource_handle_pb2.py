"""Messages of tensorflow/core/framework/resource_handle.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow/core/framework/resource_handle.proto")
