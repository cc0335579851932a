"""The engine in a C++ program; `cpp/engine_checks.cpp` does what is asserted here."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Compiling is most of it, and other things may run beside.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CHECKS = Path(__file__).parent / "cpp" / "engine_checks.cpp"
HEADER = ROOT / "include" / "servable" / "engine.h"
SOURCE = ROOT / "cpp" / "libservable" / "src" / "lib.rs"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    return path


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("TensorFlow is not installed")
    directory = next(iter(spec.submodule_search_locations))
    # What TensorFlow keeps until the end is not ours to free.
    return {
        **os.environ,
        "SERVABLE_TENSORFLOW_DIR": directory,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
    }


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libservable as it is installed, of the build for development."""
    cargo = tool("cargo")
    built = subprocess.run(
        [cargo, "build", "--quiet", "--offline", "--package=libservable"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    prefix = tmp_path_factory.mktemp("prefix")
    library = ROOT / "target" / "debug" / "libservable.so"
    script = ROOT / "cpp" / "libservable" / "install.sh"
    subprocess.run(["sh", script, library, prefix], check=True)
    return prefix


@pytest.fixture(scope="module")
def checks(prefix: Path) -> Path:
    """The program, with the sanitizers for addresses and undefined behaviour."""
    program = prefix / "engine_checks"
    command = [tool("g++"), "-std=c++17", "-O0", "-g", "-Wall", "-Wextra", "-Werror"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += [str(CHECKS), "-o", str(program), "-pthread"]
    command += flags_of(prefix, "libservable")
    subprocess.run([*command, f"-Wl,-rpath,{prefix}/lib"], check=True)
    return program


@pytest.fixture
def base(write_version: Callable[..., Path], tmp_path: Path) -> Path:
    """A base path with a version of x / 2 + 2."""
    return write_version(tmp_path / "half_plus_two" / "1").parent


ERRORS = """\
signature: FAILED_PRECONDITION: Serving signature key "no_such" not found.
input: INVALID_ARGUMENT: Signature input alias: x(feed name: x:0) not found in request \
and no default value provided. Inputs expected to be in the request {z}, or default \
input alias set: 
no input: INVALID_ARGUMENT: input size does not match signature: 0!=1 len({}) != \
len({x}). Sent extra: {}. Missing but required: {x}.
output: INVALID_ARGUMENT: output tensor alias not found in signature: z Outputs \
expected to be in the set {y}.
dtype: INVALID_ARGUMENT: Expects arg[0] to be float but int32 is provided
element type: INVALID_ARGUMENT: Input x: dtype 0 is no type of elements
negative: INVALID_ARGUMENT: [?] is no shape of a tensor
shape: INVALID_ARGUMENT: a shape of [3] has 3 elements, and 2 were given
resource: INVALID_ARGUMENT: Input x: dtype 20 is no type of elements
"""  # noqa: W291 - the text ends so

NULLS = """\
path: 3 path is null
model: 3 model is null
struct_size: 3 struct_size of servable_engine_options is 8 and should be 88: set it to \
sizeof(servable_engine_options), and compile with the header of this library, whose \
SERVABLE_ENGINE_ABI is 1
tags: 3 tags is null
max_batch_size: 3 max_batch_size is -1, below 0
acquire: 3 model is null
no status: 3
1001
version: 3 version is null
call: 3 call is null
call size: 3 struct_size of servable_engine_call is 0 and should be 72: set it to \
sizeof(servable_engine_call), and compile with the header of this library, whose \
SERVABLE_ENGINE_ABI is 1
input_names: 3 input_names is null
a name: 3 a name of input_names is null
outputs: 3 num_outputs is 0: no output is asked for
dims: 3 Input x: dims is null
size: 3 Input x: size is 0 bytes, and 2 elements of type float have 8
data: 3 Input x: data is null
"""

SIGNATURES = """\
constant tensorflow/serving/predict: -> two float32[?]
regress tensorflow/serving/regress: inputs string[?] -> outputs float32[?]
serving_default tensorflow/serving/predict: x float32[?] -> y float32[?]
"""

ECHOED = """\
FLOAT same
INT8 same
HALF same
BOOL same
BFLOAT16 same
UINT16 same
COMPLEX64 same
COMPLEX128 same
STRING same
no STRING [0]
"""

BATCHED = """\
split: same
wrong: 0, in time: float32[1] 2.5
"""


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        pytest.param(
            "predict", "version 1: float32[3] 2.5 3. 4.5\n", id="the newest is run"
        ),
        pytest.param("signatures", SIGNATURES, id="signatures are listed"),
        pytest.param("chosen", "1 output: float32[] 2.\n", id="outputs are chosen"),
        pytest.param("echo", ECHOED, id="every type comes back as it went in"),
        pytest.param("refused", ERRORS, id="what is wrong is told"),
        pytest.param("nulls", NULLS, id="null pointers and wrong sizes are told of"),
        pytest.param("adaptive", BATCHED, id="requests share runs of a found size"),
        pytest.param("fixed", BATCHED, id="requests share runs of a fixed size"),
    ],
)
def test_a_program_gets(
    check: str, expected: str, checks: Path, environment: dict[str, str], base: Path
) -> None:
    assert run(checks, check, base, environment) == (0, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(
            "no/such",
            "NOT_FOUND: There is no model at {tmp}/no/such: No such file or directory "
            "(os error 2)\n",
            id="a directory that is not there",
        ),
        pytest.param(
            "empty",
            "NOT_FOUND: There is no SavedModel at {tmp}/empty: neither a file "
            "saved_model.pb nor a directory named by a number\n",
            id="a directory without a version",
        ),
        pytest.param(
            "broken",
            "OUT_OF_RANGE: {tmp}/broken/1: ",
            id="a file that is no SavedModel",
        ),
        pytest.param(
            "variables",
            "NOT_FOUND: {tmp}/variables/1: The SavedModel has variables, but no file "
            "variables/variables.index; the copy may be incomplete\n",
            id="a copy without its variables",
        ),
        pytest.param(
            "unrestored",
            "FAILED_PRECONDITION: {tmp}/unrestored/1: The SavedModel does not restore "
            "1 of its variables, such as v, when it is served; export it again by "
            "model.export(path), instead of tf.saved_model.save(model, path)\n",
            id="a model whose variables only Python's TensorFlow restores",
        ),
    ],
)
def test_what_cannot_be_opened_says_why(
    path: str, expected: str, checks: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "saved_model.pb").write_bytes(b"\xff")
    write_without_variables(tmp_path / "variables" / "1")
    write_without_variables(tmp_path / "unrestored" / "1", has_objects=True)
    code, output = run(checks, "predict", tmp_path / path, environment)

    assert code == 1
    assert output.startswith(expected.format(tmp=tmp_path))


