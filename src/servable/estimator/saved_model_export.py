"""
From a checkpoint to a SavedModel: what is done, and in which order.

Everything is written into a directory that no server takes for a version, and
renamed at the end.  What fails leaves that directory behind, for whoever wants to
know how far it came.
"""

import logging
import os
import posixpath
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from servable.estimator.mode_keys import ModeKeys
from servable.estimator.signature_map import signature_map
from servable.export._tensorflow import tf
from servable.export.files import sync_tree
from servable.export.saved_model_builder import SavedModelBuilder

_logger = logging.getLogger(__name__)

TAGS: Final[Mapping[str, list[str]]] = {
    ModeKeys.TRAIN: ["train"],
    ModeKeys.EVAL: ["eval"],
    ModeKeys.PREDICT: ["serve"],
}
_ATTEMPTS: Final = 10
# Collection that the train op of a meta graph is found in.
_TRAIN_OP: Final = "saved_model_train_op"


class SavedModelExport:
    """
    One export; used once.

    Args:
        call_model_fn: what makes a spec of features, labels and mode.
        checkpoint_path: where the variables are.
        session_config: what sessions are made with.
        seed: of the graphs; None for any.
        strip_default_attrs: leave attributes out that have their default.
    """

    def __init__(
        self,
        call_model_fn: Callable[[Any, Any, str], Any],
        checkpoint_path: str,
        session_config: Any,
        seed: int | None,
        strip_default_attrs: bool,
    ) -> None:
        self._call_model_fn = call_model_fn
        self._checkpoint_path = checkpoint_path
        self._session_config = session_config
        self._seed = seed
        self._strip_default_attrs = strip_default_attrs
        self._has_variables = False

    def write(
        self,
        export_dir_base: str,
        receiver_fns: Mapping[str, Callable[[], Any] | None],
        assets_extra: Mapping[str, str] | None,
        as_text: bool,
    ) -> bytes:
        """
        Write a SavedModel of the modes in *receiver_fns*; return its directory.

        Raises:
            ValueError: there is none of the modes, the checkpoint does not fit the
                model, or what the model function returns is wrong.
            RuntimeError: there is no name left for the directory.
            tf.errors.OpError: a file cannot be read or written.
        """
        final = timestamped_directory(export_dir_base)
        temporary = temporary_directory(final)
        builder = SavedModelBuilder(temporary)
        for mode, tags in TAGS.items():
            receiver_fn = receiver_fns.get(mode)
            if receiver_fn is not None:
                self._add_mode(builder, mode, tags, receiver_fn)
        if not self._has_variables:
            raise ValueError(
                f"No valid modes for exporting found. Got {receiver_fns.keys()}."
            )
        builder.save(as_text)
        if assets_extra:
            _copy_extra(temporary, assets_extra)
        sync_tree(temporary)
        tf.gfile.Rename(temporary, final)
        _logger.info("SavedModel written to: %s", final)
        return final.encode()

    def _add_mode(
        self,
        builder: SavedModelBuilder,
        mode: str,
        tags: list[str],
        receiver_fn: Callable[[], Any],
    ) -> None:
        with tf.Graph().as_default():
            tf.train.create_global_step()
            tf.set_random_seed(self._seed)
            receiver = receiver_fn()
            features, labels = receiver.features, getattr(receiver, "labels", None)
            spec = self._call_model_fn(features, labels, mode)
            signatures = signature_map(spec, receiver, mode)
            with tf.Session(config=self._session_config) as session:
                main_op = spec.scaffold.local_init_op
                if main_op is None:
                    main_op = tf.train.Scaffold.default_local_init_op()
                saver = spec.scaffold.saver or tf.train.Saver(sharded=True)
                self._restore(saver, session, mode)
                if spec.train_op is not None:
                    tf.add_to_collection(_TRAIN_OP, spec.train_op)
                self._add_meta_graph(builder, session, tags, signatures, main_op, saver)

    def _add_meta_graph(
        self,
        builder: SavedModelBuilder,
        session: Any,
        tags: list[str],
        signatures: Mapping[str, Any],
        main_op: Any,
        saver: Any,
    ) -> None:
        what = {
            "tags": tags,
            "signature_def_map": signatures,
            "assets_collection": tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            "main_op": main_op,
            "saver": saver,
            "strip_default_attrs": self._strip_default_attrs,
        }
        if self._has_variables:
            builder.add_meta_graph(**what)
        else:
            builder.add_meta_graph_and_variables(session, **what)
            self._has_variables = True

    def _restore(self, saver: Any, session: Any, mode: str) -> None:
        path = self._checkpoint_path
        try:
            check_shapes(saver, path)
            saver.restore(session, path)
        except tf.errors.NotFoundError as exc:
            raise ValueError(
                "Could not load all requested variables from checkpoint. Please make "
                "sure your model_fn does not expect variables that were not saved in "
                f"the checkpoint.\n\nEncountered error with mode `{mode}` while "
                f"restoring checkpoint from: `{path}`. Full Traceback:\n\n{exc}"
            ) from exc


