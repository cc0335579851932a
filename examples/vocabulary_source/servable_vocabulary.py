"""The source "vocabulary": versions that score words, and share the list of words."""

import dataclasses
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servable import _engine
from servable.core.resources import sum_of_file_sizes
from servable.core.servable_id import ServableId
from servable.core.shared import SharedValues
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.errors import InvalidArgument
from servable.platforms.python import Signature, TensorSpec
from servable.platforms.python.model import to_signature_def_map
from servable.sources.file_system import file_system_source
from servable.sources.registry import SourceOptions
from servable.sources.versions import FileSystemStoragePathSourceConfig as Config

DT_FLOAT = 1
SIGNATURES = to_signature_def_map(
    {
        "serving_default": Signature(
            {"words": TensorSpec("string", [None])},
            {"scores": TensorSpec("float32", [None])},
        )
    }
)


def read_words(path: Path) -> dict[bytes, int]:
    """Return the number of each word of the vocabulary at *path*, a word a line."""
    words = path.read_bytes().splitlines()
    return {word: number for number, word in enumerate(words)}


class VocabularySource:
    """Looks at `vocabulary:///DIRECTORY` as at DIRECTORY; see ServableSource."""

    def __init__(self, options: SourceOptions) -> None:
        self._files = file_system_source(options)
        self._words = SharedValues(read_words)

    def check(self, config: Config) -> None:
        """Take anything."""

    def set_target(self, target: Target[Any]) -> None:
        """Make a Loader of each version that is found."""
        self._files.set_target(SourceAdapter(self._loader, target))

    def set_config(self, config: Config) -> None:
        """Look at the directories that the URLs name."""
        servables = tuple(
            dataclasses.replace(s, base_path=s.base_path.partition("://")[2])
            for s in config.servables
        )
        self._files.set_config(dataclasses.replace(config, servables=servables))

    def stop(self) -> None:
        """Look no more."""
        self._files.stop()

    def _loader(self, _: ServableId, path: str) -> "ScoresLoader":
        return ScoresLoader(Path(path), self._words)


class ScoresLoader:
    """One version: a number for each word; see SharingLoader."""

    def __init__(self, path: Path, words: SharedValues[Path, dict[bytes, int]]) -> None:
        self._path, self._words = path, words
        self._vocabulary = path.parent / "vocabulary.txt"

    def estimate_resources(self) -> int:
        """Return the bytes of the numbers alone."""
        return sum_of_file_sizes(self._path)

    def shared_resources(self) -> Mapping[Hashable, int]:
        """Return those of the words: a hundred each, and their own."""
        size = self._vocabulary.stat().st_size
        return {
            self._vocabulary: 100 * len(self._vocabulary.read_bytes().split()) + size
        }

    def load(self) -> None:
        """Read the numbers, and the words if no version has them yet."""
        words = self._words.acquire(self._vocabulary)
        try:
            scores = Scores(words, self._path / "scores.json")
            self._servable = _engine.python_servable(scores, SIGNATURES)
        except BaseException:
            self._words.release(self._vocabulary)
            raise

    def servable(self) -> object:
        """Return what the engine runs."""
        return self._servable

    def unload(self) -> None:
        """Wait for the last request; the words go with the last version."""
        self._servable.close()
        self._words.release(self._vocabulary)


class Scores:
    """What requests are run on; see servable._engine.PythonServable."""

    def __init__(self, words: Mapping[bytes, int], path: Path) -> None:
        scores = np.array(json.loads(path.read_text()), np.float32)
        if scores.shape != (len(words),):
            raise InvalidArgument(f"{len(words)} words have scores of {scores.shape}")
        self._words, self._scores = words, np.append(scores, np.float32(0))

    def run(self, _signature: str, inputs: Mapping[str, Any], _outputs: object) -> Any:
        """Return the number of each word, 0 for one that is not known."""
        _, shape, texts = inputs["words"]
        found = self._scores[[self._words.get(text, -1) for text in texts]]
        return [(DT_FLOAT, shape, found.view(np.uint8))]
