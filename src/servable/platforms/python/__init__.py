"""
Models written in Python: what they have to be, and the process that runs them.

    class Model:
        def load(self, path): ...
        def signatures(self): ...
        def run(self, signature_name, inputs): ...

The class stands in the file `model.py` of a version directory; docs/platforms.md has
the whole of it.  Nothing here imports TensorFlow.
"""

from servable.platforms.python.examples import FixedLenFeature, parse_examples
from servable.platforms.python.model import (
    CLASSIFY,
    PREDICT,
    REGRESS,
    PythonModel,
    Signature,
    TensorSpec,
    Transform,
)

__all__ = [
    "CLASSIFY",
    "PREDICT",
    "REGRESS",
    "FixedLenFeature",
    "PythonModel",
    "Signature",
    "TensorSpec",
    "Transform",
    "parse_examples",
]
