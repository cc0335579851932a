"""Services of tensorflow_serving/apis/prediction_service.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_services

define_services(globals(), "tensorflow_serving/apis/prediction_service.proto")
