"""
The platform "composite": models made of other models, and tables in shards.

A version directory has a file `composite.toml` that says which models are asked, what
they are fed, and what is answered.  This module reads and checks it; the engine does
the asking (engine/src/composite.rs), and finds the parts anew for each request.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from servable import _engine
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    from_exception,
)
from servable.platforms.platform import PlatformOptions
from servable.platforms.python.model import (
    Signature,
    TensorSpec,
    to_signature_def_map,
)

FILE: Final = "composite.toml"

_PART_FIELDS: Final = {
    "name",
    "model",
    "shards",
    "route_by",
    "version",
    "label",
    "signature_name",
    "inputs",
}


@dataclass(frozen=True, slots=True)
class Part:
    """
    One step of a composite.

    Attributes:
        name: what its outputs are called by, as in `name.output`.
        models: the model that is asked; several are shards.
        version: which version of it; None: what `label` says, or else the latest.
        inputs: its inputs, and where each comes from.
        outputs: those of its outputs that are used.
        route_by: the input by whose elements rows are sent to shards.
    """

    name: str
    models: tuple[str, ...]
    inputs: Mapping[str, str]
    version: int | None = None
    label: str | None = None
    signature_name: str = "serving_default"
    route_by: str | None = None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Composite:
    """What a `composite.toml` says."""

    signature: Signature
    parts: tuple[Part, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as _engine.composite_servable takes it."""
        parts = [
            {
                "name": part.name,
                "models": part.models,
                "version": part.version,
                "label": part.label,
                "signature_name": part.signature_name,
                "inputs": dict(part.inputs),
                "outputs": part.outputs,
                "route_by": part.route_by,
            }
            for part in self.parts
        ]
        return json.dumps({"parts": parts, "outputs": dict(self.sources)})


