"""
A model server for TensorFlow models that speaks the TensorFlow Serving API.

    from servable import ModelConfig, Server, ServerOptions

    options = ServerOptions(models=(ModelConfig("m", "/models/m"),), grpc_port=0)
    with Server(options) as server:
        print(server.grpc_port)

The client is `servable.client`.  What stands here is imported when it is asked for.
"""

import contextlib
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
    if name == "_engine":
        return _import_engine()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def _import_engine() -> Any:
    """
    Return the engine, loaded by a thread that does not end.

    Its allocator takes the thread that loads it for the main one, and the process
    crashes when a thread starts after that one has ended.
    """
    import threading  # noqa: PLC0415 - clients do without

    if threading.current_thread() is not threading.main_thread():
        is_loaded = threading.Event()

        def load_and_stay() -> None:
            with contextlib.suppress(ImportError):  # the caller gets its own
                importlib.import_module("servable._engine")
            is_loaded.set()
            threading.Event().wait()

        threading.Thread(target=load_and_stay, daemon=True).start()
        is_loaded.wait()
    try:
        return importlib.import_module("servable._engine")
    except ImportError as exc:
        raise AttributeError(f"the engine is not built: {exc}") from exc
