"""
The client: arrays in, arrays out, over gRPC or REST, with no TensorFlow.

    with Client("localhost:8500") as client:
        y = client.predict("half_plus_two", {"x": [1.0, 2.0]})["y"]

Nothing here imports the server or its engine.
"""

from servable.client._client import AsyncClient, Client
from servable.client.administration import Administration
from servable.client.dtypes import TensorError
from servable.client.examples import make_example
from servable.client.operations import Classification, Outputs, VersionStatus
from servable.client.signatures import ModelMetadata, Signature, TensorSpec
from servable.client.targets import Tls
from servable.client.tensors import make_ndarray, make_tensor_proto

__all__ = [
    "Administration",
    "AsyncClient",
    "Classification",
    "Client",
    "ModelMetadata",
    "Outputs",
    "Signature",
    "TensorError",
    "TensorSpec",
    "Tls",
    "VersionStatus",
    "make_example",
    "make_ndarray",
    "make_tensor_proto",
]
