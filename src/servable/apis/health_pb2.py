"""Messages of grpc/health/v1/health.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "grpc/health/v1/health.proto")
