"""
What our code may not use: nothing that turns bytes into code, no shell, no archive
that is unpacked wherever its names say, and connections only where they are made on
purpose.

Each exception says why it is one, and must still be needed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("src", "tools", "examples", "benchmarks")
FILES = sorted(
    path
    for top in TOPS
    for path in (ROOT / top).rglob("*.py")
    if "_pb2" not in path.name
)

# Modules whose data is code, or that speak to others behind everybody's back.
MODULES = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle"),
    *("marshal", "shelve", "yaml", "code", "codeop", "pty", "telnetlib", "ftplib"),
    *("xmlrpc", "smtplib", "imp", "zipimport"),
}
CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *("os.system", "os.popen", "os.execl", "os.execv", "os.execve", "os.fork"),
    *("tempfile.mktemp", "shutil.unpack_archive", "ssl._create_unverified_context"),
    *("importlib.import_module", "runpy.run_path", "runpy.run_module"),
}
METHODS = {"extractall", "exec_module", "load_model"}
KEYWORDS = {
    ("shell", True),
    ("allow_pickle", True),
    ("verify", False),
    ("follow_redirects", True),
    ("unsafe", True),
    ("trusted", True),
}
# Whoever imports these can reach another machine.
CONNECTING = {
    *("httpx", "grpc", "socket", "urllib.request", "http.client", "requests"),
    *("aiohttp", "fsspec", "sqlalchemy", "boto3", "asyncio.open_connection"),
}

LAZY = "names of our own modules, in a table"
EXCEPTIONS = {
    ("src/servable/__init__.py", "importlib.import_module"): LAZY,
    ("src/servable/export/__init__.py", "importlib.import_module"): LAZY,
    ("src/servable/cli/commands.py", "importlib.import_module"): LAZY,
    ("src/servable/platforms/tflite.py", "importlib.import_module"): LAZY,
    ("src/servable/platforms/object_loader.py", "importlib.import_module"): (
        "tensorflow, by a constant"
    ),
    ("src/servable/platforms/python/hosting.py", "importlib.import_module"): (
        "in the process of a model: the factory that a platform registered"
    ),
    ("src/servable/platforms/python/loading.py", "exec_module"): (
        "model.py, in a process of its own and only with --allow_python_models"
    ),
    ("src/servable/platforms/profiler.py", "exec_module"): (
        "a library of the installed TensorFlow"
    ),
    ("tools/fuzz.py", "exec_module"): "a module of the tests, for developers",
    ("src/servable/cli/export.py", "importlib.import_module"): (
        "MODULE:NAME of who runs the command"
    ),
    ("src/servable/platforms/xgboost.py", "load_model"): (
        "XGBoost's own formats, JSON and UBJ, which are data"
    ),
    ("src/servable/export/keras_files.py", "load_model"): (
        "`servable export` of a file of who runs it; no server imports it"
    ),
}
MAY_CONNECT = {
    "src/servable/client": "the client",
    "src/servable/bench": "the load generator, and its probe of what it measures",
    "src/servable/apis": "stubs of services, for clients",
    "src/servable/cli/batching.py": "`servable batching` asks a server",
    "src/servable/cli/listening.py": "sockets that listen, for a server started anew",
    "src/servable/cli/supervisor.py": "the same sockets, bound and handed over",
    "src/servable/export/uploading.py": "`servable publish` to a store",
    "src/servable/sources": "the stores that base paths name",
    "src/servable/platforms/python": "the socket to the process of a model",
    "examples/digits": "asks the server that it starts",
    "benchmarks": "measure servers",
    "tools": "for developers",
}


TREES = {path: ast.parse(path.read_text()) for path in FILES}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, attribute):
            return f"{dotted(value)}.{attribute}"
        case _:
            return "?"


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(str(module), names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case _:
                pass


def banned(tree: ast.AST) -> Iterator[str]:
    """Yield what is used of what may not be."""
    for name in imported(tree):
        if name in CALLS or name.split(".")[0] in MODULES:
            yield name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in CALLS:
            yield name
        elif name.rpartition(".")[2] in METHODS and "." in name:
            yield name.rpartition(".")[2]
        for keyword in node.keywords:
            match keyword.value:
                case ast.Constant(value) if (keyword.arg, value) in KEYWORDS:
                    yield f"{keyword.arg}={value!r}"


def used() -> dict[tuple[str, str], str]:
    return {
        (where(path), name): name
        for path, tree in TREES.items()
        for name in banned(tree)
    }


def test_nothing_is_used_that_turns_data_into_code() -> None:
    assert used().keys() - EXCEPTIONS.keys() == set()


def test_every_exception_is_one() -> None:
    assert EXCEPTIONS.keys() - used().keys() == set()


def test_only_those_connect_that_are_meant_to() -> None:
    connecting = {
        where(path)
        for path, tree in TREES.items()
        for name in imported(tree)
        if name in CONNECTING or name.split(".")[0] in CONNECTING
    }

    assert {
        file
        for file in connecting
        if not any(file == may or file.startswith(f"{may}/") for may in MAY_CONNECT)
    } == set()


def test_the_engine_starts_and_connects_to_nothing_else() -> None:
    """
    Rust starts the processes of models, the load generator connects, and a Unix
    socket that is in the way is asked whether anybody listens.
    """
    found = {
        where(path)
        for path in (ROOT / "engine" / "src").rglob("*.rs")
        # What is behind this is for tests.
        if re.search(
            r"Command::new|TcpStream::connect|UnixStream::connect|UdpSocket",
            path.read_text().split("#[cfg(test)]")[0],
        )
        and path.name != "tests.rs"
    }

    assert {file for file in found if not file.startswith("engine/src/bench/")} == {
        "engine/src/servable/worker/process.rs",
        "engine/src/frontend/grpc/listener.rs",
    }


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import pickle", ["pickle"]),
        ("from yaml import load", ["yaml", "yaml.load"]),
        ("from tempfile import mktemp", ["tempfile.mktemp"]),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", ["allow_pickle=True"]),
        ("np.load(f, allow_pickle=False)", []),
        ("subprocess.run(c, shell=True)", ["shell=True"]),
        ("eval(x)", ["eval"]),
        ("re.compile(x)", []),
        ("archive.extractall(d)", ["extractall"]),
        ("tf.keras.models.load_model(f)", ["load_model"]),
        ("httpx.get(u, verify=False)", ["verify=False"]),
    ],
)
def test_what_is_banned_is_found(code: str, expected: list[str]) -> None:
    assert list(banned(ast.parse(code))) == expected
