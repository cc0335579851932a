"""Digits as text and as an image file."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

_BLOCKS = {  # by whether the upper and the lower pixel are bright
    (False, False): " ",
    (False, True): "▄",
    (True, False): "▀",
    (True, True): "█",
}
_HALF = 0.5
_SCALE = 8
_MARGIN = 6
_CAPTION = 14


def as_text(image: npt.NDArray[np.float32], *, colours: bool) -> Text:
    """Return an image as half-blocks: two rows of pixels in one line of text."""
    text = Text()
    for upper, lower in zip(image[::2], image[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            if colours:
                text.append("▀▀", f"{_grey(above)} on {_grey(below)}")
            else:
                text.append(2 * _BLOCKS[above > _HALF, below > _HALF])
        text.append("\n")
    text.rstrip()
    return text


def _grey(pixel: float) -> str:
    level = int(pixel * 255)
    return f"rgb({level},{level},{level})"


def row(
    images: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.int64],
    true: npt.NDArray[np.int64],
    *,
    colours: bool,
) -> Columns:
    """Return images side by side, with what was predicted and what is true."""
    return Columns(
        [
            Panel.fit(
                as_text(image, colours=colours),
                title=f"[{'green' if guess == truth else 'red'}]{guess}[/]",
                subtitle=f"[dim]is {truth}[/]",
            )
            for image, guess, truth in zip(images, predicted, true, strict=True)
        ]
    )


def write_sheet(
    path: Path,
    images: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.int64],
    true: npt.NDArray[np.int64],
    columns: int = 12,
) -> None:
    """Write a PNG with images, each under "predicted / true", wrong ones in red."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - of the demo's own extra

    size = images.shape[1] * _SCALE
    cell = (size + _MARGIN, size + _MARGIN + _CAPTION)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        left, top = (i % columns) * cell[0], (i // columns) * cell[1]
        colour = "black" if predicted[i] == true[i] else "red"
        draw.text((left + 3, top + 1), f"{predicted[i]} / {true[i]}", fill=colour)
        pixels = Image.fromarray((255 - image * 255).astype(np.uint8))
        place = (left + _MARGIN // 2, top + _CAPTION)
        sheet.paste(pixels.resize((size, size), Image.Resampling.NEAREST), place)
    sheet.save(path)
