"""Messages of tensorflow_serving/apis/input.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow_serving/apis/input.proto")
