"""
The process that loads a version before the server does; platforms/trial.py starts it.

It makes of the server's options what the server makes of them, loads the one version,
and tells how that went.  It ends without waiting for anything.
"""

import json
import os
import signal
import sys
from typing import NoReturn

from servable.cli import supervisor
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import Code, from_exception

_NICE = 10


def main(arguments: list[str]) -> NoReturn:
    """Do what our standard input says; *arguments*: our parent, and whom to tell."""
    parent, told = map(int, arguments)
    # What the server's threads do not listen to, this process does not, either.
    supervisor.end_with(parent, signal.SIGKILL)
    work = json.loads(sys.stdin.buffer.read())
    sys.path += [path for path in work["import_path"] if path not in sys.path]
    os.nice(_NICE)
    outcome: tuple[int, str] = (Code.OK, "")
    try:
        _load(work)
    except BaseException as error:  # noqa: BLE001 - loaders raise what they like
        failure = from_exception(error)
        outcome = (failure.code, failure.message)
    os.write(told, json.dumps(outcome).encode())
    sys.stdout.flush()
    os._exit(0)


def _load(work: dict[str, str]) -> None:
    # Imports of what a model needs are part of the trial.
    from servable.config.server_options import ServerOptions  # noqa: PLC0415
    from servable.server import Server  # noqa: PLC0415

    options = ServerOptions.from_json(work["options"])
    servable_id = ServableId(work["name"], int(work["version"]))
    Server(options).try_load(work["platform"], servable_id, StoragePath(work["path"]))