def parse(text: str) -> Composite:
    """
    Return what the text of a `composite.toml` says.

    Raises:
        InvalidArgument: it is no TOML, or a field is missing or wrong; it names the
            field.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{FILE}: {error}") from None
    _refuse_unknown(given, {"inputs", "outputs", "parts"}, FILE)
    inputs = {
        name: _spec(fields, {"dtype", "shape"}, f"inputs.{name}")
        for name, fields in _table(given, "inputs", FILE).items()
    }
    outputs = _table(given, "outputs", FILE)
    specs = {
        name: _spec(fields, {"dtype", "shape", "from"}, f"outputs.{name}")
        for name, fields in outputs.items()
    }
    listed = given.get("parts")
    if not isinstance(listed, list) or not listed:
        raise InvalidArgument(f"{FILE}: there are no [[parts]]")
    parts: list[Part] = []
    for fields in listed:
        part = _part(fields)
        if part.name in {other.name for other in parts}:
            raise InvalidArgument(f"{FILE}: two parts are called {part.name}")
        before = {other.name for other in parts}
        for alias, source in part.inputs.items():
            _check_source(source, inputs, before, f"part {part.name}, inputs.{alias}")
        parts.append(part)
    sources = {
        name: _text(fields, "from", f"outputs.{name}")
        for name, fields in outputs.items()
    }
    for name, source in sources.items():
        _check_source(source, inputs, {p.name for p in parts}, f"outputs.{name}")
    used = {*sources.values(), *(s for part in parts for s in part.inputs.values())}
    return Composite(
        Signature(inputs, specs),
        tuple(_with_outputs(part, used) for part in parts),
        sources,
    )


@dataclass(frozen=True, slots=True)
class CompositePlatform:
    """Makes Loaders of composites whose parts `engine` serves; see Platform."""

    engine: _engine.Engine
    name: str = "composite"

    def loader(self, servable_id: ServableId, path: StoragePath) -> "CompositeLoader":
        """Return the Loader of the version at *path*."""
        return CompositeLoader(self.engine, servable_id, path)


class CompositeLoader:
    """One version of a composite; see Loader.  Its parts may come later than it."""

    def __init__(
        self, engine: _engine.Engine, servable_id: ServableId, path: StoragePath
    ) -> None:
        self._engine = engine
        self._id = servable_id
        self._path = path
        self._servable: _engine.Servable | None = None

    def estimate_resources(self) -> int:
        """Return 0: parts are models with estimates of their own."""
        return 0

    def load(self) -> None:
        """
        Read the file.

        Raises:
            NotFound: there is none.
            InvalidArgument: it does not say what a composite is.
        """
        try:
            with open(os.path.join(self._path, FILE), encoding="utf-8") as file:
                composite = parse(file.read())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"There is no {FILE} in the version directory") from None
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{FILE}: {error}") from None
        try:
            self._servable = _engine.composite_servable(
                self._engine,
                composite.to_json(),
                to_signature_def_map({"serving_default": composite.signature}),
            )
        except _engine.EngineError as error:
            raise from_exception(error) from error

    def servable(self) -> _engine.Servable:
        """Return what the engine runs."""
        if self._servable is None:
            raise FailedPrecondition(f"{self._id} is not loaded")
        return self._servable

    def unload(self) -> None:
        """Wait for the last request."""
        if self._servable is not None:
            self._servable.close()
            self._servable = None


def composite_platform(_: PlatformOptions, engine: object) -> CompositePlatform:
    """Make the platform "composite"."""
    return CompositePlatform(cast("_engine.Engine", engine))


def _part(fields: Any) -> Part:
    if not isinstance(fields, dict):
        raise InvalidArgument(f"{FILE}: parts are tables, as [[parts]]")
    name = _text(fields, "name", "a part")
    where = f"part {name}"
    if "." in name:
        raise InvalidArgument(f"{FILE}: {where}: a name has no dot")
    _refuse_unknown(fields, _PART_FIELDS, f"{FILE}: {where}")
    inputs = _table(fields, "inputs", f"{FILE}: {where}")
    for alias in inputs:
        _text(inputs, alias, f"{where}, inputs")
    version, label = _version(fields, where)
    return Part(
        name,
        _models(fields, where, inputs),
        inputs,
        version,
        label,
        str(fields.get("signature_name", "serving_default")),
        fields.get("route_by"),
    )


def _models(
    fields: Mapping[str, Any], where: str, inputs: Mapping[str, Any]
) -> tuple[str, ...]:
    if ("model" in fields) == ("shards" in fields):
        raise InvalidArgument(f"{FILE}: {where} has either a model or shards")
    if "model" in fields:
        if "route_by" in fields:
            raise InvalidArgument(f"{FILE}: {where}: route_by is for shards")
        return (_text(fields, "model", where),)
    shards = fields["shards"]
    if not isinstance(shards, list) or not shards or not _are_texts(shards):
        raise InvalidArgument(f"{FILE}: {where}: shards is no list of models")
    if _text(fields, "route_by", where) not in inputs:
        raise InvalidArgument(f"{FILE}: {where}: route_by names no input of it")
    return tuple(shards)


def _version(fields: Mapping[str, Any], where: str) -> tuple[int | None, str | None]:
    version, label = fields.get("version"), fields.get("label")
    if version is not None and label is not None:
        raise InvalidArgument(f"{FILE}: {where} has either a version or a label")
    if version is not None and (not isinstance(version, int) or version < 0):
        raise InvalidArgument(f"{FILE}: {where}: version is {version!r}")
    return version, None if label is None else _text(fields, "label", where)


def _with_outputs(part: Part, used: set[str]) -> Part:
    prefix = f"{part.name}."
    outputs = sorted(s.removeprefix(prefix) for s in used if s.startswith(prefix))
    if not outputs:
        raise InvalidArgument(f"{FILE}: nothing uses part {part.name}")
    return Part(
        part.name,
        part.models,
        part.inputs,
        part.version,
        part.label,
        part.signature_name,
        part.route_by,
        tuple(outputs),
    )


def _check_source(
    source: str, inputs: Mapping[str, TensorSpec], parts: set[str], where: str
) -> None:
    name, dot, output = source.partition(".")
    if source in inputs or (dot and output and name in parts):
        return
    known = [*inputs, *(f"{part}.OUTPUT" for part in sorted(parts))]
    raise InvalidArgument(
        f"{FILE}: {where}: there is no {source!r} before it; there are "
        f"{', '.join(known)}"
    )


def _spec(fields: Any, allowed: set[str], where: str) -> TensorSpec:
    if not isinstance(fields, dict):
        raise InvalidArgument(f"{FILE}: {where} is no table with dtype and shape")
    _refuse_unknown(fields, allowed, f"{FILE}: {where}")
    shape = fields.get("shape")
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and size >= -1 for size in shape
    ):
        raise InvalidArgument(f"{FILE}: {where}: shape is no list of sizes")
    try:
        return TensorSpec(_text(fields, "dtype", where), shape)
    except InvalidArgument as error:
        raise InvalidArgument(f"{FILE}: {where}: {error.message}") from None


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{FILE}: {where} has no {name}")
    return value


def _table(fields: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict) or not value:
        raise InvalidArgument(f"{where}: there are no {name}")
    return value


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value for value in values)


def _refuse_unknown(fields: Mapping[str, Any], allowed: set[str], where: str) -> None:
    if unknown := fields.keys() - allowed:
        raise InvalidArgument(f"{where}: unknown field {min(unknown)}")
