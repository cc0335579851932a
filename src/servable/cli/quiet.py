"""What commands that call TensorFlow themselves keep from those who run them."""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Final

_LEVEL: Final = "TF_CPP_MIN_LOG_LEVEL"
# What it logs while it is imported, whatever the level: that it can compute fast.
_NEWS: Final = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|I0000 .* port\.cc:"
)


def quiet_tensorflow() -> None:
    """
    Have TensorFlow, which is imported after this, tell of errors only.

    It warns of functions of its own that are old, and that only a release of this
    package could call no more.
    """
    os.environ.setdefault(_LEVEL, "3")
    logging.getLogger("tensorflow").addFilter(
        lambda record: record.levelno >= logging.ERROR
    )


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """
    Keep the lines that TensorFlow has for every import of it out of stderr.

    What else is written there meanwhile comes when the context ends.
    """
    if sys.stderr is None:  # it was closed by who runs the command
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            for line in written:
                if not (_NEWS.match(line) and os.environ.get(_LEVEL) == "3"):
                    os.write(2, line)
