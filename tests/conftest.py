"""What all tests share: how long hypothesis may take, and a compiler of C and C++."""

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "servable", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("servable")

ROOT = Path(__file__).parents[1]
# What a model is compiled with, and no warning.
LIBRARY = ("-shared", "-fPIC", "-fvisibility=hidden")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what compiles a source below the repository, and gives the file made."""
    directory = tmp_path_factory.mktemp("compiled")

    @functools.cache
    def compiled(source: str, *flags: str, compiler: str = "g++") -> Path:
        if shutil.which(compiler) is None:
            pytest.skip(f"there is no {compiler}")
        made = directory / f"{len(list(directory.iterdir()))}.out"
        standard = "-std=c99" if source.endswith(".c") else "-std=c++17"
        command = [compiler, standard, *STRICT, *(flags or LIBRARY)]
        command += [f"-I{ROOT / 'include'}", str(ROOT / source), "-o", str(made)]
        subprocess.run(command, check=True)
        return made

    return compiled
