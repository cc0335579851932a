"""Messages of google/protobuf/any.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "google/protobuf/any.proto")
