"""
What a configuration becomes when a model of it is added, removed, labelled or pinned.

Everything here is pure, and gives a whole new configuration.  Whether it is legal and
what follows from it is decided in `model_server_config`; who calls puts it in force.
"""

import dataclasses
from collections.abc import Collection, Mapping

from servable.config.model_options import ModelOptions
from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.core.served_versions import Pinned
from servable.errors import AlreadyExists, NotFound


def model_of(config: ModelServerConfig, name: str) -> ModelConfig:
    """
    Return the model called *name*.

    Raises:
        NotFound: There is none.
    """
    for model in config.models:
        if model.name == name:
            return model
    raise NotFound(f"There is no model {name}")


def added(
    config: ModelServerConfig, model: ModelConfig, *, replace: bool = False
) -> ModelServerConfig:
    """
    Return *config* with one more model; with *replace* in place of one of its name.

    Raises:
        AlreadyExists: There is one of its name, and it is not to be replaced.
    """
    if model.name not in config.names():
        return ModelServerConfig((*config.models, model))
    if not replace:
        raise AlreadyExists(f"There is a model {model.name} already")
    return _with(config, model)


def removed(config: ModelServerConfig, name: str) -> ModelServerConfig:
    """
    Return *config* without the model called *name*.

    Raises:
        NotFound: There is none.
    """
    gone = model_of(config, name)
    return ModelServerConfig(tuple(m for m in config.models if m is not gone))


def labelled(
    config: ModelServerConfig,
    name: str,
    labels: Mapping[str, int],
    taken: Collection[str] = (),
) -> ModelServerConfig:
    """
    Return *config* with more *labels* on a model, and without those *taken* from it.

    Raises:
        NotFound: There is no such model.
    """
    model = model_of(config, name)
    kept = {k: v for k, v in model.version_labels.items() if k not in taken}
    return _with(config, dataclasses.replace(model, version_labels=kept | dict(labels)))


def is_pinned(model: ModelConfig) -> bool:
    """Return whether one version of *model* is served and no other."""
    return model.options is not None and isinstance(
        model.options.served_versions, Pinned
    )


def pinned(config: ModelServerConfig, name: str, version: int) -> ModelServerConfig:
    """
    Return *config* with a model pinned to *version*.

    Raises:
        NotFound: There is no such model.
    """
    model = model_of(config, name)
    options = dataclasses.replace(
        model.options or ModelOptions(), served_versions=Pinned(version)
    )
    return _with(config, dataclasses.replace(model, options=options))


def _with(config: ModelServerConfig, changed: ModelConfig) -> ModelServerConfig:
    return ModelServerConfig(
        tuple(changed if m.name == changed.name else m for m in config.models)
    )
