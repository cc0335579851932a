"""
Models of an MLflow registry: base paths as `models:/m` or `mlflow://host:5000/m`.

The registry and the artifacts that it stores itself are read over its REST API;
artifacts elsewhere are read from there as any other place.
"""

import dataclasses
import functools
import os
import posixpath
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import httpx

from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from servable.sources.database_source import content_at
from servable.sources.registry import SourceOptions
from servable.sources.store import Content, LocalContent, RemoteFile, checked_name
from servable.sources.store_source import StoreSource
from servable.sources.urls import scheme_of
from servable.sources.versions import ServableToMonitor

_API: Final = "/api/2.0/mlflow"
_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_CHUNK_BYTES: Final = 4 << 20
_SAVED_MODEL: Final = "saved_model.pb"
_MAX_FILES: Final = 100_000
_MISSING: Final = 404
_BAD_REQUEST: Final = 400
_PARTIAL_CONTENT: Final = 206
_making: Final = threading.Lock()  # functools.cache may make two for two threads


def mlflow_source(options: SourceOptions) -> StoreSource:
    """Return the Source of MLflow registries; see servable.sources.registry."""
    return StoreSource(
        lambda servable: MlflowStore(servable.base_path, options.model_roots),
        options.cache,
        options.poll_wait_s,
        is_available=options.is_available,
        failed_load=options.failed_load,
        record=options.record_fetch,
        progress=options.progress,
        problems=options.problems,
        check=_check,
    )


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """
    What a base path says.

    Attributes:
        server: URL of the MLflow server.
        name: of the registered model.
        alias: of the one version that is meant, "" for all of them.
        directory: in the artifacts, that is the version; None to find it.
    """

    server: str
    name: str
    alias: str = ""
    directory: str | None = None

    @classmethod
    def of(cls, base_path: str) -> "RegisteredModel":
        """
        Return what *base_path* says; for `models:/` the environment names the server.

        Raises:
            FailedPrecondition: The environment names none.
            InvalidArgument: There is no name, or no host.
        """
        rest, _, directory = base_path.partition("#")
        scheme = scheme_of(rest)
        if scheme == "models":
            server = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get(
                "MLFLOW_TRACKING_URI", ""
            )
            if not server.startswith(("http://", "https://")):
                raise FailedPrecondition(
                    "Base paths with models:/ need the URL of an MLflow server in "
                    "MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI"
                )
            path = rest.removeprefix("models:").strip("/")
        else:
            parts = urlsplit(rest)
            protocol = "https" if scheme == "mlflow+https" else "http"
            server, path = f"{protocol}://{parts.netloc}", parts.path.strip("/")
            if not parts.hostname:
                raise InvalidArgument(f"Base path {scheme}:// names no MLflow server")
        name, _, alias = path.partition("@")
        if not name or "/" in name:
            raise InvalidArgument(
                f"Expected the name of a registered model; got {path!r}"
            )
        return cls(
            server.rstrip("/"),
            unquote(name),
            unquote(alias),
            directory.strip("/") or None,
        )


