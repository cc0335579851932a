"""Messages of tensorflow_serving/config/file_system_storage_path_source.proto; written by tools/generate_apis.py."""

from servable.apis._modules import define_messages

define_messages(globals(), "tensorflow_serving/config/file_system_storage_path_source.proto")
