"""Preprocessing that becomes part of a model, so that clients send what they have."""

from collections.abc import Callable, Sequence
from typing import Any

from servable.export._tensorflow import tf2


def decode_images(
    size: Sequence[int] | None = None,
    *,
    channels: int = 3,
    scale: float = 1.0 / 255.0,
    offset: float = 0.0,
) -> Callable[[Any], Any]:
    """
    Return a function from encoded images to a batch of pixels.

    Args:
        size: height and width that images are resized to; None if all that come have
            the same size anyway.
        channels: 1 for gray, 3 for colours, 4 for colours and transparency.
        scale: what values from 0 to 255 are multiplied by.
        offset: what is added then.

    Returns:
        A function of a string tensor [batch] of JPEG, PNG, GIF or BMP files, to
        float32 [batch, height, width, channels].
    """
    height, width = size or (None, None)

    def decode_one(data: Any) -> Any:
        image = tf2.io.decode_image(data, channels=channels, expand_animations=False)
        image.set_shape([None, None, channels])
        image = tf2.cast(image, tf2.float32)
        if size is not None:
            image = tf2.image.resize(image, [height, width])
        return image * scale + offset

    def decode(data: Any) -> Any:
        spec = tf2.TensorSpec([height, width, channels], tf2.float32)
        return tf2.map_fn(decode_one, data, fn_output_signature=spec)

    return decode
