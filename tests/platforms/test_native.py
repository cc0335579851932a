"""Native libraries: what is opened and refused, and what they may do wrong."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.apis import predict_pb2
from servable.client import make_tensor_proto
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import Code, ServingError, from_exception
from servable.platforms import elf
from servable.platforms.native import (
    NativeLoader,
    NativePlatform,
    native_platform,
    remove_left_copies,
)

PREDICT = 6
WRONG = "tests/integration/native/wrong.c"
FLAGS = ("-shared", "-fPIC", "-Wno-unused-function")

# Prints after each of two rounds how often the library is mapped.
LOAD_TWICE = """
import sys
from servable.apis import predict_pb2
from servable.client import make_tensor_proto
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.platforms.native import NativePlatform

request = predict_pb2.PredictRequest()
request.inputs["x"].CopyFrom(make_tensor_proto([1.0], "float32"))
for _ in range(2):
    loader = NativePlatform().loader(ServableId("m", 1), StoragePath(sys.argv[1]))
    loader.load()
    loader.servable().replay(6, request.SerializeToString())
    loader.unload()
    print(open("/proc/self/maps").read().count("servable.so"))
"""

Compiled = Callable[..., Path]


@pytest.fixture
def library(compiled: Compiled) -> Path:
    """The library that does what how.txt says."""
    return compiled(WRONG, *FLAGS, compiler="gcc")


def write(path: Path, library: Path, how: str = "well") -> NativeLoader:
    """Write a version directory; return its Loader."""
    path.mkdir(exist_ok=True)
    shutil.copyfile(library, path / "servable.so")
    (path / "how.txt").write_text(how)
    return NativePlatform().loader(ServableId("m", 1), StoragePath(str(path)))


def predict(loader: NativeLoader) -> list[float]:
    from servable import _engine  # noqa: PLC0415

    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(make_tensor_proto([0.0], "float32"))
    try:
        answer = loader.servable().replay(PREDICT, request.SerializeToString())
    except _engine.EngineError as error:
        raise from_exception(error) from None
    return list(predict_pb2.PredictResponse.FromString(answer).outputs["y"].float_val)


@pytest.fixture
def loaded(tmp_path: Path, library: Path) -> Iterator[Callable[[str], NativeLoader]]:
    loaders = []

    def loaded(how: str) -> NativeLoader:
        loader = write(tmp_path / "v", library, how)
        loader.load()
        loaders.append(loader)
        return loader

    yield loaded
    for loader in loaders:
        loader.unload()


def test_a_library_is_loaded_asked_and_unloaded(
    loaded: Callable[[str], NativeLoader],
) -> None:
    loader = loaded("well")

    assert predict(loader) == [1, 2, 3, 4]
    loader.unload()
    with pytest.raises(ServingError, match="is not loaded"):
        loader.servable()


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        pytest.param("fails", Code.DATA_LOSS, "the weights are torn", id="load fails"),
        pytest.param(
            "fails without a text",
            Code.UNAVAILABLE,
            "Loading the servable failed",
            id="load fails and says nothing",
        ),
        pytest.param(
            "no instance", Code.INTERNAL, "gave no instance", id="no instance"
        ),
        pytest.param(
            "no description", Code.INTERNAL, "gave no description", id="no description"
        ),
        pytest.param(
            "no size",
            Code.INTERNAL,
            "gave no description",
            id="a description without its size",
        ),
        *(
            pytest.param(how, Code.FAILED_PRECONDITION, text, id=how)
            for how, text in (
                ("no signatures", "it describes no signature"),
                ("null signatures", "describes 1 signatures at a null pointer"),
                ("many signatures", "describes 18446744073709551615 signatures"),
                ("twice", "two y among the outputs of signature serving_default"),
                ("odd type", "y among the outputs .* is of type 20"),
                ("odd size", "y among the outputs .* has a dimension of -2"),
                ("unnamed", "outputs of signature serving_default has no name"),
                ("no sizes", "y among the outputs .* has dimensions and no sizes"),
                ("null outputs", "describes 1 outputs .* at a null pointer"),
                ("no outputs", "signature serving_default has no output"),
                ("odd method", "the method of signature serving_default is 9"),
            )
        ),
    ],
)
def test_a_servable_that_says_nonsense_of_itself_is_not_loaded(
    how: str, code: Code, text: str, tmp_path: Path, library: Path
) -> None:
    loader = write(tmp_path / "v", library, how)

    with pytest.raises(ServingError, match=text) as caught:
        loader.load()

    assert caught.value.code is code


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        pytest.param(
            "failed", Code.RESOURCE_EXHAUSTED, "The servable failed", id="a code"
        ),
        pytest.param("odd code", Code.UNKNOWN, "odd", id="a code that is none"),
        pytest.param(
            "long text", Code.ABORTED, "^a{1023}$", id="a text without an end"
        ),
        *(
            pytest.param(how, Code.INTERNAL, text, id=how)
            for how, text in (
                ("left out", "The servable left out its output y"),
                ("other type", "output y of type DT_INT32; it describes DT_FLOAT"),
                ("no type", "output y of type 99; it describes DT_FLOAT"),
                ("other rank", r"output y of shape \[2,2\]; it describes \[\?\]"),
                ("negative rank", "output y of rank -1 without sizes"),
                ("null dims", "output y of rank 1 without sizes"),
                ("negative size", r"output y of shape \[-4\]; it describes \[\?\]"),
                ("huge", r"output y of shape \[9223372036854775807,4\]"),
                ("other bytes", r"output y of 3 bytes, for shape \[4\]"),
                ("null data", r"output y of 0 bytes, for shape \[4\]"),
                ("null text", "output y with nothing at string 2"),
            )
        ),
    ],
)
def test_an_answer_that_is_not_as_described_fails_its_request_only(
    how: str, code: Code, text: str, loaded: Callable[[str], NativeLoader]
) -> None:
    loader = loaded(how)

    for _ in range(2):
        with pytest.raises(ServingError, match=text) as caught:
            predict(loader)

        assert caught.value.code is code


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        pytest.param(
            "-DABI=7",
            "servable.so is of ABI 7; this server runs those of ABI 1",
            id="another ABI",
        ),
        pytest.param("-DNO_ENTRY", "exports no servable_entry", id="no entry"),
        pytest.param("-DNO_RUN", "has no run function", id="a function is missing"),
        pytest.param(
            "-DUNDEFINED",
            "^servable.so cannot be opened: undefined symbol: nobody_defines_this$",
            id="a symbol is missing",
        ),
    ],
)
def test_a_library_of_another_kind_is_not_loaded(
    flag: str, text: str, tmp_path: Path, compiled: Compiled
) -> None:
    loader = write(tmp_path / "v", compiled(WRONG, *FLAGS, flag, compiler="gcc"))

    with pytest.raises(ServingError, match=text) as caught:
        loader.load()

    assert caught.value.code is Code.FAILED_PRECONDITION


def damaged(library: bytes, how: str) -> bytes:
    """Return a library that is none any more, or one for another machine."""
    match how:
        case "text":
            return b"#!/bin/sh\n"
        case "empty":
            return b""
        case "cut":
            return library[: len(library) // 2]
        case "aarch64":
            return library[:18] + struct.pack("<H", 183) + library[20:]
        case "32 bits":
            return library[:4] + b"\x01" + library[5:]
        case _:
            return library[:16] + struct.pack("<H", 1) + library[18:]


@pytest.mark.parametrize(
    ("how", "text"),
    [
        pytest.param("text", "is no library", id="a script"),
        pytest.param("empty", "is no library", id="an empty file"),
        pytest.param("cut", r"is not complete: \d+ bytes", id="half of a library"),
        pytest.param("aarch64", r"is for aarch64 \(64 bits\)", id="another machine"),
        pytest.param("32 bits", r"\(32 bits\); this server runs on", id="32 bits"),
        pytest.param("object", "link it with -shared", id="an object file"),
    ],
)
def test_a_file_that_is_no_library_is_refused_by_name(
    how: str, text: str, tmp_path: Path, library: Path
) -> None:
    loader = write(tmp_path / "v", library)
    file = tmp_path / "v" / "servable.so"
    file.write_bytes(damaged(library.read_bytes(), how))

    with pytest.raises(ServingError, match=text) as caught:
        loader.load()

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert str(tmp_path) not in caught.value.message


def test_a_library_for_another_machine_is_told_from_one_for_this(library: Path) -> None:
    file = library.read_bytes()

    elf.check_library(file)
    with pytest.raises(ServingError, match="this server runs on riscv64"):
        elf.check_library(file, "riscv64")


def test_no_part_of_a_library_is_taken_for_one(library: Path) -> None:
    file = library.read_bytes()
    for size in range(1024):
        with pytest.raises(ServingError):
            elf.check_library(file[:size])


def test_what_is_missing_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ServingError) as caught:
            NativePlatform().loader(ServableId("m", 1), StoragePath(str(path))).load()

        assert caught.value.code is Code.NOT_FOUND


def test_a_file_that_changes_under_a_version_changes_nothing_for_it(
    tmp_path: Path, library: Path, loaded: Callable[[str], NativeLoader]
) -> None:
    loader = loaded("well")

    # In place, as cp does it: what was mapped from the file itself would be gone.
    (tmp_path / "v" / "servable.so").write_bytes(b"")
    assert predict(loader) == [1, 2, 3, 4]
    assert write(tmp_path / "v", library) is not None
    again = loaded("left out")
    with pytest.raises(ServingError, match="left out"):
        predict(again)
    assert predict(loader) == [1, 2, 3, 4]


def test_libraries_beside_it_are_found_and_nothing_is_left_behind(
    tmp_path: Path, compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    loader = write(tmp_path / "v", compiled(WRONG, *FLAGS, compiler="gcc"))
    (tmp_path / "v" / "libbeside.so.1.2").write_bytes(b"beside")
    loader.load()
    (directory,) = copies.iterdir()

    beside = {path.name for path in directory.iterdir()}
    loader.unload()

    assert beside == {"servable.so", "libbeside.so.1.2"}
    assert list(copies.iterdir()) == []


def test_a_library_leaves_memory_and_what_it_needs_stays(
    compiled: Compiled, tmp_path: Path
) -> None:
    flags = ("-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fopenmp")
    library = compiled("tests/integration/native/threads.cc", *flags)
    write(tmp_path / "v", library)
    command = [sys.executable, "-c", LOAD_TWICE, str(tmp_path / "v")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    # OpenMP's threads wait in its library; closing that would crash the process.
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0"]


def test_copies_of_a_process_that_is_no_more_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = ("servable-native-4194304999-x", "servable-native-1-x", "another")
    for name in names:
        (tmp_path / name).mkdir()

    remove_left_copies()

    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_what_versions_would_share_is_told(
    compiled: Compiled, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = "tests/integration/native/everything.cc"
    shared = compiled(source, "-shared", "-fPIC", "-fgnu-unique")
    own = compiled(source, "-shared", "-fPIC", "-fno-gnu-unique")
    loader = write(tmp_path / "v", shared)
    (tmp_path / "v" / "two.txt").write_text("2")
    loader.load()
    loader.unload()

    assert elf.unique_symbols(own.read_bytes()) == []
    assert elf.unique_symbols(shared.read_bytes()[:-1000]) == []
    (record,) = caplog.records
    assert "The versions of m share" in record.getMessage()


def test_libraries_need_leave() -> None:
    class Options:
        allow_native_models = False

    options: Any = Options()
    with pytest.raises(ServingError, match="--allow_native_models allows that"):
        native_platform(options, None)
