"""
Train, serve, ask, replace: a model server from end to end in a minute.

    python -m examples.digits [--directory DIR] [--stop] [--picture FILE.svg]

Trains a classifier of handwritten digits with Keras, serves it, asks it over gRPC
and REST, and publishes a better version while requests keep flowing.  The server is
left running until Ctrl-C; with --stop, or where CI is set, it is not.  With
--picture, what was printed is kept as a picture as well.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from examples.digits import data, pictures, traffic
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from servable.client import Client
from servable.errors import DeadlineExceeded, ServingError

MODEL = "digits"
ROOT = Path(__file__).resolve().parents[2]
SHOWN = 8
BATCH = 60
AFTERWARDS_S = 1.0  # how long requests go on after the switch
PATIENCE_S = 120.0

console = Console(record=True)
passing = Console()  # what is seen only while it goes on, and in no picture


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="examples.digits", description=__doc__)
    parser.add_argument("--directory", type=Path, default=ROOT / "demo-data")
    parser.add_argument("--stop", action="store_true", help="leave nothing running")
    parser.add_argument("--picture", type=Path, help="keep what is printed as SVG")
    arguments = parser.parse_args()
    stops = arguments.stop or os.environ.get("CI", "") not in ("", "false", "0")
    try:
        with ExitStack() as stack:
            demo = Demo(arguments.directory, stack)
            failed = demo.run()
            if arguments.picture:
                save_picture(arguments.picture)
            if not stops:
                demo.wait()
            return 1 if failed else 0
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 0
    except (DemoError, ServingError, httpx.HTTPError) as exc:
        console.print(f"{type(exc).__name__}: {exc}", style="red", markup=False)
        return 1


class DemoError(Exception):
    """The demo cannot go on, and why."""


class Demo:
    """The demo, step by step; *stack* ends what it starts."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._base_path = directory / "models" / MODEL
        self._stack = stack
        self._log = directory / "server.log"

    def run(self) -> int:
        """Run all of it; return how many requests failed."""
        shutil.rmtree(self._directory / "models", ignore_errors=True)
        self._base_path.mkdir(parents=True)
        trainer = self._stack.enter_context(
            Trainer(self._base_path, self._directory / "trainer.log")
        )
        server = self._stack.enter_context(Server(self._base_path, self._log))
        self._server = server
        with progress("reading the digits"):
            _, held_out = data.load()
        trainer.wait_until_ready()
        trainer.train(1)
        client = self._stack.enter_context(Client(server.grpc, timeout=30))
        with progress(f"loading {self._base_path}/1"):
            server.wait_until_ready(client, 1)
        self._classify(server, client, held_out)
        failed = self._replace(server, client, trainer, held_out)
        self._print_commands(server)
        return failed

    def wait(self) -> None:
        """Leave the server running until it is ended."""
        console.print("The server is running; [bold]Ctrl-C[/bold] ends it.")
        self._server.wait()

    def _classify(self, server: "Server", client: Client, digits: data.Digits) -> None:
        console.rule("held-out digits, version 1")
        over_grpc, over_rest = [], []
        batches = range(0, len(digits.images), BATCH)
        with (
            bar("classifying over gRPC and REST", len(batches)) as advance,
            httpx.Client(base_url=server.rest, timeout=30) as http,
        ):
            for start in batches:
                images = digits.images[start : start + BATCH]
                (scores,) = client.predict(MODEL, images).values()
                over_grpc.append(scores)
                over_rest.append(traffic.ask_rest(http, MODEL, images))
                advance()
        predicted = np.concatenate(over_grpc).argmax(axis=1)
        agree = np.array_equal(predicted, np.concatenate(over_rest).argmax(axis=1))
        wrong = np.flatnonzero(predicted != digits.labels)[: SHOWN // 3]
        shown = np.concatenate([np.arange(SHOWN - len(wrong)), wrong])
        console.print(
            pictures.row(
                digits.images[shown],
                predicted[shown],
                digits.labels[shown],
                colours=console.color_system is not None,
            )
        )
        sheet = self._directory / "digits.png"
        pictures.write_sheet(sheet, digits.images, predicted, digits.labels)
        right = int((predicted == digits.labels).sum())
        console.print(
            f"accuracy {right / len(predicted):.1%}: {right} of {len(predicted)} "
            f"right; gRPC and REST {'agree' if agree else '[red]disagree[/red]'}; "
            f"all of them: {sheet}"
        )
        if not agree:
            raise DemoError("gRPC and REST gave different answers")

    def _replace(
        self,
        server: "Server",
        client: Client,
        trainer: "Trainer",
        digits: data.Digits,
    ) -> int:
        """Publish version 2 under traffic and return how many requests failed."""
        console.rule("version 2, while requests keep flowing")
        image = digits.images[0]
        scores = {1: scores_of(client, image, 1)}
        requests = traffic.Traffic(server.grpc, server.rest, MODEL, image)
        requests.start()
        trainer.train(2)
        published = time.monotonic()
        with progress("waiting for version 2"):
            server.wait_until_ready(client, 2)
        scores[2] = scores_of(client, image, 2)
        time.sleep(AFTERWARDS_S)
        answers = requests.stop()
        self._report(answers, scores, published)
        (after,) = client.predict(MODEL, digits.images).values()
        accuracy = (after.argmax(axis=1) == digits.labels).mean()
        console.print(f"accuracy of version 2: {accuracy:.1%}")
        return sum(answer.scores is None for answer in answers)

    def _report(
        self,
        answers: list[traffic.Answer],
        scores: dict[int, npt.NDArray[np.float32]],
        published: float,
    ) -> None:
        counts = traffic.count(answers, scores)
        table = Table("", "version 1", "version 2", "failed")
        for protocol in ("gRPC", "REST"):
            cells = [str(counts[protocol, version]) for version in (1, 2, None)]
            table.add_row(protocol, *cells)
        console.print(table)
        switched = [a.at for a in answers if traffic.version_of(a, scores) == 2]
        if switched:
            console.print(
                f"version 2 answered {switched[0] - published:.2f} s after it was "
                f"published; {len(answers)} requests, {counts['gRPC', None]} over gRPC "
                f"and {counts['REST', None]} over REST failed"
            )
        for error in dict.fromkeys(a.error for a in answers if a.error):
            console.print(f"[red]{error}[/red]")

    def _print_commands(self, server: "Server") -> None:
        console.rule("try")
        image = '{"instances": [' + str([[0] * 8] * 8) + "]}"
        for command in (
            f"servable show {self._base_path}",
            f"servable status {MODEL} --address {server.grpc}",
            f"servable metadata {MODEL} --address {server.grpc}",
            f"curl {server.rest}/v1/models/{MODEL}",
            f"curl -d '{image}' {server.rest}/v1/models/{MODEL}:predict",
            f"tail -f {self._log}",
        ):
            console.print(command, soft_wrap=True, highlight=False)


def save_picture(path: Path) -> None:
    """Write what was printed as SVG, which fetches no fonts from elsewhere."""
    picture = console.export_svg(title="make demo", clear=False)
    path.write_text(re.sub(r"@font-face {.*?}\s*", "", picture, flags=re.DOTALL))


def scores_of(
    client: Client, image: npt.NDArray[np.float32], version: int
) -> npt.NDArray[np.float32]:
    """Return what one version gives for one image."""
    outputs = client.predict(MODEL, image[np.newaxis], version=version)
    scores: npt.NDArray[np.float32] = next(iter(outputs.values()))[0]
    return scores


class Trainer:
    """The process that trains; Keras is imported there, while this one goes on."""

    def __init__(self, base_path: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "examples.digits.train", base_path.resolve()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def wait_until_ready(self) -> None:
        """Block until Keras is imported."""
        with progress("importing Keras"):
            version = self._heard()["keras"]
        console.print(f"Keras {version}, in a process of its own")

    def train(self, version: int) -> None:
        """Train one version and block until it is published."""
        if self._process.stdin is None:
            raise DemoError("the trainer has no stdin")
        self._process.stdin.write(f"{version}\n")
        self._process.stdin.flush()
        heard = self._heard()
        with bar(f"training version {version}", heard["of"]) as advance:
            while heard["event"] == "epoch":
                accuracy = heard["accuracy"]
                advance()
                heard = self._heard()
        console.print(
            f"published {os.path.relpath(heard['path'])}; "
            f"accuracy while training {accuracy:.1%}"
        )

    def _heard(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise DemoError("the trainer has no stdout")
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print, too
                heard: dict[str, Any] = json.loads(line)
                return heard
        raise DemoError(
            "the trainer ended early; are TensorFlow and scikit-learn there? "
            f"pip install '.[tensorflow,demo]'.  It says:\n{tail(self._log)}"
        )


class Server:
    """`servable serve` on free ports."""

    def __init__(self, base_path: Path, log: Path) -> None:
        grpc_port, rest_port = free_ports(2)
        self.grpc = f"localhost:{grpc_port}"
        self.rest = f"http://localhost:{rest_port}"
        self._log = log
        command = [
            *(sys.executable, "-m", "servable", "serve", str(base_path)),
            *(f"--port={grpc_port}", f"--rest_api_port={rest_port}"),
        ]
        console.print(f"servable {' '.join(command[3:])}", soft_wrap=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.wait()

    def wait_until_ready(self, client: Client, version: int) -> None:
        """Block until the version can be asked, or the server has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                client.wait_until_ready(MODEL, version=version, timeout=1)
            except DeadlineExceeded:
                continue
            except ServingError as exc:
                raise DemoError(f"version {version} was not loaded: {exc}") from None
            return
        raise DemoError(
            f"version {version} was not loaded; the server says:\n{tail(self._log)}"
        )

    def wait(self) -> None:
        """Block until the server ends."""
        self._process.wait()


def tail(log: Path) -> str:
    """Return the last lines of a file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("localhost", 0))
        return [listener.getsockname()[1] for listener in sockets]


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show that something is going on, and for how long."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), Elapsed())
    with Progress(*columns, console=passing, transient=True) as shown:
        shown.add_task(what, total=None)
        yield


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how much of something is done; what is yielded advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), Elapsed())
    with Progress(*columns, console=passing, transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)


if __name__ == "__main__":
    sys.exit(main())
