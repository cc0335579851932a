"""
Configuration files in protobuf's text format.

A file that cannot be read or understood is told of as TensorFlow Serving does:
the place and the reason in the log, and an error that names the file.  Where secrets
may stand in it, the log has nothing of the file.
"""

import errno
import logging
import os
import re
from typing import Final, TypeVar, cast

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from servable.apis import POOL
from servable.config import text_format_problem
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


def read_text_proto(
    path: str, message_type: type[M], *, has_secrets: bool = False
) -> M:
    """
    Read the file at *path* as one message of *message_type*.

    A file with nothing but white space in it is an empty message.  Of one that
    *has_secrets* nothing is logged but the place of what is wrong, and the reason
    where that repeats no word of it.

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
    return parse_text_proto(data, message_type, path, has_secrets=has_secrets)


def parse_text_proto(
    data: bytes, message_type: type[M], path: str, *, has_secrets: bool = False
) -> M:
    """
    Parse *data*, which came from *path*, as one message of *message_type*.

    What *has_secrets* changes, read_text_proto() says.

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
    except (text_format.ParseError, *_LET_THROUGH) as error:
        found = text_format_problem.find_problem(
            text, cast("Descriptor", message.DESCRIPTOR)
        )
        problem = found or f"1:1: {error}"
        if has_secrets:
            problem = _without_secrets(problem)
    else:
        return message
    _logger.error(
        "Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, problem
    )
    raise InvalidArgument(f"Invalid protobuf file: '{path}'")


def _without_secrets(problem: str) -> str:
    """Return *problem*, with another reason unless it says the same of every file."""
    place, _, reason = problem.partition(": ")
    # Whatever repeats something of the file has quotation marks or a colon before it.
    is_plain = _PLAIN.fullmatch(reason)
    return problem if is_plain else f"{place}: Something else is expected here."


_PLAIN: Final = re.compile(r"[A-Za-z ]+\.")

# What the parser lets through although a file can cause it: endless nesting, numbers
# that a field has no room for.
_LET_THROUGH: Final = (RecursionError, ValueError, TypeError, OverflowError)


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
