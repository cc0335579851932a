"""
What batching can do here beside TensorFlow Serving's parameters.

The parameters themselves are in `batching_parameters`; this is what has no place in
that message, and is off unless it is asked for, because answers change by it.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from servable.config.text_format import file_error
from servable.errors import InvalidArgument

FIXED: Final = "fixed"
ADAPTIVE: Final = "adaptive"
OWN_POLICIES: Final = frozenset({FIXED, ADAPTIVE})


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """
    How requests of one model are put into batches.

    Attributes:
        policy: "fixed" keeps to BatchingParameters as TensorFlow Serving does,
            "adaptive" finds sizes by itself; others are names of installed policies.
        target_p99_ms: what the adaptive policy aims at, in milliseconds; 0: nothing.
        max_in_flight: most batches of a signature that run at a time under a policy
            other than "fixed"; 0: as many as there are cores.
        run_unbatchable_alone: whether what no batch can hold runs by itself, instead
            of being refused; None: under every policy but "fixed", and
            with an installed batcher.
        padding_value: what variable lengths are padded with; None: the first element
            of each tensor itself.
        unpad_outputs: whether outputs lose what padding of the inputs added to them.
        unbatched_signatures: names of signatures whose requests run one by one.
        batcher: the installed batcher that puts requests together and takes answers
            apart; "": the engine does.
    """

    policy: str = FIXED
    target_p99_ms: float = 0.0
    max_in_flight: int = 0
    run_unbatchable_alone: bool | None = None
    padding_value: float | None = None
    unpad_outputs: bool = False
    unbatched_signatures: tuple[str, ...] = ()
    batcher: str = ""

    @property
    def runs_unbatchable_alone(self) -> bool:
        """Whether what no batch can hold runs by itself."""
        if self.run_unbatchable_alone is None:
            return self.policy != FIXED or bool(self.batcher)
        return self.run_unbatchable_alone

    def updated(self, table: dict[str, Any], where: str) -> Self:
        """
        Return these options with those of *table*, which was read at *where*.

        Raises:
            InvalidArgument: A key or a value is none.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for key, value in table.items():
            if key not in _CHECKS:
                raise InvalidArgument(f"{where}: there is no option {key}")
            is_good, expected = _CHECKS[key]
            if not is_good(value):
                raise InvalidArgument(f"{where}: {key} must be {expected}")
            values[key] = tuple(value) if isinstance(value, list) else value
        return type(self)(**values)


@dataclass(frozen=True, slots=True)
class BatchingOptionsByModel:
    """Options for all models, and for some by their names."""

    default: BatchingOptions = field(default_factory=BatchingOptions)
    by_model: tuple[tuple[str, BatchingOptions], ...] = ()

    @property
    def installed_policies(self) -> frozenset[str]:
        """The names of policies that are none of the engine's own."""
        options = (self.default, *(options for _, options in self.by_model))
        return frozenset(one.policy for one in options) - OWN_POLICIES

    @property
    def batchers(self) -> frozenset[str]:
        """The names of installed batchers."""
        options = (self.default, *(options for _, options in self.by_model))
        return frozenset(one.batcher for one in options if one.batcher)

    def of(self, model_name: str) -> BatchingOptions:
        """Return the options of a model."""
        return dict(self.by_model).get(model_name, self.default)


NO_OPTIONS: Final = BatchingOptionsByModel()


def read(path: str, policy: str = FIXED) -> BatchingOptionsByModel:
    """
    Read a TOML file: options, and tables `[models.NAME]` with a model's own.

    policy is the one where the file names none; with the path "" there is no file.

    Raises:
        InvalidArgument: It is no such file.
        ServingError: It cannot be read.
    """
    options = BatchingOptions().updated({"policy": policy}, "batching_policy")
    if not path:
        return BatchingOptionsByModel(options)
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path loses "" and "//"
            document = tomllib.load(file)
    except OSError as error:
        raise file_error(path, error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: {error}") from error
    models = document.pop("models", {})
    default = options.updated(document, path)
    if not isinstance(models, dict) or not all(
        isinstance(table, dict) for table in models.values()
    ):
        raise InvalidArgument(f"{path}: models must be tables, [models.NAME]")
    return BatchingOptionsByModel(
        default,
        tuple(
            (name, default.updated(table, f"{path}: models.{name}"))
            for name, table in models.items()
        ),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "policy": (
        lambda value: isinstance(value, str) and bool(value),
        "the name of a policy",
    ),
    "target_p99_ms": (
        lambda value: _is_number(value) and 0 <= value < float("inf"),
        "a number of milliseconds, 0 for none",
    ),
    "max_in_flight": (
        lambda value: _is_number(value) and isinstance(value, int) and value >= 0,
        "a number of batches, 0 for one for each core",
    ),
    "run_unbatchable_alone": (lambda value: isinstance(value, bool), "true or false"),
    "padding_value": (_is_number, "a number"),
    "unpad_outputs": (lambda value: isinstance(value, bool), "true or false"),
    "unbatched_signatures": (
        lambda value: (
            isinstance(value, list) and all(isinstance(name, str) for name in value)
        ),
        "a list of names of signatures",
    ),
    "batcher": (lambda value: isinstance(value, str), "the name of a batcher"),
}
