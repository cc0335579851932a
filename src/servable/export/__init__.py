"""
Making SavedModels, and publishing them.

    from servable.export import export
    export(model, "models/flowers", samples={"serving_default": [{"x": …}]})

What needs TensorFlow imports it when it is used; publishing does not.
"""

import importlib
from typing import Any, Final

_WHERE: Final = {
    "Classify": "signatures",
    "Predict": "signatures",
    "Regress": "signatures",
    "SavedModelBuilder": "saved_model_builder",
    "Staging": "publishing",
    "Tolerance": "answers",
    "build_tensor_info": "signatures",
    "decode_images": "preprocessing",
    "export": "exporting",
    "publish": "publishing",
    "signature_constants": "v1_names",
    "signature_def_utils": "v1_names",
    "staged": "publishing",
    "tag_constants": "v1_names",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
