"""Where the files of one version are."""

from typing import NewType

StoragePath = NewType("StoragePath", str)
"""An absolute path or URI of a version, as `/models/m/3`."""
