"""
What a SavedModel answers, found out in a process that did nothing else.

The process opens the model as a server does and replays requests; it is ended with
whatever the model has made of it.  `python -m servable.export.replay` is that process.
"""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from servable.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    ServingError,
    from_code,
    from_exception,
)
from servable.export.requests import Log, read_logs, request_of, write_logs

SERVE: Final = ("serve",)
_LOG_TYPES: Final = {
    field.name: field.number
    for field in Log.DESCRIPTOR.oneofs_by_name["log_type"].fields
}
_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with: a serialized response, or an error."""

    response: bytes = b""
    error: ServingError | None = None


def replay(
    model: Path, logs: Sequence[Log], tags: Sequence[str] = SERVE
) -> list[Answer]:
    """
    Return what the SavedModel *model* answers to *logs*, in a clean process.  Blocks.

    Raises:
        ServingError: the model cannot be opened, or is not done in ten minutes; with
            the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        requests, answers = Path(folder, "requests"), Path(folder, "answers")
        write_logs(requests, logs)
        command = [sys.executable, "-m", "servable.export.replay"]
        command += [str(model), str(requests), str(answers), *tags]
        try:
            done = subprocess.run(  # noqa: S603 - ourselves
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(
                f"the process that tried the model was not done in {_TIMEOUT_S:g} s"
            ) from None
        if done.returncode or not answers.is_file():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
            raise FailedPrecondition(
                f"the process that tried the model ended with {done.returncode}: "
                + " / ".join(last)
            )
        opened, *lines = map(json.loads, answers.read_text().splitlines())
    if "code" in opened:
        raise from_code(opened["code"], opened["message"])
    return [_answer(line) for line in lines]


def _answer(line: dict[str, Any]) -> Answer:
    if "code" in line:
        return Answer(error=from_code(line["code"], line["message"]))
    return Answer(base64.b64decode(line["response"]))


def main(model: str, requests: str, answers: str, *tags: str) -> None:
    """Replay, and write a line of JSON for the model, and one for each request."""
    # What is not needed by whoever only asks another process.
    from servable.platforms.tensorflow import TensorFlowPlatform  # noqa: PLC0415

    with Path(answers).open("w") as out:
        try:
            servable = TensorFlowPlatform(b"", tags).open(model).servable
        except ServingError as error:
            _tell(out, code=error.code, message=error.message)
            return
        _tell(out, opened=True)
        for log in read_logs(Path(requests)):
            kind = _LOG_TYPES[log.WhichOneof("log_type") or "predict_log"]
            try:
                response = servable.replay(kind, request_of(log).SerializeToString())
            except Exception as exc:  # noqa: BLE001 - the answer, whatever it is
                failure = from_exception(exc)
                _tell(out, code=failure.code, message=failure.message)
            else:
                _tell(out, response=base64.b64encode(response).decode())


def _tell(out: Any, **what: object) -> None:
    out.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
