"""The C and C++ headers: they compile anywhere, and do nothing wrong with memory."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from servable.apis import types_pb2
from servable.cli.commands import servable

ROOT = Path(__file__).parents[2]
NATIVE = "tests/integration/native"
HEADERS = sorted((ROOT / "include/servable").iterdir())
SANITIZED = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

Compiled = Callable[..., Path]


@pytest.fixture
def version(tmp_path: Path) -> Path:
    (tmp_path / "two.txt").write_text("2")
    return tmp_path


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_a_header_needs_nothing_before_it(
    header: Path, tmp_path: Path, compiled: Compiled
) -> None:
    source = tmp_path / "alone.cc"
    source.write_text(
        f"#include <servable/{header.name}>\nint main() {{ return 0; }}\n"
    )

    compiled(str(source), "-fsyntax-only")


@pytest.mark.parametrize("header", ["tensor.h", "servable.h"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_header_of_c_is_c99(
    header: str, compiler: str, tmp_path: Path, compiled: Compiled
) -> None:
    source = tmp_path / "alone.c"
    source.write_text(f"#include <servable/{header}>\nint main(void) {{ return 0; }}\n")

    compiled(str(source), "-fsyntax-only", compiler=compiler)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_model_compiles_without_a_warning(compiler: str, compiled: Compiled) -> None:
    compiled(f"{NATIVE}/everything.cc", "-fsyntax-only", compiler=compiler)


def test_sanitizers_find_nothing(compiled: Compiled, version: Path) -> None:
    program = compiled(
        f"{NATIVE}/headers.cc", *SANITIZED, str(ROOT / NATIVE / "everything.cc")
    )

    done = subprocess.run(
        [program, version], capture_output=True, text=True, check=False
    )

    if "LeakSanitizer has encountered a fatal error" in done.stderr:
        pytest.skip("leaks cannot be looked for where processes are traced")
    assert done.stderr == ""
    assert done.returncode == 0


def test_valgrind_finds_nothing(compiled: Compiled, version: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("there is no valgrind")
    program = compiled(
        f"{NATIVE}/headers.cc", "-O0", "-g", str(ROOT / NATIVE / "everything.cc")
    )
    command = ["valgrind", "--quiet", "--leak-check=full", "--error-exitcode=99"]

    done = subprocess.run(
        [*command, program, version], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert done.returncode == 0


def test_types_have_the_numbers_of_tensorflow() -> None:
    text = (ROOT / "include/servable/tensor.h").read_text()
    (block,) = re.findall(r"enum \{([^}]*SERVABLE_FLOAT = 1[^}]*)\}", text)
    declared = dict(re.findall(r"SERVABLE_(\w+) = (\d+)", block))

    numbers = {name: int(number) for name, number in declared.items()}
    # Resources and variants have no elements; 33 is newer than these messages may be.
    expected = {
        name.removeprefix("DT_"): number
        for name, number in types_pb2.DataType.items()
        if 0 < number < 100 and number not in {20, 21}
    }
    assert {name: numbers.get(name) for name in expected} == expected


def test_headers_are_where_the_command_says() -> None:
    for options, name in (
        ([], "servable/servable.h"),
        (["--cmake"], "servable-config.cmake"),
    ):
        said = CliRunner().invoke(servable, ["include", *options])

        assert said.exit_code == 0
        assert (Path(said.output.strip()) / name).is_file()


def test_every_header_is_installed() -> None:
    links = ROOT / "servable.data" / "data"
    cmake = links / "lib/cmake/servable/servable-config.cmake"
    installed = {path.name: path for path in (links / "include/servable").iterdir()}

    assert installed.keys() == {header.name for header in HEADERS}
    for header in HEADERS:
        assert installed[header.name].resolve() == header
    assert cmake.resolve() == ROOT / "cmake/servable-config.cmake"
