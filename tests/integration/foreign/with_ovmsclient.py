"""What its users write with the package ovmsclient; prints what it got."""

import json
import sys

import numpy as np
import ovmsclient

# Without a version this client asks for version 0, which is one like any other here
# and in TensorFlow Serving.
VERSION = 1
answers = {}
for name, make, address in (
    ("grpc", ovmsclient.make_grpc_client, sys.argv[1]),
    ("rest", ovmsclient.make_http_client, sys.argv[2]),
):
    client = make(address)
    x = np.array([1.0, 2.0], np.float32)
    predicted = client.predict({"x": x}, "m", VERSION)
    status = client.get_model_status("m", VERSION)
    metadata = client.get_model_metadata("m", VERSION)
    if name == "rest":  # which it hands on as it is
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        metadata = signatures["serving_default"]
    try:
        client.predict({"x": x}, "nope", VERSION)
    except ovmsclient.ModelNotFoundError as error:
        refused = str(error)
    answers[name] = {
        "predict": predicted.tolist(),
        "dtype": predicted.dtype.name,
        "state": status[1]["state"],
        "inputs": {key: value["dtype"] for key, value in metadata["inputs"].items()},
        "refused": refused,
    }

json.dump(answers, sys.stdout)
