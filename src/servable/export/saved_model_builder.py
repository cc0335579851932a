"""
The builder of SavedModels, graph by graph, with TensorFlow's order rules.

The first meta graph is added with the variables, further ones without; tags tell
them apart.  TensorFlow's own builder writes; what is added here is said of each
method.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from servable.export._tensorflow import tf

_logger = logging.getLogger(__name__)


class SavedModelBuilder(tf.saved_model.Builder):  # type: ignore[misc]  # untyped
    """
    Builds a SavedModel in *export_dir*, which is made, and must be empty.

    Not thread-safe.

    Raises:
        AssertionError: there is something in the directory.
    """

    def __init__(self, export_dir: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(export_dir)
        super().__init__(self._directory)

    def add_meta_graph_and_variables(
        self,
        sess: Any,
        tags: Iterable[str],
        signature_def_map: Mapping[str, Any] | None = None,
        assets_collection: Iterable[Any] | None = None,
        *args: Any,
        **options: Any,
    ) -> None:
        """
        Add the graph of *sess* as the first meta graph, and its variables.

        Args:
            sess: a session whose graph is the default graph.
            tags: what the meta graph is found by.
            signature_def_map: SignatureDefs by name.
            assets_collection: string constants that name files to go along.
            args: legacy_init_op, clear_devices, main_op, strip_default_attrs, saver.
            options: the same by name.

        Raises:
            AssertionError: there are variables already, or a signature is wrong.
            KeyError: a signature has a reserved name.
            TypeError: main_op is no operation, or an asset no string constant.
        """
        self._warn_of_assets(assets_collection)
        super().add_meta_graph_and_variables(
            sess, tags, signature_def_map, assets_collection, *args, **options
        )

    def add_meta_graph(
        self,
        tags: Iterable[str],
        signature_def_map: Mapping[str, Any] | None = None,
        assets_collection: Iterable[Any] | None = None,
        *args: Any,
        **options: Any,
    ) -> None:
        """
        Add the default graph as a further meta graph, on the variables of the first.

        Raises:
            AssertionError: there is no first one, or a signature is wrong.
            KeyError, TypeError: as add_meta_graph_and_variables.
        """
        self._warn_of_assets(assets_collection)
        super().add_meta_graph(
            tags, signature_def_map, assets_collection, *args, **options
        )

    def _warn_of_assets(self, assets: Iterable[Any] | None) -> None:
        """Warn of what TensorFlow would leave out without a word."""
        folder = os.path.join(self._directory, "assets")
        for asset in assets or ():
            is_tensor = tf.is_tensor(asset)
            constant: Any = tf.get_static_value(asset) if is_tensor else None
            source = constant.item() if hasattr(constant, "item") else constant
            if not isinstance(source, bytes):
                continue  # TensorFlow says what is wrong with it
            written = os.path.join(folder, os.path.basename(source.decode()))
            if not tf.gfile.Exists(source):
                _logger.warning("Asset %s does not exist", source.decode())
            elif tf.gfile.Exists(written) and not _same_file(source, written):
                _logger.warning(
                    "Asset %s is left out: an earlier meta graph has another file of "
                    "that name",
                    source.decode(),
                )


def _same_file(one: Any, other: Any) -> bool:
    with tf.gfile.GFile(one, "rb") as a, tf.gfile.GFile(other, "rb") as b:
        return bool(a.size() == b.size() and a.read() == b.read())
