"""How long a request may be written."""

import asyncio
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from servable.client import dtypes, http_transport, rest_codec
from servable.client.http_transport import AsyncHttpTransport, HttpTransport
from servable.client.operations import ModelRef, Predict, Tensor
from servable.client.targets import ConnectionOptions, parse_target
from servable.errors import DeadlineExceeded

VALUES = np.zeros(1 << 21, np.int64)
OPERATION = Predict(ModelRef("m"), "", {"x": Tensor(VALUES, dtypes.parse("int64"))})
NOBODY = parse_target("http://localhost:1"), ConnectionOptions()


def blocking() -> None:
    HttpTransport(*NOBODY).send(OPERATION, 3)


def with_coroutines() -> None:
    asyncio.run(AsyncHttpTransport(*NOBODY).send(OPERATION, 0))


@pytest.mark.parametrize("send", [blocking, with_coroutines])
def test_a_request_is_written_no_longer_than_its_deadline(
    send: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(http_transport, "time", clock)
    written = []

    def block(array: Any, dtype: Any, write: Any = rest_codec._block) -> Any:
        written.append(array.size)
        return write(array, dtype)

    monkeypatch.setattr(rest_codec, "_block", block)

    with pytest.raises(DeadlineExceeded):
        send()

    assert sum(written) < VALUES.size / 2
