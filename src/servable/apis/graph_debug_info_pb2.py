"""Messages of tensorflow/core/framework/graph_debug_info.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow/core/framework/graph_debug_info.proto")
