"""
Configuration files in protobuf's text format.

A file that cannot be read or understood is told of as TensorFlow Serving does:
the place and the reason in the log, and an error that names the file.
"""

import errno
import logging
import os
import re
from typing import Final, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from servable.apis import POOL
from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServingError,
    Unavailable,
    Unknown,
)

M = TypeVar("M", bound=Message)

_logger = logging.getLogger(__name__)


def read_text_proto(path: str, message_type: type[M]) -> M:
    """
    Read the file at *path* as one message of *message_type*.

    A file with nothing but white space in it is an empty message.

    Raises:
        NotFound: There is no such file; other ServingErrors where the system
            refuses it for another reason.
        InvalidArgument: The file has no byte at all, or is not such a message; the
            place and the reason are logged.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path loses "" and "//"
            data = file.read()
    except OSError as error:
        raise file_error(path, error) from error
    except ValueError as error:  # a zero byte in the path
        raise InvalidArgument(f"{path}; Invalid argument") from error
    if not data:
        # Upstream maps the file into memory, and the system maps no empty file.
        raise InvalidArgument(f"{path}; Invalid argument")
    return parse_text_proto(data, message_type, path)


def parse_text_proto(data: bytes, message_type: type[M], path: str) -> M:
    """
    Parse *data*, which came from *path*, as one message of *message_type*.

    Raises:
        InvalidArgument: It is none; the place and the reason are logged.
    """
    message = message_type()
    try:
        text = data.decode()
        text_format.Parse(text, message, descriptor_pool=POOL)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        problem = f"{line}:{column}: Invalid UTF-8."
    except text_format.ParseError as error:
        problem = _upstream_words(text, error)
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        # What the parser lets through although a file can cause it: endless nesting,
        # numbers that a field has no room for.
        problem = f"1:1: {error}"
    else:
        return message
    _logger.error(
        "Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, problem
    )
    raise InvalidArgument(f"Invalid protobuf file: '{path}'")


def file_error(path: str, error: OSError) -> ServingError:
    """Return the error that says why the system refused the file at *path*."""
    error_type = _ERRORS.get(error.errno or 0, Unknown)
    return error_type(f"{path}; {os.strerror(error.errno or 0)}")


_ERRORS: Final[dict[int, type[ServingError]]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: FailedPrecondition,
    errno.EISDIR: FailedPrecondition,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EINVAL: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.ELOOP: InvalidArgument,
    errno.EMFILE: Unavailable,
    errno.ENFILE: Unavailable,
}


# Python's parser words some reasons in its own way, and puts a few of them at the
# token before the one that the C++ parser stands at.  People search for the latter's.
_AT_PREVIOUS_TOKEN: Final = re.compile(
    r"has no field named|does not have extensions|should not have multiple"
    r"|is specified along with|\AExpected \"[}>]\"\.\Z"
)
_REWORDED: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"Expected string but found: "), "Expected string"),
    (re.compile(r"Expected identifier or number, got "), "Expected identifier"),
    (re.compile(r"Expected \"[}>]\"\.\Z"), "Expected identifier"),
    (re.compile(r"Couldn't parse integer: "), "Expected integer"),
    (re.compile(r"Couldn't parse float: "), "Expected double"),
)
_TOKEN: Final = re.compile(
    r"""[A-Za-z_]\w*|[0-9][\w.+-]*|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?|\S"""
)
_SPACE: Final = re.compile(r"(?:\s|#[^\n]*)*")


def _upstream_words(text: str, error: text_format.ParseError) -> str:
    """Return `line:column: reason` as protobuf's C++ parser would give them."""
    line, column = error.GetLine(), error.GetColumn()
    if line is None or column is None:
        return f"1:1: {error}"
    lines = text.split("\n")
    reason = str(error).partition(" : ")[2]
    for quoted in (lines[min(line, len(lines)) - 1], ""):
        reason = reason.removeprefix(f"'{quoted}': ")
    offset = sum(len(earlier) + 1 for earlier in lines[: line - 1]) + column - 1
    if _AT_PREVIOUS_TOKEN.search(reason):
        offset = _next_token(text, offset)
        line = text.count("\n", 0, offset) + 1
        column = offset - (text.rfind("\n", 0, offset) + 1) + 1
    for pattern, expected in _REWORDED:
        if pattern.match(reason):
            found = _TOKEN.match(text, offset)
            reason = f"{expected}, got: {found.group() if found else ''}"
            break
    return f"{line}:{column}: {reason}"


def _next_token(text: str, offset: int) -> int:
    """Return where the token after the one at *offset* begins."""
    token = _TOKEN.match(text, offset)
    space = _SPACE.match(text, token.end() if token else offset)
    return space.end() if space else len(text)
