"""
Why a text is no message, in the words of protobuf's C++ parser.

People search for its words, and tests look for them, so a text that Python's parser
has refused is read once more here, as that parser reads: token by token, and up to
the first token at which it would stop.  What the fields mean is left to Python's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    OneofDescriptor,
)

_ANY: Final = "google.protobuf.Any"
_INT32_MAX: Final = 2**31 - 1
_TAB: Final = 8

# The largest value; after a minus sign one more.
_LIMITS: Final = {
    FieldDescriptor.CPPTYPE_INT32: _INT32_MAX,
    FieldDescriptor.CPPTYPE_INT64: 2**63 - 1,
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
}
_MOST_DIGITS: Final = 22
_SIGNED: Final = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_BOOLS: Final = {"true", "True", "t", "false", "False", "f"}
_NO_NUMBERS: Final = {"inf", "infinity", "nan"}

_SPACE: Final = re.compile(r"(?:[ \t\n\r\v\f]|#[^\n]*)*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER: Final = re.compile(
    r"0[xX][0-9a-fA-F]*|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]*)?[fF]?"
)
_BAD_OCTAL: Final = re.compile(r"0[0-7]*([89])[0-9]*")
_ESCAPE: Final = re.compile(
    r"""\\(?:[abfnrtv\\?'"]|[0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}"""
    r"""|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})"""
)


def find_problem(text: str, descriptor: Descriptor) -> str | None:
    """Return `line:column: reason` for the first thing that is wrong in *text*."""
    try:
        _Reader(text).message(descriptor, "")
    except _ProblemError as error:
        return f"{_place(text, error.offset)}: {error.reason}"
    except RecursionError:
        return None
    return None


class _ProblemError(Exception):
    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Token:
    """One token; its kind is that of `_Reader`, and "" is the end of the text."""

    kind: str
    text: str
    offset: int


def _place(text: str, offset: int) -> str:
    line_start = text.rfind("\n", 0, offset) + 1
    column = 0
    for character in text[line_start:offset]:
        column += _TAB - column % _TAB if character == "\t" else len(character.encode())
    return f"{text.count(chr(10), 0, offset) + 1}:{column + 1}"


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        space = _SPACE.match(text, at)
        at = space.end() if space else at
        if at == len(text):
            yield _Token("", "", at)
            return
        token = _token(text, at)
        yield token
        at += len(token.text)


def _token(text: str, at: int) -> _Token:
    if found := _IDENTIFIER.match(text, at):
        return _Token("identifier", found.group(), at)
    if found := _NUMBER.match(text, at):
        return _number(text, at, found.group())
    character = text[at]
    if character in "\"'":
        return _Token("string", text[at : _string_end(text, at)], at)
    if character < " ":
        raise _ProblemError(at, "Invalid control characters encountered in text.")
    if not character.isascii():
        reason = f"Interpreting non ascii codepoint {character.encode()[0]}."
        raise _ProblemError(at, reason)
    return _Token("symbol", character, at)


def _number(text: str, at: int, number: str) -> _Token:
    end = at + len(number)
    is_hex = number[:2] in {"0x", "0X"}
    if number in {"0x", "0X"}:
        raise _ProblemError(end, '"0x" must be followed by hex digits.')
    if not is_hex and number.rstrip("fF+-")[-1] in {"e", "E"}:
        raise _ProblemError(end, '"e" must be followed by exponent.')
    if octal := _BAD_OCTAL.fullmatch(number):
        reason = "Numbers starting with leading zero must be in octal."
        raise _ProblemError(at + octal.start(1), reason)
    if _IDENTIFIER.match(text, end):
        raise _ProblemError(end, "Need space between number and identifier.")
    if text.startswith(".", end):
        reason = "Already saw decimal point or exponent; can't have another one."
        if is_hex:
            reason = "Hex and octal numbers must be integers."
        raise _ProblemError(end, reason)
    return _Token("integer" if is_hex or number.isdigit() else "float", number, at)


def _string_end(text: str, at: int) -> int:
    quote = text[at]
    at += 1
    while at < len(text) and text[at] != quote:
        if text[at] == "\n":
            reason = "String literals cannot cross line boundaries."
            raise _ProblemError(at, reason)
        if text[at] != "\\":
            at += 1
        elif escape := _ESCAPE.match(text, at):
            at = escape.end()
        else:
            raise _escape_problem(text, at)
    if at == len(text):
        raise _ProblemError(at, "Unexpected end of string.")
    return at + 1


def _escape_problem(text: str, at: int) -> _ProblemError:
    expected = {
        "x": "Expected hex digits for escape sequence.",
        "X": "Expected hex digits for escape sequence.",
        "u": "Expected four hex digits for \\u escape sequence.",
        "U": "Expected eight hex digits up to 10ffff for \\U escape sequence",
    }
    if reason := expected.get(text[at + 1 : at + 2]):
        return _ProblemError(at + 2, reason)
    return _ProblemError(at + 1, "Invalid escape sequence in string literal.")


class _Reader:
    """The messages of one text, read in one go."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._token = next(self._tokens)

    def message(self, descriptor: Descriptor, end: str) -> None:
        """Read fields up to the token *end*, and not that."""
        given: set[str] = set()
        while self._token.text not in {">", "}"} if end else self._token.kind:
            self._field(descriptor, given)

    def _field(self, descriptor: Descriptor, given: set[str]) -> None:
        if self._take("["):
            self._in_brackets(descriptor)
            return
        name = self._identifier()
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise self._problem(
                f'Message type "{descriptor.full_name}" has no field named "{name}".'
            )
        self._only_once(field, given)
        if field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
            self._expect(":")
        else:
            self._take(":")
        if field.is_repeated and self._take("["):
            self._list(field)
        else:
            self._value(field)
        self._separator()

    def _only_once(self, field: FieldDescriptor, given: set[str]) -> None:
        if not field.is_repeated:
            if field.name in given:
                raise self._problem(
                    f'Non-repeated field "{field.name}" is specified multiple times.'
                )
            if group := field.containing_oneof:
                self._only_one(group, field, given)
        given.add(field.name)

    def _only_one(
        self, group: OneofDescriptor, field: FieldDescriptor, given: set[str]
    ) -> None:
        for other in group.fields:
            if other.name in given:
                raise self._problem(
                    f'Field "{field.name}" is specified along with field '
                    f'"{other.name}", another member of oneof "{group.name}".'
                )

    def _in_brackets(self, descriptor: Descriptor) -> None:
        name = self._identifier()
        while self._token.text in {".", "/"}:
            if self._token.text == "/" and descriptor.full_name != _ANY:
                break
            name += self._next().text + self._identifier()
        self._expect("]")
        if descriptor.full_name != _ANY:
            raise self._problem(
                f'Extension "{name}" is not defined or is not an extension of '
                f'"{descriptor.full_name}".'
            )
        self._take(":")
        try:
            stored = descriptor.file.pool.FindMessageTypeByName(name.split("/")[-1])
        except KeyError:
            raise self._problem(
                f'Could not find type "{name}" stored in {_ANY}.'
            ) from None
        self._braces(stored)
        self._separator()

    def _list(self, field: FieldDescriptor) -> None:
        if self._take("]"):
            return
        while True:
            self._value(field)
            if self._take("]"):
                return
            self._expect(",")

    def _braces(self, descriptor: Descriptor) -> None:
        end = ">" if self._take("<") else "}"
        if end == "}":
            self._expect("{")
        self.message(descriptor, end)
        self._expect(end)

    def _value(self, field: FieldDescriptor) -> None:
        kind = field.cpp_type
        if field.message_type is not None:
            self._braces(field.message_type)
        elif kind in _LIMITS:
            self._integer(_LIMITS[kind], signed=kind in _SIGNED)
        elif kind == FieldDescriptor.CPPTYPE_STRING:
            self._string()
        elif kind == FieldDescriptor.CPPTYPE_BOOL:
            self._bool(field)
        elif field.enum_type is not None:
            self._enum(field, field.enum_type)
        else:
            self._double()

    def _integer(self, limit: int, *, signed: bool) -> None:
        if signed and self._take("-"):
            limit += 1
        if self._token.kind != "integer":
            raise self._problem(f"Expected integer, got: {self._token.text}")
        digits = self._token.text
        is_octal = digits.startswith("0") and digits.isdigit()
        # More digits than any type has are not even counted up: Python refuses to.
        is_long = len(digits.lstrip("0")) > _MOST_DIGITS
        if is_long or int(digits, 8 if is_octal else 0) > limit:
            raise self._problem(f"Integer out of range ({digits})")
        self._next()

    def _string(self) -> None:
        if self._token.kind != "string":
            raise self._problem(f"Expected string, got: {self._token.text}")
        while self._token.kind == "string":
            self._next()

    def _bool(self, field: FieldDescriptor) -> None:
        if self._token.kind == "integer":
            self._integer(1, signed=False)
            return
        value = self._identifier()
        if value not in _BOOLS:
            raise self._problem(
                f'Invalid value for boolean field "{field.name}". Value: "{value}".'
            )

    def _enum(self, field: FieldDescriptor, values: EnumDescriptor) -> None:
        if self._token.kind == "integer" or self._token.text == "-":
            self._integer(_INT32_MAX, signed=True)
            return
        if self._token.kind != "identifier":
            raise self._problem(
                f"Expected integer or identifier, got: {self._token.text}"
            )
        value = self._next().text
        if value not in values.values_by_name:
            raise self._problem(
                f'Unknown enumeration value of "{value}" for field "{field.name}".'
            )

    def _double(self) -> None:
        self._take("-")
        is_word = self._token.text.lower() in _NO_NUMBERS
        if self._token.kind not in {"integer", "float"} and not is_word:
            raise self._problem(f"Expected double, got: {self._token.text}")
        self._next()

    def _identifier(self) -> str:
        if self._token.kind != "identifier":
            raise self._problem(f"Expected identifier, got: {self._token.text}")
        return self._next().text

    def _separator(self) -> None:
        if not self._take(";"):
            self._take(",")

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._problem(f'Expected "{text}", found "{self._token.text}".')

    def _take(self, text: str) -> bool:
        if self._token.text != text:
            return False
        self._next()
        return True

    def _next(self) -> _Token:
        token = self._token
        self._token = next(self._tokens)
        return token

    def _problem(self, reason: str) -> _ProblemError:
        return _ProblemError(self._token.offset, reason)
