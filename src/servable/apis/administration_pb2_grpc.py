"""Services of servable/administration.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_services

define_services(globals(), "servable/administration.proto")
