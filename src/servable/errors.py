"""
The errors of this package, with canonical codes.

Every error that may reach a client, an operator or a caller of the library is
one of these.  Transports translate the code; nobody translates back.

ServingError
├── Cancelled            nobody wants the answer any more
├── Unknown              an error from elsewhere that says too little
├── InvalidArgument      the request itself is wrong
├── DeadlineExceeded     it took too long
├── NotFound             no such model, version, label or file
├── AlreadyExists        there is one already
├── PermissionDenied     the caller may not
├── ResourceExhausted    a limit is reached: memory, bytes, connections
├── FailedPrecondition   right in itself, but not in this state
├── Aborted              lost against somebody else, may be tried again
├── OutOfRange           past the end
├── Unimplemented        not supported here
├── Internal             a promise inside the server was broken
├── Unavailable          try again later: queue full, server draining
├── DataLoss             what was stored cannot be read back
└── Unauthenticated      the caller did not say who it is
"""

import enum
from typing import ClassVar


class Code(enum.IntEnum):
    """The canonical status codes; numbers and names as on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """
    An error with a canonical code.

    Attributes:
        code: which kind of error; fixed by the class.
        message: what happened, for a person; may be empty.
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    @property
    def status_text(self) -> str:
        """Code and message as logs and start-up errors show them."""
        return f"{self.code.name}: {self.message}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.message!r}>"


class Cancelled(ServingError):
    """Nobody wants the answer any more."""

    code = Code.CANCELLED


class Unknown(ServingError):
    """An error from elsewhere that says too little."""

    code = Code.UNKNOWN


class InvalidArgument(ServingError):
    """The request itself is wrong, whatever state the server is in."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(ServingError):
    """It took longer than the caller was willing to wait."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(ServingError):
    """There is no such model, version, label or file."""

    code = Code.NOT_FOUND


class AlreadyExists(ServingError):
    """There is one already."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(ServingError):
    """The caller may not do this."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(ServingError):
    """A limit is reached: memory, bytes, connections."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(ServingError):
    """The request is right in itself, but not in the state things are in."""

    code = Code.FAILED_PRECONDITION


class Aborted(ServingError):
    """It lost against something concurrent and may be tried again."""

    code = Code.ABORTED


class OutOfRange(ServingError):
    """It reaches past the end of something."""

    code = Code.OUT_OF_RANGE


class Unimplemented(ServingError):
    """It is not supported here."""

    code = Code.UNIMPLEMENTED


class Internal(ServingError):
    """A promise inside the server was broken."""

    code = Code.INTERNAL


class Unavailable(ServingError):
    """Not now: try again later."""

    code = Code.UNAVAILABLE


class DataLoss(ServingError):
    """What was stored cannot be read back."""

    code = Code.DATA_LOSS


class Unauthenticated(ServingError):
    """The caller did not say who it is."""

    code = Code.UNAUTHENTICATED


_CLASSES: dict[Code, type[ServingError]] = {
    cls.code: cls
    for cls in (
        Cancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}

# Most specific first: the first class that an exception is an instance of counts.
_BUILTINS: tuple[tuple[type[BaseException], type[ServingError]], ...] = (
    (FileNotFoundError, NotFound),
    (NotADirectoryError, NotFound),
    (FileExistsError, AlreadyExists),
    (PermissionError, PermissionDenied),
    (TimeoutError, DeadlineExceeded),
    (MemoryError, ResourceExhausted),
    (NotImplementedError, Unimplemented),
    (ValueError, InvalidArgument),
    (OSError, Unavailable),
)


def from_code(code: int, message: str) -> ServingError:
    """
    Return the error of this package for a canonical *code*.

    A number that is no canonical code becomes UNKNOWN, as gRPC clients do it.

    Raises:
        ValueError: code is 0; OK is not an error.
    """
    if code == Code.OK:
        raise ValueError("OK is not an error")
    try:
        return _CLASSES[Code(code)](message)
    except ValueError:
        return Unknown(message)


def from_exception(exc: BaseException) -> ServingError:
    """
    Return *exc* as an error of this package; the same object when it is one.

    An exception that was given a canonical `code` and a `message`, as the engine
    raises, keeps both; the codes of others say something else.  Built-in exceptions
    map to the code that says the same, all others to UNKNOWN.
    """
    if isinstance(exc, ServingError):
        return exc
    # Not by getattr: aiohttp warns whoever reads the code of its errors.
    code, message = exc.__dict__.get("code"), exc.__dict__.get("message")
    if isinstance(code, int) and code in _CLASSES and isinstance(message, str):
        return from_code(code, message)
    for builtin, cls in _BUILTINS:
        if isinstance(exc, builtin):
            return cls(str(exc) or type(exc).__name__)
    return Unknown(f"{type(exc).__name__}: {exc}")
