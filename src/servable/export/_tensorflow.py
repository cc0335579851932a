"""TensorFlow, or an error that says how to get it."""

try:
    import tensorflow as tf2  # noqa: ICN001 - tf is that of version 1 here
except ModuleNotFoundError as exc:
    if exc.name != "tensorflow":
        raise
    raise ModuleNotFoundError(
        "Exporting needs TensorFlow, which is not installed here: "
        "pip install 'servable[tensorflow]'",
        name="tensorflow",
    ) from exc

tf = tf2.compat.v1

__all__ = ["tf", "tf2"]
