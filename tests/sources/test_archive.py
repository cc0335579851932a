"""Archives: what was packed comes out, and nothing gets out of its directory."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.errors import Code, DataLoss, ServingError
from servable.sources import archive


def member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return an archive of one member."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def two(first: bytes, second: bytes) -> bytes:
    """Return the members of both archives in one."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for packed in (first, second):
            with tarfile.open(fileobj=io.BytesIO(packed)) as source:
                info = source.next()
                assert info
                made.addfile(info, source.extractfile(info) if info.isfile() else None)
    return out.getvalue()


GOOD = member("saved_model.pb", b"graph" * 1000)


@pytest.mark.parametrize(
    ("packed", "code"),
    [
        pytest.param(member("../x"), Code.INVALID_ARGUMENT, id="above"),
        pytest.param(member("a/../../x"), Code.INVALID_ARGUMENT, id="above, hidden"),
        pytest.param(member("/x"), Code.INVALID_ARGUMENT, id="absolute"),
        pytest.param(member("a\\..\\x"), Code.INVALID_ARGUMENT, id="backslashes"),
        pytest.param(
            member("x", kind=tarfile.SYMTYPE), Code.INVALID_ARGUMENT, id="a link"
        ),
        pytest.param(
            member("x", kind=tarfile.LNKTYPE), Code.INVALID_ARGUMENT, id="a hard link"
        ),
        pytest.param(
            member("x", kind=tarfile.FIFOTYPE), Code.INVALID_ARGUMENT, id="a pipe"
        ),
        pytest.param(
            member("x", kind=tarfile.CHRTYPE), Code.INVALID_ARGUMENT, id="a device"
        ),
        pytest.param(
            two(member("a", kind=tarfile.SYMTYPE), member("a/x")),
            Code.INVALID_ARGUMENT,
            id="a file behind a link",
        ),
        pytest.param(
            two(member("a"), member("a")), Code.INVALID_ARGUMENT, id="one name twice"
        ),
        pytest.param(
            two(member("a"), member("a/b")), Code.INVALID_ARGUMENT, id="below a file"
        ),
        pytest.param(member("x" * 300), Code.INVALID_ARGUMENT, id="a long name"),
        pytest.param(member("x", b"x" * 101), Code.RESOURCE_EXHAUSTED, id="large"),
        pytest.param(GOOD[:2000], Code.RESOURCE_EXHAUSTED, id="large and cut short"),
        pytest.param(member("x", b"x" * 90)[:550], Code.DATA_LOSS, id="cut short"),
        pytest.param(b"", Code.DATA_LOSS, id="empty"),
        pytest.param(b"no archive" * 100, Code.DATA_LOSS, id="something else"),
        pytest.param(b"\x1f\x8b\x08broken", Code.DATA_LOSS, id="broken gzip"),
    ],
)
def test_what_is_refused(packed: bytes, code: Code, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ServingError) as caught:
        archive.unpack(io.BytesIO(packed), str(inside), 100)

    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert not any(path.is_symlink() for path in inside.rglob("*"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_compressed_archives_are_taken(mode: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as made:  # type: ignore[call-overload]
        info = tarfile.TarInfo("./saved_model.pb")
        info.size = 5
        made.addfile(info, io.BytesIO(b"graph"))
    archive.unpack(io.BytesIO(out.getvalue()), str(tmp_path), 100)

    assert (tmp_path / "saved_model.pb").read_bytes() == b"graph"


names = st.text("ab.- é", min_size=1, max_size=6).filter(
    lambda name: name.strip(".") == name and name
)


@given(
    files=st.dictionaries(
        st.tuples(names.map("d{}".format), names.map("f{}".format)),
        st.binary(max_size=2000),
        max_size=5,
    )
)
def test_what_was_packed_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, str], bytes]
) -> None:
    before, after = (tmp_path_factory.mktemp(name) for name in ("before", "after"))
    for (directory, name), data in files.items():
        (before / directory).mkdir(exist_ok=True)
        (before / directory / name).write_bytes(data)
    out = io.BytesIO()
    archive.pack(str(before), out)
    archive.unpack(io.BytesIO(out.getvalue()), str(after), 1 << 20)

    assert {
        (path.parent.name, path.name): path.read_bytes()
        for path in after.rglob("*")
        if path.is_file()
    } == files


def test_links_are_packed_as_what_they_lead_to(tmp_path: Path) -> None:
    for name in ("model", "elsewhere", "after"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "vocabulary").write_text("words")
    (tmp_path / "model" / "assets").symlink_to(tmp_path / "elsewhere")
    out = io.BytesIO()
    archive.pack(str(tmp_path / "model"), out)
    archive.unpack(io.BytesIO(out.getvalue()), str(tmp_path / "after"), 1000)

    assert (tmp_path / "after" / "assets" / "vocabulary").read_text() == "words"


def test_a_reader_may_give_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise DataLoss("enough")

    with pytest.raises(DataLoss, match="enough"):
        archive.unpack(io.BytesIO(GOOD), str(tmp_path), 10_000, give_up)
