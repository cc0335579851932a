"""The classes of `model.py` and `transform.py`, from a version directory."""

import importlib.util
import os
import sys
from typing import Any

from servable.errors import InvalidArgument, NotFound


class FromFile:
    """
    A model whose class stands in a Python file of its version directory.

    To be used in a process of its own: the directory becomes the first place that
    modules are imported from.

    Args:
        file: name of the file, as "model.py".
        class_name: of the class in it.
    """

    def __init__(self, file: str, class_name: str) -> None:
        self._file = file
        self._class_name = class_name
        self._made: Any = None

    def load(self, path: str) -> None:
        """
        Import the file, make its class, and load that.

        Raises:
            NotFound: there is no such file.
            InvalidArgument: it has no such class.
        """
        file = os.path.join(path, self._file)
        if not os.path.isfile(file):
            raise NotFound(f"There is no {self._file} in the version directory")
        sys.dont_write_bytecode = True  # the directory belongs to whoever publishes it
        sys.path.insert(0, path)
        name = self._file.removesuffix(".py")
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise InvalidArgument(f"{self._file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        made = getattr(module, self._class_name, None)
        if made is None:
            raise InvalidArgument(f"{self._file} has no class {self._class_name}")
        self._made = made()
        self._made.load(path)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the made object's."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._made, name)
