"""
A model server for TensorFlow models that speaks the TensorFlow Serving API.

    from servable import ModelConfig, Server, ServerOptions

    options = ServerOptions(models=(ModelConfig("m", "/models/m"),), grpc_port=0)
    with Server(options) as server:
        print(server.grpc_port)

The client is `servable.client`.  What stands here is imported when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from servable.config.model_options import ModelOptions
    from servable.config.model_server_config import All, Latest, ModelConfig, Specific
    from servable.config.server_options import ServerOptions
    from servable.core.served_versions import Canary, Pinned, Shadow
    from servable.server import Server

__all__ = [
    "All",
    "Canary",
    "Latest",
    "ModelConfig",
    "ModelOptions",
    "Pinned",
    "Server",
    "ServerOptions",
    "Shadow",
    "Specific",
]

_MODULES: Final = {
    "All": "servable.config.model_server_config",
    "Canary": "servable.core.served_versions",
    "Latest": "servable.config.model_server_config",
    "ModelConfig": "servable.config.model_server_config",
    "ModelOptions": "servable.config.model_options",
    "Pinned": "servable.core.served_versions",
    "Server": "servable.server",
    "ServerOptions": "servable.config.server_options",
    "Shadow": "servable.core.served_versions",
    "Specific": "servable.config.model_server_config",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
