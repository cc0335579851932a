"""Messages of xla/tsl/protobuf/rpc_options.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "xla/tsl/protobuf/rpc_options.proto")
