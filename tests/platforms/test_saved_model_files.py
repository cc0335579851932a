"""Whether the files of a SavedModel are all there."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.platforms.saved_model_files import (
    Completeness,
    FileKind,
    Verdict,
    judge,
    judge_directory,
)

DIRECTORY = FileKind(is_regular=False, size_bytes=4096)
COMPLETE = {
    "saved_model.pb": FileKind(is_regular=True, size_bytes=100),
    "variables": DIRECTORY,
    "variables/variables.index": FileKind(is_regular=True, size_bytes=10),
    "variables/variables.data-00000-of-00002": FileKind(is_regular=True, size_bytes=1),
    "variables/variables.data-00001-of-00002": FileKind(is_regular=True, size_bytes=1),
    "assets": DIRECTORY,
}


def with_(**changes: FileKind | None) -> dict[str, FileKind]:
    names = {
        "pb": "saved_model.pb",
        "index": "variables/variables.index",
        "shard": "variables/variables.data-00001-of-00002",
        "other_shard": "variables/variables.data-00000-of-00003",
        "part": "variables/variables.index.part~",
    }
    files = dict(COMPLETE)
    for key, kind in changes.items():
        if kind is None:
            del files[names[key]]
        else:
            files[names[key]] = kind
    return files


FILE = FileKind(is_regular=True, size_bytes=5)
EMPTY = FileKind(is_regular=True, size_bytes=0)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(COMPLETE, Verdict(Completeness.COMPLETE), id="everything there"),
        pytest.param(
            {"saved_model.pbtxt": FILE}, Verdict(Completeness.COMPLETE), id="text graph"
        ),
        pytest.param(
            {"saved_model.pb": FILE, "variables": DIRECTORY},
            Verdict(Completeness.COMPLETE),
            id="an empty variables directory says nothing",
        ),
        pytest.param(
            {},
            Verdict(Completeness.NOT_A_SAVED_MODEL, "there is no file saved_model.pb"),
            id="nothing there",
        ),
        pytest.param(
            {"export.meta": FILE},
            Verdict(Completeness.NOT_A_SAVED_MODEL, "there is no file saved_model.pb"),
            id="something else there",
        ),
        pytest.param(
            with_(pb=EMPTY),
            Verdict(Completeness.INCOMPLETE, "saved_model.pb is empty"),
            id="empty graph",
        ),
        pytest.param(
            with_(pb=DIRECTORY),
            Verdict(Completeness.INCOMPLETE, "saved_model.pb is no regular file"),
            id="graph that is a directory, pipe or dangling link",
        ),
        pytest.param(
            with_(index=None),
            Verdict(Completeness.INCOMPLETE, "variables/variables.index is missing"),
            id="no index",
        ),
        pytest.param(
            with_(index=EMPTY),
            Verdict(Completeness.INCOMPLETE, "variables/variables.index is empty"),
            id="empty index",
        ),
        pytest.param(
            with_(shard=None),
            Verdict(
                Completeness.INCOMPLETE,
                "variables/variables.data-00001-of-00002 is missing",
            ),
            id="a shard missing",
        ),
        pytest.param(
            with_(shard=DIRECTORY),
            Verdict(
                Completeness.INCOMPLETE,
                "variables/variables.data-00001-of-00002 is no regular file",
            ),
            id="a shard that is no file",
        ),
        pytest.param(
            with_(other_shard=FILE),
            Verdict(
                Completeness.INCOMPLETE,
                "variables/variables.data is missing, or of several writes",
            ),
            id="shards of two writes",
        ),
        pytest.param(
            with_(part=FILE),
            Verdict(
                Completeness.INCOMPLETE,
                "variables/variables.index.part~ is still being written",
            ),
            id="a file that a tool has not finished",
        ),
    ],
)
def test_judges(files: dict[str, FileKind], expected: Verdict) -> None:
    assert judge(files) == expected


@given(st.sets(st.sampled_from(sorted(set(COMPLETE) - {"variables", "assets"}))))
def test_no_part_of_a_copy_counts_as_complete_unless_it_has_no_variables(
    copied: set[str],
) -> None:
    verdict = judge({name: COMPLETE[name] for name in copied})

    has_variables = any(name.startswith("variables/") for name in copied)
    is_whole = len(copied) == 4 or (copied == {"saved_model.pb"} and not has_variables)
    assert (verdict.completeness is Completeness.COMPLETE) == is_whole


def test_a_directory_on_disk(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "variables" / "variables.index").write_bytes(b"x")
    before = judge_directory(str(tmp_path))
    (tmp_path / "variables" / "variables.data-00000-of-00001").write_bytes(b"")

    assert before.completeness is Completeness.INCOMPLETE
    assert judge_directory(str(tmp_path)) == Verdict(Completeness.COMPLETE)


def test_a_pipe_in_place_of_the_graph_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "saved_model.pb")

    assert judge_directory(str(tmp_path)).reason == "saved_model.pb is no regular file"


def test_a_dangling_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").symlink_to(tmp_path / "gone")

    assert judge_directory(str(tmp_path)).reason == "saved_model.pb is no regular file"


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_what_is_no_directory_is_no_saved_model(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "1"
    if kind == "file":
        path.write_text("x")

    assert judge_directory(str(path)).completeness is Completeness.NOT_A_SAVED_MODEL
