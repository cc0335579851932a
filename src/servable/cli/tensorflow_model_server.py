"""
`tensorflow_model_server`: the drop-in.

Flags, order of events, output and exit status are those of TensorFlow Serving.
"""

import os
import sys
from typing import NoReturn

from servable.cli import process
from servable.cli.flags import FLAGS, parse, usage

_FAILURE = 255


def main() -> NoReturn:
    """Run the model server with the arguments of this process; never returns."""
    program = sys.argv[0] if sys.argv else "tensorflow_model_server"
    try:
        status = run(program, sys.argv[1:])
    except BrokenPipeError:  # `--help | head`
        status = _FAILURE
    process.leave(status)


def run(program: str, arguments: list[str]) -> int:
    """Serve until a signal comes; return the exit status."""
    parsed = parse(arguments, FLAGS)
    if parsed.malformed or parsed.wants_help:
        for name, text in parsed.malformed:
            print(
                f"Couldn't interpret value {text} for flag {name}.",
                file=sys.stderr,
            )
        print(usage(program, FLAGS), flush=True)
        return _FAILURE
    if parsed.values["version"]:
        print(f"TensorFlow ModelServer: {process.servable_version()}")
        print(f"TensorFlow Library: {process.tensorflow_version()}", flush=True)
        return os.EX_OK
    if parsed.unknown:
        print(f"unknown argument: {parsed.unknown[0]}")
        print(usage(program, FLAGS), flush=True)
    return process.serve(parsed, FLAGS, rest_is_optional=True)