class MlflowStore:
    """The versions of one registered model that are READY; see VersionStore."""

    def __init__(self, base_path: str, model_roots: Sequence[str] = ()) -> None:
        self._model = RegisteredModel.of(base_path)
        self._model_roots = model_roots
        with _making:
            self._client = _client(self._model.server)

    def children(self) -> Iterable[str]:
        """
        Return the numbers of the versions, in one request or one for each 10,000.

        Raises:
            FileNotFoundError: There are none; a registry does not tell a model without
                versions from none.
        """
        found = self._aliased() if self._model.alias else self._search()
        ready = [str(v["version"]) for v in found if v.get("status") == "READY"]
        if not ready:
            raise FileNotFoundError(self._model.name)
        return ready

    def content(self, child: str) -> Content | LocalContent:
        """Return the artifacts of a version: those of its SavedModel, if it is one."""
        uri = self._get(
            f"{_API}/model-versions/get-download-uri",
            {"name": self._model.name, "version": child},
        ).get("artifact_uri", "")
        parts = urlsplit(uri)
        if parts.scheme != "mlflow-artifacts":
            local = parts.path if parts.scheme == "file" else uri
            found = content_at(local, self._model_roots)
        elif parts.netloc and parts.netloc != urlsplit(self._model.server).netloc:
            raise PermissionDenied(
                f"The artifacts of version {child} are on {parts.hostname}, and only "
                "the registry itself may be asked"
            )
        else:
            found = self._artifacts(unquote(parts.path).strip("/"), child)
        return narrowed(found, self._model.directory)

    def _search(self) -> Iterator[dict[str, Any]]:
        # MLflow's filters know no escapes, and two kinds of quotes.
        quote_mark = '"' if "'" in self._model.name else "'"
        name = f"{quote_mark}{self._model.name}{quote_mark}"
        parameters = {"filter": f"name={name}", "max_results": "10000"}
        while True:
            answer = self._get(f"{_API}/model-versions/search", parameters)
            yield from answer.get("model_versions", ())
            if not (token := answer.get("next_page_token")):
                return
            parameters["page_token"] = token

    def _aliased(self) -> list[dict[str, Any]]:
        answer = self._get(
            f"{_API}/registered-models/alias",
            {"name": self._model.name, "alias": self._model.alias},
            # The second is for a model that is there, and has no such alias.
            missing=(_MISSING, _BAD_REQUEST),
        )
        return [answer["model_version"]]

    def _artifacts(self, top: str, child: str) -> Content:
        files: list[RemoteFile] = []
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            listed = self._get(_ARTIFACTS, {"path": posixpath.join(top, directory)})
            for entry in listed.get("files", ()):
                # Some stores tell the path below the version, some the name alone.
                name = checked_name(
                    posixpath.join(directory, posixpath.basename(entry["path"]))
                )
                if entry.get("is_dir"):
                    waiting.append(name)
                    continue
                size = int(entry["file_size"]) if "file_size" in entry else None
                identity = f"{self._model.server}/{top}/{name} {child} {size}"
                files.append(RemoteFile(name, size, identity))
                if len(files) > _MAX_FILES:
                    raise InvalidArgument(f"It has more than {_MAX_FILES} artifacts")

        def read(file: RemoteFile, start: int) -> Iterator[bytes]:
            return self._read(f"{_ARTIFACTS}/{quote(f'{top}/{file.name}')}", start)

        return Content(tuple(files), read)

    def _read(self, url: str, start: int) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._client.stream("GET", url, headers=headers) as answer:
            answer.raise_for_status()
            skip = start if answer.status_code != _PARTIAL_CONTENT else 0
            for chunk in answer.iter_bytes(_CHUNK_BYTES):
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(skip - len(chunk), 0)

    def _get(
        self, url: str, parameters: dict[str, str], missing: Sequence[int] = (_MISSING,)
    ) -> dict[str, Any]:
        answer = self._client.get(url, params=parameters)
        if answer.status_code in missing:
            raise FileNotFoundError(self._model.name)
        if not answer.is_success:
            raise Unavailable(f"MLflow answered {answer.status_code} for {url}")
        found: dict[str, Any] = answer.json()
        return found

    def __repr__(self) -> str:
        return f"<MlflowStore {self._model.name}>"


def narrowed(
    found: Content | LocalContent, directory: str | None
) -> Content | LocalContent:
    """
    Return what is in one *directory* of the artifacts *found*.

    None stands for the directory of the SavedModel, if there is one SavedModel, and
    else for all of it.

    Raises:
        NotFound: There is no such directory.
    """
    if isinstance(found, LocalContent):
        inside = _saved_model_in(_local_names(found.path))
        return LocalContent(
            os.path.join(found.path, inside if directory is None else directory)
        )
    if directory is None:
        directory = _saved_model_in(file.name for file in found.files)
    if not directory:
        return found
    prefix = f"{directory}/"
    kept = {
        file.name.removeprefix(prefix): file
        for file in found.files
        if file.name.startswith(prefix)
    }
    if not kept:
        raise NotFound(f"There is no directory {directory} among the artifacts")
    files = tuple(dataclasses.replace(file, name=name) for name, file in kept.items())
    return dataclasses.replace(
        found, files=files, read=lambda file, start: found.read(kept[file.name], start)
    )


def _saved_model_in(names: Iterable[str]) -> str:
    """Return the directory of the one SavedModel among *names*, or ""."""
    found = {
        posixpath.dirname(name)
        for name in names
        if posixpath.basename(name) == _SAVED_MODEL
    }
    return found.pop() if len(found) == 1 else ""


def _local_names(path: str) -> Iterator[str]:
    for parent, _, names in os.walk(path):
        for name in names:
            yield os.path.relpath(os.path.join(parent, name), path)


def _check(servable: ServableToMonitor) -> None:
    RegisteredModel.of(servable.base_path)


@functools.cache
def _client(server: str) -> httpx.Client:
    """Return the one client for *server*, with the credentials for MLflow's tools."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    return httpx.Client(
        base_url=server,
        timeout=_TIMEOUT,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        auth=(user, password) if user and not token else None,
    )