def timestamped_directory(base: str) -> str:
    """
    Return the name of a new directory in *base*: the time, in seconds.

    Blocks for a second and tries again while there is a directory of that name, or one
    that an export which failed in the same second has left.

    Raises:
        RuntimeError: that was so ten times.
    """
    for attempt in range(_ATTEMPTS):
        directory = os.path.join(base, str(int(time.time())))
        taken = (directory, temporary_directory(directory))
        if not any(map(tf.gfile.Exists, taken)):
            return directory
        time.sleep(1)
        _logger.warning(
            "Directory %s already exists (attempt %d of %d)",
            directory,
            attempt + 1,
            _ATTEMPTS,
        )
    raise RuntimeError(
        f"Failed to obtain a unique export directory name after {_ATTEMPTS} attempts."
    )


def temporary_directory(directory: str) -> str:
    """Return where *directory* is written before it has its name."""
    base, name = os.path.split(directory)
    return os.path.join(base, f"temp-{name}")


def check_shapes(saver: Any, checkpoint_path: str) -> None:
    """
    Check that variables have the shapes that the checkpoint has for them.

    Reference variables do so themselves when they are restored, and resource
    variables do not.

    Raises:
        tf.errors.InvalidArgumentError: one has another shape.
    """
    if not tf.gfile.Exists(f"{checkpoint_path}.index"):
        return  # of another format, or the saver says that there is none
    shapes = tf.train.load_checkpoint(checkpoint_path).get_variable_to_shape_map()
    saver.build()
    definition = saver.saver_def or saver.as_saver_def()
    graph = tf.get_default_graph()
    waiting = [graph.get_operation_by_name(definition.restore_op_name)]
    seen = set()
    while waiting:
        operation = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        waiting.extend(operation.control_inputs)
        if operation.type == "AssignVariableOp":
            _check_shape(operation, shapes)


def _check_shape(assignment: Any, shapes: Mapping[str, list[int]]) -> None:
    handle, value = assignment.inputs
    while value.op.type == "Identity":
        value = value.op.inputs[0]
    if value.op.type != "RestoreV2" or handle.op.type != "VarHandleOp":
        return
    _, names, slices = value.op.inputs
    at = value.value_index
    name = tf.get_static_value(names)[at].decode()
    if tf.get_static_value(slices)[at] or name not in shapes:
        return
    expected = tf.TensorShape(handle.op.get_attr("shape"))
    if not expected.is_compatible_with(shapes[name]):
        raise tf.errors.InvalidArgumentError(
            None,
            None,
            f"Variable {handle.op.name} has shape {expected.as_list()}, and {name} in "
            f"the checkpoint has shape {list(shapes[name])}",
        )


def _copy_extra(export_dir: str, assets_extra: Mapping[str, str]) -> None:
    folder = os.path.join(export_dir, "assets.extra")
    for destination, source in assets_extra.items():
        relative = posixpath.normpath(tf.compat.as_str(destination))
        if relative.startswith(("/", "../")) or relative in (".", ".."):
            raise ValueError(
                f"assets_extra names {destination!r}, which is not inside of the "
                "exported model"
            )
        target = os.path.join(folder, relative)
        tf.gfile.MakeDirs(os.path.dirname(target))
        tf.gfile.Copy(tf.compat.as_str(source), target)
