"""Requests that keep flowing, over both protocols, and what became of them."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass

import httpx
import numpy as np
import numpy.typing as npt

from servable.client import Client
from servable.errors import ServingError


@dataclass(frozen=True)
class Answer:
    """One request: when it was answered, over what, with which scores."""

    at: float
    protocol: str
    scores: npt.NDArray[np.float32] | None  # None: it failed
    error: str = ""


class Traffic:
    """
    A thread that asks for one image after the other, gRPC and REST in turn.

    Args:
        grpc: the address of the gRPC API.
        rest: the URL of the REST API.
        model: the name of the model.
        image: what to ask about.
    """

    def __init__(
        self, grpc: str, rest: str, model: str, image: npt.NDArray[np.float32]
    ) -> None:
        self._client = Client(grpc, attempts=1)  # a failure counts as one
        self._http = httpx.Client(base_url=rest, timeout=10)
        self._model = model
        self._image = image
        self._stopped = threading.Event()
        self._answers: list[Answer] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> list[Answer]:
        """Stop the thread and return every answer, in the order of time."""
        self._stopped.set()
        self._thread.join()
        self._client.close()
        self._http.close()
        return self._answers

    def answers(self) -> list[Answer]:
        """Return the answers so far."""
        return list(self._answers)

    def _run(self) -> None:
        for protocol in itertools.cycle(["gRPC", "REST"]):
            if self._stopped.is_set():
                return
            try:
                scores = self._grpc() if protocol == "gRPC" else self._rest()
                answer = Answer(time.monotonic(), protocol, scores)
            except (ServingError, httpx.HTTPError) as exc:
                answer = Answer(time.monotonic(), protocol, None, str(exc))
            self._answers.append(answer)

    def _grpc(self) -> npt.NDArray[np.float32]:
        outputs = self._client.predict(self._model, self._image[np.newaxis])
        scores: npt.NDArray[np.float32] = next(iter(outputs.values()))[0]
        return scores

    def _rest(self) -> npt.NDArray[np.float32]:
        scores = ask_rest(self._http, self._model, self._image[np.newaxis])
        return scores.reshape(-1)


def ask_rest(
    http: httpx.Client, model: str, images: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Classify *images* as curl would: one POST with the images in rows."""
    reply = http.post(
        f"/v1/models/{model}:predict", json={"instances": images.tolist()}
    )
    reply.raise_for_status()
    return np.array(reply.json()["predictions"], np.float32)


def count(
    answers: list[Answer], scores: dict[int, npt.NDArray[np.float32]]
) -> Counter[tuple[str, int | None]]:
    """
    Return how often each version answered over each protocol; None: nobody did.

    REST does not say which version answered, so it is told by what it answered:
    *scores* are those that each version gives for the image.
    """
    return Counter((a.protocol, version_of(a, scores)) for a in answers)


def version_of(
    answer: Answer, scores: dict[int, npt.NDArray[np.float32]]
) -> int | None:
    """Return the version whose scores the answer has, None for a failure."""
    given = answer.scores
    if given is None:
        return None
    return min(scores, key=lambda version: float(abs(scores[version] - given).max()))
