"""Messages of servable/auth_tokens.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "servable/auth_tokens.proto")
