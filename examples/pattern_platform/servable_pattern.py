"""The platform "pattern": which texts match the regular expression in `pattern.txt`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servable.platforms import PlatformOptions
from servable.platforms.python import Signature, TensorSpec
from servable.platforms.python.platform import WorkerPlatform, worker_platform


class PatternModel:
    """One version; see servable.platforms.python.PythonModel."""

    def load(self, path: str) -> None:
        """Read the expression."""
        self._pattern = re.compile(Path(path, "pattern.txt").read_bytes().strip())

    def signatures(self) -> Mapping[str, Signature]:
        """Return the one signature."""
        texts = {"texts": TensorSpec("string", [None])}
        return {
            "serving_default": Signature(texts, {"matches": TensorSpec("bool", [None])})
        }

    def run(self, _signature_name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Match whole texts."""
        found = [self._pattern.fullmatch(text) is not None for text in inputs["texts"]]
        return {"matches": found}


def pattern_platform(options: PlatformOptions, engine: object) -> WorkerPlatform:
    """Make the platform; an expression that takes for ever ends only its process."""
    return worker_platform("pattern", "servable_pattern:PatternModel", options, engine)
