"""Messages of servable/administration.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "servable/administration.proto")
