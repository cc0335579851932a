"""
A hub of models on this machine, with what HfFileSystem uses of the Hub's HTTP API.

    python hub.py [PORT]

It prints its port, and ends with its standard input.  `PUT /ORG/REPO/resolve/main/PATH`
commits a file; large ones become LFS objects, which are read from another path.
"""

import functools
import hashlib
import http.server
import json
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 1 << 20
PAGE = 2  # entries; small, so that every listing has pages


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class File:
    data: bytes

    @property
    def is_lfs(self) -> bool:
        return len(self.data) >= LFS_BYTES

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def stored(self) -> bytes:
        """What git has of it: for LFS a pointer."""
        if not self.is_lfs:
            return self.data
        return (
            b"version https://git-lfs.github.com/spec/v1\n"
            b"oid sha256:%s\nsize %d\n" % (self.sha256.encode(), len(self.data))
        )

    @functools.cached_property
    def oid(self) -> str:
        return sha1(b"blob %d\0" % len(self.stored) + self.stored)

    def entry(self, path: str) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "oid": self.oid, "path": path}
        entry["size"] = len(self.data)
        if self.is_lfs:
            pointer = len(self.stored)
            size = len(self.data)
            entry["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": pointer}
        return entry


REPOSITORIES: dict[str, dict[str, File]] = {}


def below(files: dict[str, File], top: str, recursive: bool) -> list[dict[str, object]]:
    """Return the entries below the directory *top*, as the API lists them."""
    entries: dict[str, dict[str, object]] = {}
    prefix = f"{top}/" if top else ""
    for path, file in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            directory = prefix + "/".join(parts[:depth])
            oid = sha1(directory.encode())
            entry = {"type": "directory", "oid": oid, "size": 0, "path": directory}
            entries[directory] = entry
        if recursive or len(parts) == 1:
            entries[path] = file.entry(path)
    return [entries[path] for path in sorted(entries)]


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        for pattern, answer in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.repository),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", self.tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/objects/([^/]+/[^/]+)/([^/]+)/(.+)", self.stored),
        ):
            if match := re.fullmatch(pattern, url.path):
                repository, revision, *rest = (unquote(g or "") for g in match.groups())
                if repository not in REPOSITORIES:
                    self.missing("RepoNotFound")
                elif revision not in {"", "main"}:
                    self.missing("RevisionNotFound")
                else:
                    answer(repository, *rest)
                return
        self.missing("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        org, name, _resolve, _main, path = unquote(self.path[1:]).split("/", 4)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        REPOSITORIES.setdefault(f"{org}/{name}", {})[path] = File(data)
        self.answer(b"")

    def repository(self, repository: str) -> None:
        about = {"id": repository, "sha": commit(repository), "private": False}
        self.answer(json.dumps(about).encode())

    def tree(self, repository: str, top: str) -> None:
        query = {
            key: values[0]
            for key, values in parse_qs(urlsplit(self.path).query).items()
        }
        recursive = query.get("recursive", "").lower() == "true"
        entries = below(REPOSITORIES[repository], top, recursive)
        if top and not entries:
            self.missing("EntryNotFound")
            return
        start = int(query.get("cursor", "0"))
        page, left = entries[start : start + PAGE], entries[start + PAGE :]
        more = {}
        if left:
            here = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            again = f"recursive={recursive}&cursor={start + PAGE}"
            more["Link"] = f'<{here}?{again}>; rel="next"'
        self.answer(json.dumps(page).encode(), more)

    def resolve(self, repository: str, path: str) -> None:
        file = REPOSITORIES[repository].get(path)
        if file is None:
            self.missing("EntryNotFound")
        elif file.is_lfs:
            place = f"http://{self.headers['Host']}/objects/{repository}/main/{path}"
            self.answer(b"", {"Location": place}, HTTPStatus.FOUND)
        else:
            self.send(file)

    def stored(self, repository: str, path: str) -> None:
        self.send(REPOSITORIES[repository][path])

    def send(self, file: File) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self.answer(file.data, {"ETag": f'"{file.oid}"'})
            return
        size = len(file.data)
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{size}"}
        part = file.data[first : last + 1]
        self.answer(part, headers, HTTPStatus.PARTIAL_CONTENT)

    def missing(self, what: str) -> None:
        self.answer(b"", {"X-Error-Code": what}, HTTPStatus.NOT_FOUND)

    def answer(
        self,
        body: bytes,
        headers: Mapping[str, str] = MappingProxyType({}),
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def commit(repository: str) -> str:
    """Return the commit that stands for all files that are there."""
    oids = [f"{path} {file.oid}" for path, file in REPOSITORIES[repository].items()]
    return sha1("\n".join(sorted(oids)).encode())


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Hub) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)  # noqa: T201
        sys.stdin.read()


if __name__ == "__main__":
    main()
