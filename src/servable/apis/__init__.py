"""
Every message of the wire contract, in a descriptor pool of its own.

The modules have the names that ``tensorflow_serving.apis`` and TensorFlow give
theirs (`predict_pb2`, `tensor_pb2`, …), but nothing here touches protobuf's default
pool.  So they live in one process with any version of TensorFlow and of
tensorflow-serving-api, whichever is imported first.

A message of this package and its twin from another pool are different classes;
what crosses between them is bytes.  `any_pb2` and `wrappers_pb2` are therefore
here too: use these, not those of google.protobuf, as fields of our messages.  Where
protobuf's tools look a type up by name (json_format and text_format with an Any),
give them ``descriptor_pool=servable.apis.POOL``.
"""

from servable.apis._modules import POOL

__all__ = ["POOL"]
