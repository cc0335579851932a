"""What its users write with the package tensorflow-serving-api; prints what it got."""

import json
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

channel = grpc.insecure_channel(sys.argv[1])
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
models = model_service_pb2_grpc.ModelServiceStub(channel)
answers: dict[str, object] = {}

predict = predict_pb2.PredictRequest()
predict.model_spec.name = "m"
predict.model_spec.signature_name = "serving_default"
predict.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0], dtype=tf.float32))
response = stub.Predict(predict, 10.0)
answers["predict"] = tf.make_ndarray(response.outputs["y"]).tolist()
answers["version"] = response.model_spec.version.value

predict.model_spec.signature_name = "echo_STRING"
predict.inputs["x"].CopyFrom(tf.make_tensor_proto([b"a", b"\xff"]))
response = stub.Predict(predict, 10.0)
answers["strings"] = [repr(value) for value in tf.make_ndarray(response.outputs["y"])]

example = tf.train.Example()
example.features.feature["x"].float_list.value.append(4.0)

classify = classification_pb2.ClassificationRequest()
classify.model_spec.name = "m"
classify.model_spec.signature_name = "classify"
classify.input.example_list.examples.append(example)
(row,) = stub.Classify(classify, 10.0).result.classifications
answers["classify"] = [row.classes[0].score]

regress = regression_pb2.RegressionRequest()
regress.model_spec.name = "m"
regress.model_spec.signature_name = "regress"
regress.input.example_list.examples.append(example)
answers["regress"] = [r.value for r in stub.Regress(regress, 10.0).result.regressions]

multi = inference_pb2.MultiInferenceRequest()
multi.input.example_list.examples.append(example)
for method in ("regress", "classify"):
    task = multi.tasks.add(method_name=f"tensorflow/serving/{method}")
    task.model_spec.name = "m"
    task.model_spec.signature_name = method
answers["multi"] = [
    result.WhichOneof("result") for result in stub.MultiInference(multi, 10.0).results
]

metadata = get_model_metadata_pb2.GetModelMetadataRequest()
metadata.model_spec.name = "m"
metadata.metadata_field.append("signature_def")
packed = stub.GetModelMetadata(metadata, 10.0).metadata["signature_def"]
signatures = get_model_metadata_pb2.SignatureDefMap()
answers["has_metadata"] = packed.Unpack(signatures)
answers["input"] = signatures.signature_def["serving_default"].inputs["x"].name

status = get_model_status_pb2.GetModelStatusRequest()
status.model_spec.name = "m"
(version,) = models.GetModelStatus(status, 10.0).model_version_status
answers["state"] = get_model_status_pb2.ModelVersionStatus.State.Name(version.state)

predict.model_spec.name = "nope"
try:
    stub.Predict(predict, 10.0)
except grpc.RpcError as error:
    answers["error"] = [error.code().name, error.details()]

json.dump(answers, sys.stdout)
