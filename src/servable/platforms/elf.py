"""
What a library says of itself before it is opened: for which machine it is, and what it
would share with other versions of itself.

Pure: bytes in, an answer out.  Opening it is the dynamic linker's, whose own words
about a file that is none of its kind are few.
"""

import platform
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

from servable.errors import FailedPrecondition

Bytes: TypeAlias = bytes | memoryview

_MAGIC: Final = b"\x7fELF"
_HEAD: Final = struct.Struct("<4sBB10xHH")
_IS_64_BIT: Final = 2
_IS_LITTLE_ENDIAN: Final = 1
_IS_LIBRARY: Final = 3
# What platform.machine() says for the numbers of e_machine.
_MACHINES: Final = {
    3: "i386",
    21: "ppc64le",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
# e_phoff; p_offset and p_filesz of a segment.
_SEGMENTS_AT: Final = struct.Struct("<Q")
_SEGMENT: Final = struct.Struct("<8xQ16xQ16x")
# e_shoff; sizes and numbers of segments and of sections stand in pairs.
_SECTIONS_AT: Final = struct.Struct("<Q")
_COUNTS: Final = struct.Struct("<HH")
# sh_type, sh_offset, sh_size and sh_link of a section.
_SECTION: Final = struct.Struct("<4xI16xQQI20x")
# st_name, st_info and st_shndx of a symbol.
_SYMBOL: Final = struct.Struct("<IB1xH16x")
_DYNAMIC_SYMBOLS: Final = 11
_UNIQUE: Final = 10


def check_library(file: Bytes, machine: str | None = None) -> None:
    """
    Check that a file is a library, and all there: opening a part of one is a crash.

    Args:
        file: all of it.
        machine: what it is to run on, as `platform.machine()` has it; None: this one.

    Raises:
        FailedPrecondition: It is no library for that machine, or a part of one.
    """
    machine = machine or platform.machine()
    if len(file) < _HEAD.size or bytes(file[:4]) != _MAGIC:
        raise FailedPrecondition("servable.so is no library: it does not begin as one")
    _, width, order, kind, number = _HEAD.unpack_from(file)
    found = _MACHINES.get(number, f"machine {number}")
    is_foreign = width != _IS_64_BIT or order != _IS_LITTLE_ENDIAN
    if is_foreign or found != machine:
        bits = 64 if width == _IS_64_BIT else 32
        raise FailedPrecondition(
            f"servable.so is for {found} ({bits} bits); this server runs on {machine}"
        )
    if kind != _IS_LIBRARY:
        raise FailedPrecondition(
            "servable.so is no shared library; link it with -shared"
        )
    try:
        needed = max(_ends_of_segments(file))
    except (struct.error, ValueError):
        needed = len(file) + 1
    if needed > len(file):
        raise FailedPrecondition(
            f"servable.so is not complete: {len(file)} bytes of it are there"
        )


def _ends_of_segments(file: Bytes) -> Iterator[int]:
    (start,) = _SEGMENTS_AT.unpack_from(file, 0x20)
    width, count = _COUNTS.unpack_from(file, 0x36)
    for at in range(count):
        offset, size = _SEGMENT.unpack_from(file, start + at * width)
        yield offset + size


def unique_symbols(file: Bytes) -> list[str]:
    """
    Return the symbols that the process has once, whichever library defines them.

    gcc makes them of static variables in templates and inline functions.  A second
    version of the library would use those of the first, and neither is ever unloaded.
    A file that is damaged, or has no table of sections, has none.
    """
    try:
        return list(_unique_symbols(file))
    except (struct.error, ValueError, UnicodeDecodeError):
        return []


def _unique_symbols(file: Bytes) -> Iterator[str]:
    (start,) = _SECTIONS_AT.unpack_from(file, 0x28)
    width, count = _COUNTS.unpack_from(file, 0x3A)
    if width != _SECTION.size:
        return
    sections = [_SECTION.unpack_from(file, start + at * width) for at in range(count)]
    for kind, offset, size, link in sections:
        if kind != _DYNAMIC_SYMBOLS or link >= count:
            continue
        _, names, names_size, _ = sections[link]
        texts = bytes(file[names : names + names_size])
        table = file[offset : offset + size - size % _SYMBOL.size]
        for name, info, section in _SYMBOL.iter_unpack(table):
            if info >> 4 == _UNIQUE and section:
                yield texts[name : texts.index(b"\0", name)].decode()
