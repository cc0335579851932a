"""
What has to be asked of a server before load is put on it: a signature, one answer.

Over the same protocol as the load, so that only its port need be open.
"""

import abc
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from google.protobuf import json_format

from servable.apis import POOL, get_model_metadata_pb2
from servable.apis.meta_graph_pb2 import SignatureDef
from servable.bench.requests import ModelSpec

METADATA_METHOD: Final = "/tensorflow.serving.PredictionService/GetModelMetadata"
PREDICT_METHOD: Final = "/tensorflow.serving.PredictionService/Predict"


class ProbeError(Exception):
    """The server cannot be reached or refuses; the text says what it answered."""


class Probe(abc.ABC):
    """A server as the target of a few single requests; use it as a context."""

    @abc.abstractmethod
    def call(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """
        Send one request and return the body of the answer.

        Raises:
            ProbeError: there is no answer, or it is not OK.
        """

    @abc.abstractmethod
    def signature(self, model: ModelSpec) -> SignatureDef:
        """
        Return the signature that *model* names.

        Raises:
            ProbeError: as call does, or the model has no such signature.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(protocol: Literal["grpc", "rest"], address: str, timeout_s: float) -> Probe:
    """Return a probe of the server at *address*; connects when it is first used."""
    if protocol == "grpc":
        return _GrpcProbe(address, timeout_s)
    return _RestProbe(address, timeout_s)


class _GrpcProbe(Probe):
    def __init__(self, address: str, timeout_s: float) -> None:
        import grpc  # noqa: PLC0415 - slow to import, and one protocol is used

        self._timeout_s = timeout_s
        self._grpc = grpc
        unlimited = ("grpc.max_receive_message_length", -1)
        self._channel = grpc.insecure_channel(address, options=[unlimited])

    def call(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        method: Callable[..., bytes] = self._channel.unary_unary(path)
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        try:
            return method(body, timeout=self._timeout_s, metadata=metadata)
        except self._grpc.RpcError as error:
            raise ProbeError(
                f"{path} was answered with {error.code().name}: {error.details()}"
            ) from None

    def signature(self, model: ModelSpec) -> SignatureDef:
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = model.name
        if model.version is not None:
            request.model_spec.version.value = model.version
        elif model.label is not None:
            request.model_spec.version_label = model.label
        request.metadata_field.append("signature_def")
        answer = get_model_metadata_pb2.GetModelMetadataResponse.FromString(
            self.call(METADATA_METHOD, request.SerializeToString(), {})
        )
        signatures = get_model_metadata_pb2.SignatureDefMap.FromString(
            answer.metadata["signature_def"].value
        )
        return _choose(signatures, model)

    def close(self) -> None:
        self._channel.close()


class _RestProbe(Probe):
    def __init__(self, address: str, timeout_s: float) -> None:
        import httpx  # noqa: PLC0415 - slow to import, and one protocol is used

        self._httpx = httpx
        socket, host = None, address
        if address.startswith("unix:"):
            socket = address.removeprefix("unix:").removeprefix("//")
            host = "localhost"
        self._client = httpx.Client(
            base_url=f"http://{host}",
            timeout=timeout_s,
            transport=httpx.HTTPTransport(uds=socket),
        )

    def call(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        return self._send("POST", path, content=body, headers=dict(headers))

    def signature(self, model: ModelSpec) -> SignatureDef:
        path = f"{model.url}/metadata"
        answer = self._send("GET", path)
        try:
            signatures = json_format.ParseDict(
                json.loads(answer)["metadata"]["signature_def"],
                get_model_metadata_pb2.SignatureDefMap(),
                ignore_unknown_fields=True,
                descriptor_pool=POOL,
            )
        except (ValueError, KeyError, TypeError, json_format.ParseError):
            raise ProbeError(f"{path} was answered with no signatures") from None
        return _choose(signatures, model)

    def _send(self, verb: str, path: str, **content: Any) -> bytes:
        try:
            answer = self._client.request(verb, path, **content)
        except self._httpx.HTTPError as error:
            raise ProbeError(f"{path} was not answered: {error}") from None
        if not answer.is_success:
            raise ProbeError(
                f"{path} was answered with {answer.status_code}: {answer.text.strip()}"
            )
        return answer.content

    def close(self) -> None:
        self._client.close()


def _choose(
    signatures: get_model_metadata_pb2.SignatureDefMap, model: ModelSpec
) -> SignatureDef:
    known = signatures.signature_def
    if model.signature_name not in known:
        raise ProbeError(
            f"model {model.name!r} has no signature {model.signature_name!r}; "
            f"it has {', '.join(sorted(known)) or 'none'}"
        )
    return known[model.signature_name]
