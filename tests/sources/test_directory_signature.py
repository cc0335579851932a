"""Whether a directory looks the same as before."""

import os
from pathlib import Path

import pytest

from servable.sources.directory_signature import (
    MAX_ENTRIES,
    Attempt,
    Signature,
    directory_signature,
)


def write(path: Path, text: str, mtime_ns: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize(
    ("text", "mtime_ns", "name", "is_same"),
    [
        pytest.param("abc", 1, "variables/index", True, id="the same"),
        pytest.param("abcd", 1, "variables/index", False, id="another size"),
        pytest.param("abc", 2, "variables/index", False, id="another time"),
        pytest.param("abc", 1, "variables/other", False, id="one more file"),
    ],
)
def test_a_signature_changes_with_the_files(
    tmp_path: Path, text: str, mtime_ns: int, name: str, is_same: bool
) -> None:
    write(tmp_path / "variables" / "index", "abc")
    os.utime(tmp_path / "variables", ns=(5, 5))
    before = directory_signature(str(tmp_path))
    write(tmp_path / name, text, mtime_ns)
    os.utime(tmp_path / "variables", ns=(5, 5))

    assert (directory_signature(str(tmp_path)) == before) is is_same


def test_a_plain_file_and_nothing_have_signatures_too(tmp_path: Path) -> None:
    write(tmp_path / "123", "abc")

    ((name, size, time_ns, *_),) = directory_signature(str(tmp_path / "123"))
    assert (name, size, time_ns) == ("", 3, 1)
    assert directory_signature(str(tmp_path / "none")) == {("",)}


def test_a_signature_changes_with_who_may_read(tmp_path: Path) -> None:
    write(tmp_path / "123", "abc")
    (tmp_path / "123").chmod(0)
    before = directory_signature(str(tmp_path))
    (tmp_path / "123").chmod(0o644)

    assert directory_signature(str(tmp_path)) != before


def test_links_that_lead_round_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)

    assert len(directory_signature(str(tmp_path))) == 2


def test_a_directory_without_end_is_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servable.sources.directory_signature.MAX_ENTRIES", 5)
    for number in range(9):
        write(tmp_path / str(number), "x")

    assert MAX_ENTRIES > 5
    assert len(directory_signature(str(tmp_path))) == 5


def signature(size: int) -> Signature:
    return frozenset({("saved_model.pb", size, 0)})


@pytest.mark.parametrize(
    ("looks", "aspired"),
    [
        pytest.param([0, 0], 0, id="nothing has changed"),
        pytest.param([0, 1], 0, id="just changed: not yet"),
        pytest.param([0, 1, 1], 1, id="changed and at rest"),
        pytest.param([0, 1, 2, 3], 0, id="growing: not yet"),
        pytest.param([0, 1, 2, 2, 3], 2, id="at rest once, and changed again"),
        pytest.param([0, 1, 0, 0], 0, id="changed back"),
    ],
)
def test_an_attempt_follows_what_is_at_rest(looks: list[int], aspired: int) -> None:
    attempt = Attempt(signature(looks[0]), signature(looks[0]))
    for size in looks[1:]:
        attempt = attempt.look(signature(size))

    assert attempt.aspired == signature(aspired)
