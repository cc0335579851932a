"""
Whether the files of a SavedModel are all there.

Copies arrive file by file, and TensorFlow loads what has no variables as if it
never had any.  What can be told from names and sizes is told here; whether a graph
without a `variables` directory needs one is for whoever reads the graph.
"""

import enum
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

GRAPH_FILES: Final = ("saved_model.pb", "saved_model.pbtxt")
VARIABLES_DIRECTORY: Final = "variables"

_INDEX = "variables.index"
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")
# What tools call a file that they have not finished.
_UNFINISHED = re.compile(
    r".*(\.part~?|\.partial|\.tmp|\.temp|\.filepart|\.tempstate.*)", re.IGNORECASE
)


class Completeness(enum.Enum):
    """What a version directory is."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    NOT_A_SAVED_MODEL = "not a SavedModel"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a version directory is, and why it is not complete; empty if it is."""

    completeness: Completeness
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What matters of one entry: is it a regular file, and how many bytes."""

    is_regular: bool
    size_bytes: int


def judge(files: Mapping[str, FileKind]) -> Verdict:
    """
    Return whether *files* make a complete SavedModel.

    Args:
        files: everything in the version directory, by its relative name with `/`;
            directories are entries that are not regular.
    """
    graphs = [name for name in GRAPH_FILES if name in files]
    if not graphs:
        return Verdict(
            Completeness.NOT_A_SAVED_MODEL, f"there is no file {GRAPH_FILES[0]}"
        )
    reason = (
        _problem_of_names(files)
        or _problem_of_file(graphs[0], files)
        or _problem_of_variables(files)
    )
    return Verdict(Completeness.INCOMPLETE, reason) if reason else _COMPLETE


def judge_directory(path: str) -> Verdict:
    """
    Return whether the version directory at *path* is a complete SavedModel.

    Only the directory itself and `variables` are looked into.  Blocks on the file
    system; never raises for what it finds there.
    """
    files: dict[str, FileKind] = {}
    for directory in ("", VARIABLES_DIRECTORY):
        full = os.path.join(path, directory)
        try:
            names = os.listdir(full)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            reason = f"{directory or 'the directory'} cannot be read: {exc.strerror}"
            return Verdict(Completeness.INCOMPLETE, reason)
        for name in names:
            files[os.path.join(directory, name)] = _kind_of(os.path.join(full, name))
    return judge(files)


_COMPLETE = Verdict(Completeness.COMPLETE)


def _problem_of_names(names: Iterable[str]) -> str:
    unfinished = sorted(name for name in names if _UNFINISHED.fullmatch(name))
    return f"{unfinished[0]} is still being written" if unfinished else ""


def _problem_of_file(name: str, files: Mapping[str, FileKind]) -> str:
    kind = files.get(name)
    if kind is None:
        return f"{name} is missing"
    if not kind.is_regular:
        return f"{name} is no regular file"
    if not kind.size_bytes:
        return f"{name} is empty"
    return ""


def _problem_of_variables(files: Mapping[str, FileKind]) -> str:
    prefix = f"{VARIABLES_DIRECTORY}/"
    names = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    if VARIABLES_DIRECTORY not in files and not names:
        return ""
    if VARIABLES_DIRECTORY in files and files[VARIABLES_DIRECTORY].is_regular:
        return f"{VARIABLES_DIRECTORY} is no directory"
    if not names:
        return ""  # tools write an empty one for graphs without variables
    return _problem_of_file(prefix + _INDEX, files) or _problem_of_shards(names, files)


def _problem_of_shards(names: Sequence[str], files: Mapping[str, FileKind]) -> str:
    prefix = f"{VARIABLES_DIRECTORY}/"
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    counts = {int(match[2]) for match in shards}
    if len(counts) != 1:
        return f"{prefix}variables.data is missing, or of several writes"
    count = counts.pop()
    present = {int(match[1]) for match in shards}
    for index in range(count):
        name = f"{prefix}variables.data-{index:05d}-of-{count:05d}"
        if index not in present:
            return f"{name} is missing"
        if not files[name].is_regular:
            return f"{name} is no regular file"
    return ""


def _kind_of(path: str) -> FileKind:
    try:
        status = os.stat(path)
    except OSError:  # a link to nothing
        return FileKind(is_regular=False, size_bytes=0)
    return FileKind(stat.S_ISREG(status.st_mode), status.st_size)
