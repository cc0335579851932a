"""
What messages with arrays cost, made and read as programs of each library do it.

    python benchmarks/messages.py [--megabytes 0.25,4] [--rounds 30]

A program of TensorFlow Serving makes a tensor of an array, copies it into a request and
serializes that; from a serialized response it makes an array.  Measured are the same
with `servable.apis`, `make_tensor_proto` and `make_ndarray`, and what `Client` does,
which makes no messages and, unless asked for `writable` arrays, copies none that it
gets.  Each figure comes from a process of its own, as what one step frees the next one
uses again.  It needs TensorFlow for Python and `tensorflow-serving-api`.  Times are
medians of CPU time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MEGABYTES = "0.0625,0.25,1,4,16,64"
MODEL = "m"


class Steps(NamedTuple):
    """What a library does with an array; the messages are serialized."""

    tensor: Callable[[Any], object] | None
    request: Callable[[Any], bytes]
    outputs: Callable[[bytes], Any]


def of_tensorflow() -> Steps:
    """Return what programs of TensorFlow Serving do."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # noqa: PLC0415 - only in its own processes
    from tensorflow_serving.apis import predict_pb2  # noqa: PLC0415

    return _with_messages(predict_pb2, tf.make_tensor_proto, tf.make_ndarray)


def of_servable() -> Steps:
    """Return the same with the messages and functions of this package."""
    from servable.apis import predict_pb2  # noqa: PLC0415 - only in its own processes
    from servable.client import make_ndarray, make_tensor_proto  # noqa: PLC0415

    return _with_messages(predict_pb2, make_tensor_proto, make_ndarray)


def of_client(*, writable: bool = False) -> Steps:
    """Return what `Client` does, unless asked for arrays that can be written to."""
    from servable.client import dtypes  # noqa: PLC0415 - only in its own processes
    from servable.client.operations import Predict, Tensor, model_ref  # noqa: PLC0415
    from servable.client.predict_wire import (  # noqa: PLC0415
        decode_response,
        encode_request,
    )

    def request(array: Any) -> bytes:
        tensor = Tensor(array, dtypes.parse("float32"))
        return encode_request(Predict(model_ref(MODEL), "", {"x": tensor}))

    return Steps(None, request, lambda data: decode_response(data, writable=writable))


def _with_messages(pb2: Any, to_tensor: Any, to_array: Any) -> Steps:
    def request(array: Any) -> bytes:
        message = pb2.PredictRequest()
        message.model_spec.name = MODEL
        message.inputs["x"].CopyFrom(to_tensor(array))
        return bytes(message.SerializeToString())

    def outputs(data: bytes) -> Any:
        return to_array(pb2.PredictResponse.FromString(data).outputs["y"])

    return Steps(to_tensor, request, outputs)


LIBRARIES: dict[str, Callable[[], Steps]] = {
    "tensorflow": of_tensorflow,
    "servable": of_servable,
    "writable": lambda: of_client(writable=True),
    "client": of_client,
}
STEPS = ("make_tensor_proto", "array to request", "response to array", "both")


def measure(library: str, step: str, megabytes: float, rounds: int) -> float | None:
    """Return the seconds of CPU that one step takes; None where there is no such."""
    steps = LIBRARIES[library]()
    array = np.random.default_rng(0).random(int(megabytes * 2**18), dtype=np.float32)
    if step == "make_tensor_proto":
        tensor = steps.tensor
        return median(lambda: tensor(array), rounds) if tensor else None
    if step == "array to request":
        return median(lambda: steps.request(array), rounds)
    response = _response(array)
    if step == "response to array":
        return median(lambda: steps.outputs(response), rounds)
    return median(lambda: (steps.request(array), steps.outputs(response)), rounds)


def _response(array: Any) -> bytes:
    """Return a response as TensorFlow Serving gives it."""
    from servable.apis import predict_pb2  # noqa: PLC0415 - only in the processes

    response = predict_pb2.PredictResponse()
    tensor = response.outputs["y"]
    tensor.dtype = 1  # type: ignore[assignment]
    tensor.tensor_shape.dim.add(size=array.size)
    tensor.tensor_content = array.tobytes()
    response.model_spec.name = MODEL
    return response.SerializeToString()


def median(action: Callable[[], Any], rounds: int) -> float:
    """Return the median CPU time of *action*, in seconds, once it is under way."""
    taken = []
    for _ in range(rounds + 3):
        began = time.process_time()
        action()
        taken.append(time.process_time() - began)
    return statistics.median(taken[3:])


def compare(step: str, megabytes: float, rounds: int) -> None:
    """Measure each library in its process, and print its time beside TensorFlow's."""
    times: dict[str, float] = {}
    for library in LIBRARIES:
        command = [sys.executable, __file__, f"--of={library}", f"--step={step}"]
        command += [f"--megabytes={megabytes}", f"--rounds={rounds}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{library}: {done.stderr}")
        times[library] = json.loads(done.stdout)
    theirs = times.pop("tensorflow")
    told = [
        f"{library} {seconds * 1e3:8.3f} ms, {theirs / seconds:5.1f}x"
        for library, seconds in times.items()
        if seconds
    ]
    print(
        f"{megabytes:7g} MiB  {step:18} TensorFlow {theirs * 1e3:8.3f} ms",
        *told,
        sep="   ",
        flush=True,
    )


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[1])
    parser.add_argument("--megabytes", default=MEGABYTES, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--step", choices=STEPS, help="one of them")
    parser.add_argument("--of", choices=LIBRARIES, help="one library: print seconds")
    arguments = parser.parse_args()
    for megabytes in map(float, arguments.megabytes.split(",")):
        for step in [arguments.step] if arguments.step else STEPS:
            if arguments.of:
                print(
                    json.dumps(measure(arguments.of, step, megabytes, arguments.rounds))
                )
            else:
                compare(step, megabytes, arguments.rounds)


if __name__ == "__main__":
    main()