def test_without_tensorflow_the_places_are_named_where_it_was_looked_for(
    checks: Path, base: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    named = {**environment, "SERVABLE_TENSORFLOW_DIR": str(tmp_path)}
    code, output = run(checks, "predict", base, named)

    assert code == 1
    assert output == (
        f"FAILED_PRECONDITION: There is no TensorFlow library in {tmp_path}, which "
        "SERVABLE_TENSORFLOW_DIR names: it is the directory with "
        "libtensorflow_cc.so.2\n"
    )
    found = {**environment, "SERVABLE_TENSORFLOW_DIR": "", "VIRTUAL_ENV": str(tmp_path)}
    code, output = run(checks, "predict", base, found)
    assert code == 1
    assert output.startswith(
        "FAILED_PRECONDITION: There is no TensorFlow library: name the directory"
    )


class Watching:
    """A program that tells what becomes of versions."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def ask(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


@pytest.fixture
def watching(
    checks: Path, environment: dict[str, str], base: Path
) -> Iterator[Watching]:
    process = subprocess.Popen(
        [checks, "watch", base],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        watching = Watching(process)
        assert watching.told() == "1 loaded"
        yield watching
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_newer_version_answers_and_the_old_one_is_freed_after_its_last_user(
    watching: Watching, base: Path, write_version: Callable[..., Path]
) -> None:
    watching.ask("hold")
    assert watching.told() == "held 1"
    write_version(base / "2", two=3.0)
    assert watching.told() == "2 loaded"
    watching.ask()
    assert watching.told() == "float32[1] 3.5"
    watching.ask("use")
    assert watching.told() == "float32[1] 2.5"
    watching.ask("release")

    assert watching.told() == "1 unloaded"


def test_a_version_that_is_removed_gives_way_to_the_newest_that_is_left(
    watching: Watching, base: Path, write_version: Callable[..., Path], tmp_path: Path
) -> None:
    removed = write_version(base / "2", two=3.0)
    assert [watching.told(), watching.told()] == ["2 loaded", "1 unloaded"]
    removed.rename(tmp_path / "removed")

    assert [watching.told(), watching.told()] == ["1 loaded", "2 unloaded"]
    watching.ask()
    assert watching.told() == "float32[1] 2.5"


def test_a_half_copied_version_changes_nothing_until_it_is_whole(
    watching: Watching, base: Path, write_version: Callable[..., Path], tmp_path: Path
) -> None:
    whole = write_version(tmp_path / "elsewhere" / "2", two=3.0) / "saved_model.pb"
    copy = base / "2" / "saved_model.pb"
    copy.parent.mkdir()
    assert watching.told() == "2 failed NOT_FOUND"
    watching.ask()
    assert watching.told() == "float32[1] 2.5"
    shutil.copy(whole, copy)

    assert watching.told() == "2 loaded"
    assert watching.told() == "1 unloaded"
    watching.ask()
    assert watching.told() == "float32[1] 3.5"


def test_many_threads_may_ask_while_versions_are_replaced(
    checks: Path,
    environment: dict[str, str],
    tmp_path: Path,
    write_version: Callable[..., Path],
) -> None:
    base = write_version(tmp_path / "m" / "1", two=1.0).parent
    process = subprocess.Popen(
        [checks, "threads", base],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded 1\n"
        for number in (2, 3):
            write_version(base / str(number), two=float(number))
            assert process.stdout.readline() == f"loaded {number}\n"
        output = process.stdout.read()

    assert (process.returncode, output) == (0, "wrong: 0\n")


@pytest.mark.parametrize(
    "linked",
    [
        pytest.param([], id="alone"),
        pytest.param(["protobuf"], id="beside another protobuf than TensorFlow's"),
    ],
)
def test_a_program_in_c_gets_the_same(
    linked: list[str], prefix: Path, environment: dict[str, str], base: Path
) -> None:
    program = prefix / "plain"
    packages = ["libservable", *linked]
    command = [tool("gcc"), "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += [str(CHECKS.with_name("plain.c")), "-o", str(program)]
    command += ["-Wl,--no-as-needed", *flags_of(prefix, *packages)]
    subprocess.run([*command, f"-Wl,-rpath,{prefix}/lib"], check=True)
    done = subprocess.run(
        [program, base], env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "2.5 3 4.5 version 1\n"), done.stderr


@pytest.mark.timeout(600)
def test_valgrind_finds_nothing_of_ours(
    prefix: Path, environment: dict[str, str], base: Path
) -> None:
    program = prefix / "plain"
    command = [tool("gcc"), "-std=c99", "-g", str(CHECKS.with_name("plain.c"))]
    command += ["-o", str(program), *flags_of(prefix, "libservable")]
    subprocess.run([*command, f"-Wl,-rpath,{prefix}/lib"], check=True)
    suppressions = CHECKS.with_name("valgrind.supp")
    options = ["--error-exitcode=9", "--leak-check=full"]
    options += ["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
    options += [f"--suppressions={suppressions}"]
    done = subprocess.run(
        [tool("valgrind"), *options, str(program), str(base)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "2.5 3 4.5 version 1\n"), done.stderr


def test_the_example_says_how_many_digits_it_knew(
    prefix: Path, environment: dict[str, str], base: Path, tmp_path: Path
) -> None:
    source = ROOT / "examples" / "embedding"
    configure: list[Any] = [tool("cmake"), "-S", source, "-B", tmp_path / "build"]
    configure += ["-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_PREFIX_PATH={prefix}"]
    build: list[Any] = ["cmake", "--build", tmp_path / "build"]
    for command in (configure, build):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    # x / 2 + 2 leaves the brightest pixel the brightest, and takes it for the digit.
    pixels = ["0"] * 64
    pixels[3] = "1"
    image = ",".join(pixels)
    for lines, expected in (
        (f"3,{image}\n4,{image}\n", "version 1: 1 of 2 right\n"),
        ("3,1\n", ""),
    ):
        done = subprocess.run(
            [tmp_path / "build" / "digits", base],
            input=lines,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.returncode) == (expected, int(not expected))
    assert "INVALID_ARGUMENT: a line is not a digit and 64 pixels: 3 1" in done.stderr


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_the_header_says_what_the_library_exports(language: str, prefix: Path) -> None:
    suffix = {"c": ".c", "cpp": ".cpp"}[language]
    source = prefix / f"names{suffix}"
    names = declared()
    calls = "\n".join(f"    (void)sizeof(&{name});" for name in sorted(names))
    source.write_text(
        f"#include <servable/engine.h>\nint main(void) {{\n{calls}\n    return 0;\n}}\n"
    )
    standard = {"c": "-std=c99", "cpp": "-std=c++17"}[language]
    compiler = tool({"c": "gcc", "cpp": "g++"}[language])
    command = [compiler, standard, "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += [f"-I{prefix}/include", "-fsyntax-only", str(source)]
    subprocess.run(command, check=True)
    exported = subprocess.run(
        [tool("nm"), "-D", "--defined-only", prefix / "lib" / "libservable.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert set(re.findall(r" T (\w+)", exported)) == set(names)
    assert parameters_in_rust() == names


def flags_of(prefix: Path, *packages: str) -> list[str]:
    """Return what pkg-config says of packages; skip where one is missing."""
    done = subprocess.run(
        [tool("pkg-config"), "--cflags", "--libs", *packages],
        env={**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(done.stderr)
    return done.stdout.split()


def declared() -> dict[str, int]:
    """Return the functions of the header, and how many parameters each has."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    found = re.findall(
        r"^[^\n(#]*?\b(servable_engine_\w+)\(([^)]*)\);", text, re.MULTILINE
    )
    return {name: count(parameters, "void") for name, parameters in found}


