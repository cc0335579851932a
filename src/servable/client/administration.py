"""The models of a running server, and how they are changed; over gRPC only."""

from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar

from servable.apis import administration_pb2, model_server_config_pb2
from servable.client.targets import ConnectionOptions, Protocol, Target
from servable.errors import InvalidArgument

R = TypeVar("R")

_SERVICE: Final = "/servable.Administration/"


class Administration:
    """
    Asks and changes which models a server serves; may be used from many threads.

    Servers answer it to those who may reload their configuration: by default peers on
    their own machine and those with a verified certificate.  Changes return when they
    are in force; `models` tells what is loaded because of them.  All methods raise
    PermissionDenied for others, and Unavailable or DeadlineExceeded without an answer.
    """

    def __init__(
        self, target: Target, options: ConnectionOptions, timeout_s: float
    ) -> None:
        if target.protocol is not Protocol.GRPC:
            raise InvalidArgument(
                f"{target} is a REST address; models are administered over gRPC"
            )
        # gRPC takes longer to import than all else of the client.
        from servable.client.grpc_transport import (  # noqa: PLC0415
            metadata_of,
            open_channel,
        )

        self._target = target
        self._timeout_s = timeout_s
        self._metadata = metadata_of(options)
        self._channel = open_channel(target, options)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def models(self, name: str = "") -> list[administration_pb2.Model]:
        """Return what there is to know of the models, or of the one called *name*."""
        request = administration_pb2.ListModelsRequest(name=name)
        response = administration_pb2.ListModelsResponse
        return list(self._call("ListModels", request, response).models)

    def add_model(
        self,
        config: model_server_config_pb2.ModelConfig,
        *,
        replace: bool = False,
        wait_s: float = 0.0,
    ) -> str:
        """
        Serve one more model, or with *replace* change one; return that in words.

        A new model is waited for up to *wait_s* seconds.

        Raises:
            AlreadyExists: There is one of its name.
            InvalidArgument: It is refused.
            Unknown: It was waited for, and cannot be loaded.
            DeadlineExceeded: It was waited for, and is not available yet.
        """
        request = administration_pb2.AddModelRequest(
            config=config, replace=replace, wait_seconds=wait_s
        )
        return self._change("AddModel", request, wait_s)

    def remove_model(self, name: str) -> str:
        """Serve a model no more; raises NotFound when there is none."""
        request = administration_pb2.RemoveModelRequest(name=name)
        return self._change("RemoveModel", request)

    def set_labels(
        self, name: str, labels: Mapping[str, int], removed: Collection[str] = ()
    ) -> str:
        """
        Give labels to versions, and take some away.

        Raises:
            FailedPrecondition: A version is not available.
        """
        request = administration_pb2.SetLabelsRequest(
            name=name, labels=labels, removed_labels=removed
        )
        return self._change("SetLabels", request)

    def promote(self, name: str, version: int | None = None) -> str:
        """
        Let the candidate, or *version*, answer everything; of a pin, move it there.

        Raises:
            FailedPrecondition: There is nothing to promote.
        """
        request = administration_pb2.PromoteRequest(name=name, version=version)
        return self._change("Promote", request)

    def roll_back(self, name: str) -> str:
        """Let the candidate answer nothing; raises FailedPrecondition without one."""
        request = administration_pb2.RollBackRequest(name=name)
        return self._change("RollBack", request)

    def reload(self) -> str:
        """Have the server read its model config file again."""
        return self._change("ReloadModels", administration_pb2.ReloadModelsRequest())

    def _change(self, method: str, request: Any, wait_s: float = 0.0) -> str:
        response = administration_pb2.ChangeResponse
        return self._call(method, request, response, wait_s).message

    def _call(
        self, method: str, request: Any, response: type[R], wait_s: float = 0.0
    ) -> R:
        import grpc  # noqa: PLC0415 - imported already by the channel

        from servable.client.grpc_transport import error_of  # noqa: PLC0415

        timeout_s = self._timeout_s + wait_s
        call: Any = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,  # type: ignore[attr-defined]
        )
        try:
            answer: R = call(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as exc:
            raise error_of(exc, self._target, timeout_s) from None
        return answer
