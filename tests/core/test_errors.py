"""The error tree and its codes."""

import pytest

from servable import errors
from servable.errors import Code, NotFound, ServingError, from_code, from_exception


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_has_a_class_of_its_own(code: Code) -> None:
    error = from_code(code, "text")

    assert (error.code, error.message, type(error) is ServingError) == (
        code,
        "text",
        False,
    )


def test_the_numbers_are_those_on_the_wire() -> None:
    assert [(code.name, code.value) for code in Code] == [
        ("OK", 0),
        ("CANCELLED", 1),
        ("UNKNOWN", 2),
        ("INVALID_ARGUMENT", 3),
        ("DEADLINE_EXCEEDED", 4),
        ("NOT_FOUND", 5),
        ("ALREADY_EXISTS", 6),
        ("PERMISSION_DENIED", 7),
        ("RESOURCE_EXHAUSTED", 8),
        ("FAILED_PRECONDITION", 9),
        ("ABORTED", 10),
        ("OUT_OF_RANGE", 11),
        ("UNIMPLEMENTED", 12),
        ("INTERNAL", 13),
        ("UNAVAILABLE", 14),
        ("DATA_LOSS", 15),
        ("UNAUTHENTICATED", 16),
    ]


def test_the_status_text_shows_code_and_message() -> None:
    assert NotFound("no such model").status_text == "NOT_FOUND: no such model"


def test_a_number_that_is_no_code_is_unknown() -> None:
    assert from_code(77, "text").code is Code.UNKNOWN


def test_ok_is_not_an_error() -> None:
    with pytest.raises(ValueError, match="OK"):
        from_code(0, "")


class _EngineError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@pytest.mark.parametrize(
    ("exc", "status_text"),
    [
        pytest.param(NotFound("n"), "NOT_FOUND: n", id="one of ours"),
        pytest.param(_EngineError(9, "f"), "FAILED_PRECONDITION: f", id="the engine's"),
        pytest.param(
            _EngineError(503, "down"),
            "UNKNOWN: _EngineError: (503, 'down')",
            id="with a code that is none of ours",
        ),
        pytest.param(FileNotFoundError("x"), "NOT_FOUND: x", id="missing file"),
        pytest.param(PermissionError("x"), "PERMISSION_DENIED: x", id="forbidden"),
        pytest.param(
            MemoryError(), "RESOURCE_EXHAUSTED: MemoryError", id="no memory, no text"
        ),
        pytest.param(
            NotImplementedError("x"), "UNIMPLEMENTED: x", id="not implemented"
        ),
        pytest.param(ValueError("x"), "INVALID_ARGUMENT: x", id="wrong value"),
        pytest.param(OSError("x"), "UNAVAILABLE: x", id="other file trouble"),
        pytest.param(IndexError("x"), "UNKNOWN: IndexError: x", id="anything else"),
        pytest.param(SystemExit(3), "UNKNOWN: SystemExit: 3", id="an exit"),
    ],
)
def test_any_exception_becomes_a_status(exc: BaseException, status_text: str) -> None:
    assert from_exception(exc).status_text == status_text


def test_our_own_errors_stay_the_same_object() -> None:
    error = errors.Internal("x")

    assert from_exception(error) is error
