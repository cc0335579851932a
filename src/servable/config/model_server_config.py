"""
Which models are served: the ModelServerConfig message as values, and its rules.

Everything here is pure.  from_proto() refuses what can never be served; plan() says
what a new configuration changes; assign_labels() says which labels hold after it.
Whoever calls them carries the answers out.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from servable.apis import model_server_config_pb2
from servable.config import logging_config, model_options
from servable.config.logging_config import LoggingConfig
from servable.config.model_options import ModelOptions
from servable.config.text_format import read_text_proto
from servable.errors import FailedPrecondition, InvalidArgument, Unimplemented

TENSORFLOW: Final = "tensorflow"

VersionLabels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Model name to label to version."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The *num_versions* highest versions; 0 means 1, as on the wire."""

    num_versions: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version there is."""


@dataclass(frozen=True, slots=True)
class Specific:
    """These versions, where they exist."""

    versions: tuple[int, ...]


VersionPolicy: TypeAlias = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model: where its versions are, what runs them, and which are served."""

    name: str
    base_path: str
    platform: str = TENSORFLOW
    version_policy: VersionPolicy = Latest()
    version_labels: Mapping[str, int] = field(default_factory=dict)
    options: ModelOptions | None = None
    logging: LoggingConfig | None = None


@dataclass(frozen=True, slots=True)
class ModelServerConfig:
    """
    The models of a server, in the order of the file.

    A message that names no list at all is another thing than one with an empty list:
    the first asks for nothing, the second for every model to go.
    """

    models: tuple[ModelConfig, ...] = ()
    is_list: bool = True

    def names(self) -> frozenset[str]:
        """Return the names of the models."""
        return frozenset(model.name for model in self.models)

    def labels(self) -> VersionLabels:
        """Return the labels that the models ask for."""
        return {
            model.name: model.version_labels
            for model in self.models
            if model.version_labels
        }


@dataclass(frozen=True, slots=True)
class Transition:
    """What happens between two configurations."""

    config: ModelServerConfig
    added: tuple[ModelConfig, ...]
    kept: tuple[ModelConfig, ...]
    removed: tuple[ModelConfig, ...]


def single_model(
    name: str,
    base_path: str,
    platform: str = TENSORFLOW,
    platforms: Container[str] = (TENSORFLOW,),
) -> ModelServerConfig:
    """
    Return the configuration of a server with one model.

    Raises:
        InvalidArgument: base_path is neither absolute nor a URI, or there is no such
            platform.
    """
    config = ModelServerConfig((ModelConfig(name, base_path, platform),))
    _check_base_paths(config)
    _check_platforms(config, platforms)
    return config


def read(path: str, platforms: Container[str] = (TENSORFLOW,)) -> ModelServerConfig:
    """
    Read a text file with a ModelServerConfig message.

    Raises:
        ServingError: The file cannot be read, is no such message, or asks for what
            from_proto() refuses.
    """
    message = read_text_proto(path, model_server_config_pb2.ModelServerConfig)
    return from_proto(message, platforms)


def from_proto(
    message: model_server_config_pb2.ModelServerConfig,
    platforms: Container[str] = (TENSORFLOW,),
) -> ModelServerConfig:
    """
    Return what *message* configures, for a server that knows *platforms*.

    Raises:
        InvalidArgument: A name is listed twice, a base path is relative, or a
            platform is missing, unknown, or given in both ways.
        Unimplemented: It is a custom_model_config.
    """
    match message.WhichOneof("config"):
        case None:
            return ModelServerConfig(is_list=False)
        case "custom_model_config":
            raise Unimplemented("custom_model_config is not supported.")
        case _:
            config = ModelServerConfig(
                tuple(_model(model) for model in message.model_config_list.config)
            )
    check(config, platforms)
    return config


def model_from_proto(
    message: model_server_config_pb2.ModelConfig,
    platforms: Container[str] = (TENSORFLOW,),
) -> ModelConfig:
    """Return the one model that *message* configures; raises as from_proto()."""
    config = ModelServerConfig((_model(message),))
    check(config, platforms)
    return config.models[0]


def check(config: ModelServerConfig, platforms: Container[str]) -> None:
    """
    Check what can be said of *config* without looking at files.

    Raises:
        InvalidArgument: As from_proto().
    """
    _check_names(config)
    _check_base_paths(config)
    _check_platforms(config, platforms)


def to_proto(config: ModelServerConfig) -> model_server_config_pb2.ModelServerConfig:
    """Return *config* as a message; from_proto() makes the same of it."""
    message = model_server_config_pb2.ModelServerConfig()
    if not config.is_list:
        return message
    message.model_config_list.SetInParent()
    message.model_config_list.config.extend(map(model_to_proto, config.models))
    return message


