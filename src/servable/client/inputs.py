"""
What people give, made into what a signature takes.

A cast is made where every value survives it, and nowhere else; Python's own floats
have no width and take that of the signature.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.client import dtypes
from servable.client.dtypes import STRING, DType, TensorError
from servable.client.operations import Tensor
from servable.client.signatures import Signature, TensorSpec, specs_text
from servable.client.tensors import (
    is_array_like,
    make_ndarray,
    python_array,
    to_array,
)
from servable.errors import InvalidArgument

_WIDE: Final = 8  # bytes of integers that NumPy calls safe as floats, and are not


def prepare(inputs: Any, signature: Signature | None) -> dict[str, Tensor]:
    """
    Return the tensors for *inputs*: one value, a mapping, or a data frame.

    With a signature its names are checked and its types are made; without one the
    values are sent as they are.  Dicts of features for a string input become
    serialized examples.

    Raises:
        InvalidArgument: a name the signature does not have, or one that is missing.
        TensorError: values that are no tensor, or that a cast would change.
    """
    named = _by_name(inputs, signature)
    if signature is not None:
        _check_names(named, signature)
    tensors = {}
    for name, value in named.items():
        spec = signature.inputs[name] if signature is not None else None
        try:
            tensors[name] = _tensor(_with_examples(value, spec), spec)
        except TensorError as exc:
            wanted = f"; the signature takes {specs_text({name: spec})}" if spec else ""
            raise TensorError(f"input {name!r}: {exc.message}{wanted}") from None
    return tensors


def _by_name(inputs: Any, signature: Signature | None) -> Mapping[str, Any]:
    if type(inputs) is dict or isinstance(inputs, Mapping):
        return inputs
    if is_data_frame(inputs):
        return _columns(inputs, signature)
    if signature is None:
        raise InvalidArgument(
            "the server does not say what the signature takes, so inputs must be a "
            f"dict of names to values, not {type(inputs).__name__}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument(
            f"a plain {type(inputs).__name__} was given, but the signature takes "
            f"{_takes(signature)}; give a dict of names to values"
        )
    return {next(iter(signature.inputs)): inputs}


def is_data_frame(value: Any) -> bool:
    """Return whether *value* is a table with named columns, of whatever library."""
    return hasattr(value, "columns") and hasattr(value, "__getitem__")


def columns_of(frame: Any) -> Mapping[str, npt.NDArray[Any]]:
    """Return the columns of a table by name, as arrays."""
    names = getattr(frame, "column_names", frame.columns)  # pyarrow's, others'
    return {str(name): _column(frame[name]) for name in names}


def _columns(frame: Any, signature: Signature | None) -> Mapping[str, Any]:
    columns = columns_of(frame)
    if signature is None:
        return columns
    if len(signature.inputs) == 1:
        ((name, spec),) = signature.inputs.items()
        is_matrix = spec.shape is None or len(spec.shape) == 2  # noqa: PLR2004
        if name not in columns and is_matrix:
            return {name: np.column_stack(list(columns.values()))}
    return {
        name: _as_declared(column, signature.inputs.get(name))
        for name, column in columns.items()
    }


def _column(column: Any) -> npt.NDArray[Any]:
    to_numpy = getattr(column, "to_numpy", None)
    return np.asarray(column if to_numpy is None else to_numpy())


def _as_declared(column: npt.NDArray[Any], spec: TensorSpec | None) -> npt.NDArray[Any]:
    """Return a column as [rows, 1] where the signature wants a matrix."""
    wants_matrix = (
        spec is not None
        and spec.shape is not None
        and spec.shape[1:] in {(1,), (None,)}
    )
    return column.reshape(-1, 1) if wants_matrix and column.ndim == 1 else column


def _check_names(named: Mapping[str, Any], signature: Signature) -> None:
    if named.keys() == signature.inputs.keys():
        return
    unknown = sorted(map(str, named.keys() - signature.inputs.keys()))
    missing = sorted(signature.inputs.keys() - named.keys() - signature.defaults)
    if unknown or missing:
        wrong = [f"no input {', '.join(map(repr, unknown))}"] if unknown else []
        wrong += [f"missing {', '.join(map(repr, missing))}"] if missing else []
        raise InvalidArgument(
            f"{' and '.join(wrong)}: signature {signature.name!r} takes "
            f"{_takes(signature)}, and {_given(named)} was given"
        )


def _takes(signature: Signature) -> str:
    return specs_text(signature.inputs) or "nothing"


def _given(named: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, named))) or "nothing"


def _with_examples(value: Any, spec: TensorSpec | None) -> Any:
    """Return *value*, serialized where it is rows of features for a string input."""
    if spec is None or spec.dtype is not STRING or not isinstance(value, list | tuple):
        return value
    if not value or not all(isinstance(row, Mapping) for row in value):
        return value
    # These are made of columns, too, which are told of here.
    from servable.client.examples import make_examples  # noqa: PLC0415

    return [example.SerializeToString() for example in make_examples(value)]


def _tensor(value: Any, spec: TensorSpec | None) -> Tensor:
    if isinstance(value, np.ndarray) and spec is not None:  # the usual case, quickly
        given = dtypes.from_numpy(value.dtype)
        if given is spec.dtype and given is not STRING:
            return Tensor(value, given)
    if _is_tensor_proto(value):  # whoever builds one knows better than a signature
        return Tensor(make_ndarray(value), dtypes.from_number(value.dtype))
    if spec is None or spec.dtype is None:
        return Tensor(*to_array(value))
    wanted = spec.dtype
    if is_array_like(value):
        array = np.asarray(value)
        given = dtypes.from_numpy(array.dtype)
        if array.dtype.kind == "O":
            array, given = to_array(value)
    else:
        array = python_array(value, wanted)
        given = dtypes.from_numpy(array.dtype)
    if wanted is STRING or given is STRING:
        if wanted is given:
            return Tensor(to_array(array)[0], wanted)
        if array.size or is_array_like(value):
            raise TensorError(f"{_kind_of(given)} were given, and {wanted} is wanted")
        return Tensor(array.astype(object), wanted)
    exact = is_array_like(value) or array.dtype.kind not in "fc"
    return Tensor(_cast(array, wanted, given, exact=exact), wanted)


def _is_tensor_proto(value: Any) -> bool:
    descriptor = getattr(value, "DESCRIPTOR", None)
    return getattr(descriptor, "full_name", "") == "tensorflow.TensorProto"


def _kind_of(given: DType) -> str:
    return "text or bytes" if given is STRING else f"{given} values"


def _cast(
    array: npt.NDArray[Any], wanted: DType, given: DType, *, exact: bool
) -> npt.NDArray[Any]:
    """Return *array* in the type of *wanted*, if that changes no value."""
    target = dtypes.to_numpy(wanted)
    if target.names:  # quantized numbers are sent as the plain integers they are
        target = np.dtype(wanted.numpy_name)
    source = array.dtype
    if source == target or (source.itemsize < _WIDE and np.can_cast(source, target)):
        return array.astype(target, copy=False)
    with np.errstate(all="ignore"):
        if source.kind in "iu" and target.kind in "iu":
            limits = np.iinfo(target)
            kept = (array >= limits.min) & (array <= limits.max)
            cast = array.astype(target)
        elif source.kind == "c" and target.kind != "c":
            raise TensorError(f"{given} values cannot become {wanted}")
        else:
            cast = array.astype(target)
            is_narrowed = target.kind == "c" and source.kind != "c"
            back = (cast.real if is_narrowed else cast).astype(source)
            kept = (back == array) | ((back != back) & (array != array))  # noqa: PLR0124
            if source.kind in "iu":  # what lies beyond may come back as the limit
                kept &= cast < 2.0 ** (8 * source.itemsize - (source.kind == "i"))
            if not exact:  # rounding is fine, overflow is not
                kept |= np.isfinite(back) if _is_float(wanted) else False
    if not np.all(kept):
        first = array[~kept].reshape(-1)[0]
        raise TensorError(
            f"{given} values cannot become {wanted} without loss "
            f"({first} would be {cast[~kept].reshape(-1)[0]}); "
            f"give {wanted} values, or cast them yourself"
        )
    return cast


def _is_float(wanted: DType) -> bool:
    return "float" in wanted.name or "complex" in wanted.name
