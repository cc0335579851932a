"""Names of the signature helpers and constants, where scripts of version 1 look."""

from servable.export._tensorflow import tf

signature_constants = tf.saved_model.signature_constants
signature_def_utils = tf.saved_model.signature_def_utils
tag_constants = tf.saved_model.tag_constants

__all__ = ["signature_constants", "signature_def_utils", "tag_constants"]