def model_to_proto(model: ModelConfig) -> model_server_config_pb2.ModelConfig:
    """Return *model* as a message."""
    message = model_server_config_pb2.ModelConfig(
        name=model.name,
        base_path=model.base_path,
        model_platform=model.platform,
        version_labels=dict(model.version_labels),
    )
    if model.logging is not None:
        message.logging_config.CopyFrom(logging_config.to_proto(model.logging))
    if model.options is not None:
        message.servable.CopyFrom(model_options.to_proto(model.options))
        message.servable.SetInParent()
    policy = message.model_version_policy
    match model.version_policy:
        case All():
            policy.all.SetInParent()
        case Specific(versions):
            policy.specific.SetInParent()
            policy.specific.versions.extend(versions)
        case Latest(num_versions) if num_versions != 1:
            policy.latest.num_versions = num_versions
        case Latest():
            message.ClearField("model_version_policy")
    return message


def plan(old: ModelServerConfig, new: ModelServerConfig) -> Transition:
    """
    Return what changes when *new* replaces *old*; to begin with, old has no list.

    Raises:
        FailedPrecondition: old is a list, and new is none.
        InvalidArgument: A model that stays would change its platform.
    """
    if old.is_list and not new.is_list:
        raise FailedPrecondition(
            "Cannot transition to requested config. It is only legal to transition "
            "from one ModelConfigList to another."
        )
    before = {model.name: model for model in old.models}
    for model in new.models:
        if model.name in before and before[model.name].platform != model.platform:
            raise InvalidArgument(
                f"Illegal to change a model's platform. For model {model.name} "
                f"platform was {before[model.name].platform} and new platform "
                f"requested is {model.platform}"
            )
    return Transition(
        config=new,
        added=tuple(model for model in new.models if model.name not in before),
        kept=tuple(model for model in new.models if model.name in before),
        removed=tuple(model for model in old.models if model.name not in new.names()),
    )


def assign_labels(
    new: ModelServerConfig,
    old_labels: VersionLabels,
    *,
    is_available: Callable[[str, int], bool],
    allow_unavailable: bool,
) -> VersionLabels:
    """
    Return the labels that hold once *new* is in force.

    A label may be given to an available version.  With allow_unavailable it may
    also be new, or stay where old_labels has it.

    Raises:
        FailedPrecondition: A label is asked for a version that may not have it.
    """
    for model in new.models:
        held = old_labels.get(model.name, {})
        for label, version in model.version_labels.items():
            may_wait = allow_unavailable and held.get(label, version) == version
            if not may_wait and not is_available(model.name, version):
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model "
                    f"{model.name}, which is not currently available for inference"
                )
    return new.labels()


def effective_options(model: ModelConfig, default: ModelOptions) -> ModelOptions:
    """
    Return the options that count for *model*: its own, or else *default*.

    A version policy of the model's own is not overridden by a default.
    """
    if model.options is not None:
        return model.options
    if model.version_policy != Latest():
        return ModelOptions(default.aspired_version_policy)
    return default


def _model(message: model_server_config_pb2.ModelConfig) -> ModelConfig:
    return ModelConfig(
        name=message.name,
        base_path=message.base_path,
        platform=_platform(message),
        version_policy=_version_policy(message),
        version_labels=MappingProxyType(dict(message.version_labels)),
        options=_options(message),
        logging=(
            logging_config.from_proto(message.name, message.logging_config)
            if message.HasField("logging_config")
            else None
        ),
    )


def _options(message: model_server_config_pb2.ModelConfig) -> ModelOptions | None:
    if not message.HasField("servable"):
        return None
    where = f"model {message.name}"
    options = model_options.from_proto(message.servable, where)
    if options.served_versions and message.HasField("model_version_policy"):
        kind = message.servable.WhichOneof("served_versions")
        raise InvalidArgument(
            f"{where} has both a model_version_policy and servable.{kind}; only one of "
            "them can say which versions are served"
        )
    return options


def _platform(message: model_server_config_pb2.ModelConfig) -> str:
    if not message.model_type:
        if not message.model_platform:
            raise InvalidArgument(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) "
                f"nor ModelServerConfig::model_platform, model name is {message.name}"
            )
        return message.model_platform
    if message.model_platform:
        raise InvalidArgument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {message.name}"
        )
    if message.model_type != model_server_config_pb2.TENSORFLOW:
        raise InvalidArgument(
            f"ModelServerConfig::model_type choice {message.model_type} not supported."
        )
    return TENSORFLOW


def _version_policy(message: model_server_config_pb2.ModelConfig) -> VersionPolicy:
    policy = message.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(policy.specific.versions))
        case _:
            return Latest(policy.latest.num_versions or 1)


def _check_names(config: ModelServerConfig) -> None:
    seen: set[str] = set()
    for model in config.models:
        if model.name in seen:
            raise InvalidArgument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        seen.add(model.name)


def _check_platforms(config: ModelServerConfig, platforms: Container[str]) -> None:
    for model in config.models:
        if model.platform not in platforms:
            raise InvalidArgument(
                f"Model {model.name} requests unsupported platform {model.platform}"
            )


def _check_base_paths(config: ModelServerConfig) -> None:
    for model in config.models:
        # MLflow's own way to name a registered model has one slash only.
        is_absolute = model.base_path.startswith(("/", "models:/"))
        if not is_absolute and "://" not in model.base_path:
            raise InvalidArgument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
        if "\0" in model.base_path:
            raise InvalidArgument(
                f"Expected model {model.name} to have a base_path without zero bytes"
            )
