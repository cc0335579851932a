"""
What an exception of TensorFlow or Keras is about, in one line.

Their texts tell first where in a graph or program something happened, and at length;
what happened comes later.
"""

import re
from typing import Final

_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
_FRAME: Final = re.compile(r'File ".*", line \d+')
_WHERE: Final = (
    "Graph execution error:",
    "Detected at node",
    "Node: '",
    "in user code:",
    "Exception encountered when calling",
)


def reason_of(exc: BaseException) -> str:
    """Return the line of *exc* that says what is wrong; its type if it says nothing."""
    kind = type(exc).__name__
    lines = iter(line.strip() for line in _STYLE.sub("", str(exc)).splitlines())
    for line in lines:
        if _FRAME.match(line):
            next(lines, None)  # the line of code
            continue
        text = line.removeprefix(f"{kind}: ")
        if text and not text.startswith(_WHERE):
            return text
    return kind