def parameters_in_rust() -> dict[str, int]:
    found = re.findall(
        r'extern "C" fn (servable_engine_\w+)\(([^)]*)\)', SOURCE.read_text()
    )
    return {name: count(parameters, "") for name, parameters in found}


def count(parameters: str, none: str) -> int:
    stripped = [part.strip() for part in parameters.split(",")]
    return len([part for part in stripped if part not in ("", none)])


def write_without_variables(version: Path, *, has_objects: bool = False) -> None:
    """Write a SavedModel that reads a variable, and nothing to restore it from."""
    from servable.apis import saved_model_pb2  # noqa: PLC0415 - as little as needed

    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.graph_def.versions.producer = 1882
    node = meta_graph.graph_def.node.add(name="v", op="VarHandleOp")
    node.attr["dtype"].type = 1  # type: ignore[assignment]
    node.attr["shape"].shape.SetInParent()
    read = meta_graph.graph_def.node.add(name="y", op="ReadVariableOp", input=["v"])
    read.attr["dtype"].type = 1  # type: ignore[assignment]
    signature = meta_graph.signature_def["serving_default"]
    signature.outputs["y"].name = "y:0"
    if has_objects:
        meta_graph.object_graph_def.SetInParent()
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(model.SerializeToString())


def run(
    program: Path, check: str, path: Path, environment: dict[str, Any]
) -> tuple[int, str]:
    done = subprocess.run(
        [program, check, path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Sanitizer" not in done.stderr, done.stderr
    return done.returncode, done.stdout
