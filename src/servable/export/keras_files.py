"""Models in files of Keras."""

import zipfile
from pathlib import Path
from typing import Any

import keras

from servable.errors import InvalidArgument, NotFound
from servable.export.reasons import reason_of


def load_keras(path: str) -> Any:
    """
    Return the model in a .keras or .h5 file, not compiled.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: Keras cannot read it.
    """
    if not Path(path).is_file():
        raise NotFound(f"there is no file {path}")
    if path.endswith(".keras") and not zipfile.is_zipfile(path):
        # Keras says that it were not there.
        raise InvalidArgument(f"Keras cannot read {path}: it is no zip archive")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as exc:
        raise InvalidArgument(f"Keras cannot read {path}: {reason_of(exc)}") from exc
