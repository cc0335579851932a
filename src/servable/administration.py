"""
`servable.Administration`, answered: messages in, messages out.

Whoever asks has been let in by the engine already.  What a request asks for is done by
the Server; here it is only read, and the answer written.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from servable.apis import administration_pb2
from servable.config import model_server_config
from servable.config.model_server_config import ModelConfig
from servable.errors import Code, InvalidArgument, ServingError
from servable.policies import Platforms
from servable.reports import ModelReport
from servable.sources.urls import redacted

_logger = logging.getLogger(__name__)


class Administered(Protocol):
    """What is asked of servable.server.Server."""

    def models(self) -> list[ModelReport]:
        """See servable.server.Server."""

    def add_model(
        self,
        config: ModelConfig,
        *,
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """See servable.server.Server."""

    def remove_model(self, name: str) -> None:
        """See servable.server.Server."""

    def set_labels(
        self, name: str, labels: Mapping[str, int], removed: Collection[str] = ()
    ) -> None:
        """See servable.server.Server."""

    def promote(self, name: str, version: int | None = None) -> str:
        """See servable.server.Server."""

    def roll_back(self, name: str) -> str:
        """See servable.server.Server."""

    def reload_config_file(self) -> None:
        """See servable.server.Server."""


class Administration:
    """Carries out the methods of the service; thread-safe."""

    def __init__(self, server: Administered) -> None:
        self._server = server

    def handle(self, method: str, request: bytes) -> tuple[int, str, bytes]:
        """Return code, text and serialized response; see `_engine.pyi`."""
        try:
            message_type, carry_out = _METHODS[method]
            response = carry_out(self._server, message_type.FromString(request))
        except ServingError as error:
            return error.code, error.message, b""
        except DecodeError:
            return Code.INVALID_ARGUMENT, f"The request is none of {method}", b""
        except Exception as error:
            _logger.exception("%s failed", method)
            return Code.INTERNAL, str(error), b""
        return Code.OK, "", response.SerializeToString()


def _list_models(
    server: Administered, request: administration_pb2.ListModelsRequest
) -> administration_pb2.ListModelsResponse:
    reports = [r for r in server.models() if request.name in ("", r.config.name)]
    response = administration_pb2.ListModelsResponse()
    response.models.extend(map(_model, reports))
    return response


def _add_model(
    server: Administered, request: administration_pb2.AddModelRequest
) -> administration_pb2.ChangeResponse:
    config = model_server_config.model_from_proto(request.config, Platforms())
    if not config.name:
        raise InvalidArgument("The model to add has no name")
    server.add_model(
        config, replace=request.replace, timeout_s=max(request.wait_seconds, 0.0)
    )
    does = "is served from" if request.wait_seconds > 0 else "is looked for at"
    return _changed(f"Model {config.name} {does} {redacted(config.base_path)}")


def _remove_model(
    server: Administered, request: administration_pb2.RemoveModelRequest
) -> administration_pb2.ChangeResponse:
    server.remove_model(request.name)
    return _changed(f"Model {request.name} is being unloaded")


def _set_labels(
    server: Administered, request: administration_pb2.SetLabelsRequest
) -> administration_pb2.ChangeResponse:
    server.set_labels(request.name, request.labels, request.removed_labels)
    return _changed(f"Labels of model {request.name} are changed")


def _promote(
    server: Administered, request: administration_pb2.PromoteRequest
) -> administration_pb2.ChangeResponse:
    version = request.version if request.HasField("version") else None
    return _changed(server.promote(request.name, version))


def _roll_back(
    server: Administered, request: administration_pb2.RollBackRequest
) -> administration_pb2.ChangeResponse:
    return _changed(server.roll_back(request.name))


def _reload_models(
    server: Administered, _: administration_pb2.ReloadModelsRequest
) -> administration_pb2.ChangeResponse:
    server.reload_config_file()
    return _changed("The model config file was read again")


_METHODS: Final[Mapping[str, tuple[Any, Callable[[Administered, Any], Any]]]] = {
    "ListModels": (administration_pb2.ListModelsRequest, _list_models),
    "AddModel": (administration_pb2.AddModelRequest, _add_model),
    "RemoveModel": (administration_pb2.RemoveModelRequest, _remove_model),
    "SetLabels": (administration_pb2.SetLabelsRequest, _set_labels),
    "Promote": (administration_pb2.PromoteRequest, _promote),
    "RollBack": (administration_pb2.RollBackRequest, _roll_back),
    "ReloadModels": (administration_pb2.ReloadModelsRequest, _reload_models),
}


def _changed(message: str) -> administration_pb2.ChangeResponse:
    return administration_pb2.ChangeResponse(message=message)


def _model(report: ModelReport) -> administration_pb2.Model:
    model = administration_pb2.Model(
        config=model_server_config.model_to_proto(report.config),
        problem=report.problem,
    )
    for version in report.versions:
        message = model.versions.add(
            reserved_bytes=version.reserved_bytes,
            default_percent=100 * version.default_part,
            shadow_requests=dict(version.shadow_requests),
        )
        status = message.status
        status.version = version.state.id.version
        status.state = version.state.manager_state  # type: ignore[assignment]
        status.status.error_code = version.state.code  # type: ignore[assignment]
        status.status.error_message = version.state.message
        if version.progress is not None:
            message.progress = version.progress.what
            message.progress_seconds = version.progress.for_s
    if report.rollout is not None:
        model.rollout.kind = report.rollout.kind
        model.rollout.promoted_version = report.rollout.promoted or 0
        model.rollout.candidate_version = report.rollout.candidate or 0
        model.rollout.rejected_versions.extend(report.rollout.rejected)
        model.rollout.verdict = report.rollout.verdict
    return model
