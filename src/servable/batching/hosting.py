"""
A batcher as the engine calls it: tensors become arrays and arrays tensors, and whatever
a batcher does wrong becomes an error that says so.

The engine calls this on the threads that run batches, with the interpreter's lock held.
Models that name no batcher never come here.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from servable import plugins
from servable.batching.batcher import Arrays, Batch, Batcher, Request
from servable.client import dtypes
from servable.client.dtypes import STRING
from servable.errors import FailedPrecondition, Internal, ServingError

_logger = logging.getLogger(__name__)

# What crosses to the engine and back: (DataType number, shape, data).
Tensor: TypeAlias = tuple[int, tuple[int, ...], Any]


def load_batcher(name: str) -> "HostedBatcher":
    """
    Make the installed batcher called *name*.

    Raises:
        InvalidArgument: None of that name is installed.
        FailedPrecondition: It cannot be imported or made, or is no Batcher.
    """
    factory = plugins.load(plugins.BATCHERS, name)
    try:
        batcher = cast("Callable[[], Batcher]", factory)()
    except Exception as error:
        raise FailedPrecondition(
            f"The batcher {name} cannot be made: {type(error).__name__}: {error}"
        ) from error
    for method in ("group", "pad", "split"):
        if not callable(getattr(batcher, method, None)):
            raise FailedPrecondition(f"The batcher {name} has no method {method}")
    return HostedBatcher(name, batcher)


class HostedBatcher:
    """See _engine.Batcher.  As thread-safe as *batcher*, which is called *name*."""

    def __init__(self, name: str, batcher: Batcher) -> None:
        self.name = name
        self.batcher = batcher
        self._told: set[str] = set()

    def group(
        self, signature_name: str, requests: Sequence[tuple[int, Mapping[str, Tensor]]]
    ) -> list[tuple[list[int], "HostedGroup"]]:
        """
        Return groups: the places of their requests, and what goes on with them.

        Raises:
            ServingError: What the batcher fails with; Internal when it has not put each
                request into one group.
        """
        made = [
            Request(signature_name, rows, _to_arrays(inputs))
            for rows, inputs in requests
        ]
        places = {id(request): place for place, request in enumerate(made)}
        with self.failing("group"):
            groups = [list(group) for group in self.batcher.group(made)]
            placed = [[places[id(one)] for one in group] for group in groups if group]
        if sorted(place for group in placed for place in group) != list(
            range(len(made))
        ):
            what = f"The batcher {self.name} has not put each request into one group"
            if self._is_new(what):
                _logger.error("%s", what)
            raise Internal(what)
        return [
            (group, HostedGroup(self, [made[place] for place in group]))
            for group in placed
        ]

    @contextlib.contextmanager
    def failing(self, method: str) -> Iterator[None]:
        """Have exceptions of a method of the batcher become errors of requests."""
        try:
            yield
        except ServingError:
            raise
        except Exception as error:
            what = f"The batcher {self.name} failed to {method}: {type(error).__name__}"
            if self._is_new(what):
                _logger.exception("%s", what)
            raise Internal(f"{what}: {error}") from error

    def _is_new(self, what: str) -> bool:
        """Whether *what* was not told yet; requests may come by thousands."""
        if what in self._told:
            return False
        self._told.add(what)
        return True

    def __repr__(self) -> str:
        return f"<HostedBatcher {self.name}>"


class HostedGroup:
    """Requests that run together; see _engine.BatchGroup."""

    def __init__(self, hosted: HostedBatcher, requests: Sequence[Request]) -> None:
        self._hosted = hosted
        self._requests = requests
        self._batch = Batch(requests, 0)

    def pad(self, size: int) -> list[tuple[str, Tensor]]:
        """
        Return what is fed, by alias.

        Raises:
            ServingError: What the batcher fails with.
        """
        self._batch = Batch(self._requests, size)
        with self._hosted.failing("pad"):
            return _to_tensors(self._hosted.batcher.pad(self._batch))

    def split(self, outputs: Mapping[str, Tensor]) -> list[list[tuple[str, Tensor]]]:
        """
        Return the outputs of each request, by alias.

        Raises:
            ServingError: What the batcher fails with.
        """
        with self._hosted.failing("split"):
            parts = self._hosted.batcher.split(self._batch, _to_arrays(outputs))
            return [_to_tensors(part) for part in parts]


def _to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    return {alias: _to_array(tensor) for alias, tensor in tensors.items()}


def _to_array(tensor: Tensor) -> npt.NDArray[Any]:
    number, shape, data = tensor
    dtype = dtypes.from_number(number)
    if dtype is STRING:
        array = np.empty(len(data), object)
        array[:] = data
        array.flags.writeable = False
    else:
        array = np.frombuffer(data, dtypes.to_numpy(dtype))
    return array.reshape(shape)


def _to_tensors(arrays: Arrays) -> list[tuple[str, Tensor]]:
    return [(alias, _to_tensor(np.asarray(array))) for alias, array in arrays.items()]


def _to_tensor(array: npt.NDArray[Any]) -> Tensor:
    dtype = dtypes.from_numpy(array.dtype)
    if dtype is STRING:
        texts = [
            text.encode() if isinstance(text, str) else bytes(text)
            for text in array.reshape(-1).tolist()
        ]
        return dtype.number, array.shape, texts
    flat = np.ascontiguousarray(array, dtypes.to_numpy(dtype)).reshape(-1)
    return dtype.number, array.shape, flat.view(np.uint8)
