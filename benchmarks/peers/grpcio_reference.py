"""
What a server written in Python can do: grpcio, TensorFlow, and nothing between them.

It answers PredictionService/Predict of one model with one float input ``x`` and one
output ``y``, and takes every short cut that a general server cannot: no versions, no
validation, no other types, the signature called directly.  So it is faster than any
real server in Python could be.

    python grpcio_reference.py {sync,asyncio} HOST:PORT SAVED_MODEL_DIRECTORY
"""

import asyncio
import os
import sys
from concurrent import futures
from typing import TypeAlias

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import numpy as np
import tensorflow as tf

from servable.apis import predict_pb2, types_pb2

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

SERVICE = "tensorflow.serving.PredictionService"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]


class Predictor:
    """The whole server but its transport: request bytes in, answer bytes out."""

    def __init__(self, directory: str) -> None:
        self._model = tf.saved_model.load(directory)  # a signature does not keep it
        self._signature = self._model.signatures["serving_default"]

    def predict(self, body: bytes, _: object) -> bytes:
        """Answer one serialized PredictRequest."""
        request = predict_pb2.PredictRequest.FromString(body)
        tensor = request.inputs["x"]
        if tensor.tensor_content:
            shape = [dim.size for dim in tensor.tensor_shape.dim]
            x = np.frombuffer(tensor.tensor_content, np.float32).reshape(shape)
        else:
            x = np.array(tensor.float_val, np.float32)
        y = self._signature(x=tf.constant(x))["y"].numpy()
        answer = predict_pb2.PredictResponse()
        answer.model_spec.CopyFrom(request.model_spec)
        output = answer.outputs["y"]
        output.dtype = types_pb2.DT_FLOAT
        for size in y.shape:
            output.tensor_shape.dim.add(size=size)
        output.float_val.extend(y.ravel())
        return answer.SerializeToString()


def serve_sync(address: str, predictor: Predictor) -> None:
    """Serve on a pool of threads until the process is killed."""
    # More threads than cores only wait for the same lock; two keep the transport busy.
    server = grpc.server(futures.ThreadPoolExecutor(2), options=OPTIONS)
    handler: Handler = grpc.unary_unary_rpc_method_handler(predictor.predict)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Predict": handler}),)
    )
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


async def serve_asyncio(address: str, predictor: Predictor) -> None:
    """Serve on one event loop, the model called in it, until the process is killed."""

    async def predict(body: bytes, context: object) -> bytes:
        return predictor.predict(body, context)

    server = grpc.aio.server(options=OPTIONS)
    handler: Handler = grpc.unary_unary_rpc_method_handler(predict)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Predict": handler}),)
    )
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Run as the arguments say."""
    mode, address, directory = sys.argv[1:]
    predictor = Predictor(directory)
    if mode == "asyncio":
        asyncio.run(serve_asyncio(address, predictor))
    else:
        serve_sync(address, predictor)


if __name__ == "__main__":
    main()
