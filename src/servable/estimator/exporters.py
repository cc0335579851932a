"""Exporters: when train_and_evaluate exports, and which exports it keeps."""

import abc
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from servable.estimator.estimator import argument_names
from servable.export._tensorflow import tf

_logger = logging.getLogger(__name__)

_TIMESTAMP: Final = re.compile(r"\d{10}")
_LOSS: Final = "loss"


class Exporter(abc.ABC):
    """What train_and_evaluate exports with, after each evaluation."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The directory, under `export` in the model's, that it exports to."""

    @abc.abstractmethod
    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> bytes | None:
        """Export into *export_path* if it is time to; return the directory made."""


class _ServingExporter(Exporter):
    """Exports for serving, under a name."""

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable[[], Any],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = None,
    ) -> None:
        self._name = name
        self._serving_input_receiver_fn = serving_input_receiver_fn
        self._assets_extra = assets_extra
        self._as_text = as_text
        self._exports_to_keep = exports_to_keep

    @property
    def name(self) -> str:
        return self._name

    def _export(self, estimator: Any, export_path: str, checkpoint_path: str) -> bytes:
        made: bytes = estimator.export_saved_model(
            export_path,
            self._serving_input_receiver_fn,
            assets_extra=self._assets_extra,
            as_text=self._as_text,
            checkpoint_path=checkpoint_path,
        )
        self._delete_oldest(export_path)
        return made

    def _delete_oldest(self, export_path: str) -> None:
        if self._exports_to_keep is None:
            return
        names = [name.rstrip("/") for name in tf.gfile.ListDirectory(export_path)]
        exports = sorted(name for name in names if _TIMESTAMP.fullmatch(name))
        for name in exports[: -self._exports_to_keep]:
            try:
                tf.gfile.DeleteRecursively(os.path.join(export_path, name))
            except tf.errors.NotFoundError as exc:  # somebody else did
                _logger.warning("Cannot delete %s: %s", name, exc)


class FinalExporter(_ServingExporter):
    """Exports once, when training is done."""

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable[[], Any],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
    ) -> None:
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> bytes | None:
        """Export if this is the final time."""
        del eval_result
        if not is_the_final_export:
            return None
        return self._export(estimator, export_path, checkpoint_path)


class LatestExporter(_ServingExporter):
    """
    Exports every time, and keeps the newest *exports_to_keep* (None: all).

    Raises:
        ValueError: exports_to_keep is not positive.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable[[], Any],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = 5,
    ) -> None:
        if exports_to_keep is not None and exports_to_keep <= 0:
            raise ValueError("`exports_to_keep`, if provided, must be positive number")
        super().__init__(
            name, serving_input_receiver_fn, assets_extra, as_text, exports_to_keep
        )

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> bytes | None:
        """Export."""
        del eval_result, is_the_final_export
        return self._export(estimator, export_path, checkpoint_path)


def _smaller_loss(
    best_eval_result: Mapping[str, Any], current_eval_result: Mapping[str, Any]
) -> bool:
    for name, result in (
        ("best_eval_result", best_eval_result),
        ("current_eval_result", current_eval_result),
    ):
        if not result or _LOSS not in result:
            raise ValueError(f"{name} cannot be empty or no loss is found in it.")
    return bool(best_eval_result[_LOSS] > current_eval_result[_LOSS])


class BestExporter(_ServingExporter):
    """
    Exports the first time, and whenever the evaluation is better than all before.

    Args:
        name: as Exporter.name.
        serving_input_receiver_fn: returns a ServingInputReceiver.
        event_file_pattern: where, in the model's directory, earlier evaluations are.
        compare_fn: says of best_eval_result and current_eval_result whether the
            current one is better; a smaller loss is, if it is not given.
        assets_extra, as_text: as Estimator.export_saved_model.
        exports_to_keep: how many; None for all.

    Raises:
        ValueError: compare_fn does not take those, or exports_to_keep is not positive.
    """

    def __init__(
        self,
        name: str = "best_exporter",
        serving_input_receiver_fn: Any = None,
        event_file_pattern: str | None = "eval/*.tfevents.*",
        compare_fn: Callable[..., bool] = _smaller_loss,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = 5,
    ) -> None:
        super().__init__(
            name, serving_input_receiver_fn, assets_extra, as_text, exports_to_keep
        )
        if exports_to_keep is not None and exports_to_keep <= 0:
            raise ValueError(
                "`exports_to_keep`, if provided, must be a positive number. "
                f"Got {exports_to_keep}"
            )
        if compare_fn is None:
            raise ValueError("`compare_fn` must not be None.")
        _check_compare_fn(compare_fn)
        self._compare_fn = compare_fn
        self._event_file_pattern = event_file_pattern
        self._best: Mapping[str, Any] | None = None
        self._model_dir: str | None = None
        self._has_exported = False

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> bytes | None:
        """Export if *eval_result* is the best until now."""
        del is_the_final_export
        if self._model_dir != estimator.model_dir and self._event_file_pattern:
            self._model_dir = estimator.model_dir
            pattern = os.path.join(estimator.model_dir, self._event_file_pattern)
            self._best = self._best_in_event_files(pattern)
        if (
            self._has_exported
            and self._best is not None
            and not self._compare_fn(
                best_eval_result=self._best, current_eval_result=eval_result
            )
        ):
            return None
        self._best = eval_result
        made = self._export(estimator, export_path, checkpoint_path)
        self._has_exported = True
        return made

    def _best_in_event_files(self, pattern: str) -> Mapping[str, Any] | None:
        best: Mapping[str, Any] | None = None
        for path in sorted(tf.gfile.Glob(pattern)):
            for event in tf.train.summary_iterator(path):
                values = event.summary.value if event.HasField("summary") else ()
                result = {
                    value.tag: value.simple_value
                    for value in values
                    if value.HasField("simple_value")
                }
                if result and (
                    best is None
                    or self._compare_fn(
                        best_eval_result=best, current_eval_result=result
                    )
                ):
                    best = result
        return best


def _check_compare_fn(compare_fn: Callable[..., bool]) -> None:
    names = argument_names(compare_fn)
    expected = ("best_eval_result", "current_eval_result")
    for name in expected:
        if name not in names:
            raise ValueError(f"compare_fn ({compare_fn}) must include {name} argument.")
    unexpected = [name for name in names if name not in expected]
    if unexpected:
        raise ValueError(
            f"compare_fn ({compare_fn}) has following not expected args: {unexpected}"
        )
