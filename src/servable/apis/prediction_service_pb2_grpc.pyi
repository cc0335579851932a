from typing import Any

import grpc
from servable.apis import classification_pb2
from servable.apis import get_model_metadata_pb2
from servable.apis import inference_pb2
from servable.apis import predict_pb2
from servable.apis import regression_pb2

class PredictionServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    Classify: grpc.UnaryUnaryMultiCallable[classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse]
    Regress: grpc.UnaryUnaryMultiCallable[regression_pb2.RegressionRequest, regression_pb2.RegressionResponse]
    Predict: grpc.UnaryUnaryMultiCallable[predict_pb2.PredictRequest, predict_pb2.PredictResponse]
    MultiInference: grpc.UnaryUnaryMultiCallable[inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse]
    GetModelMetadata: grpc.UnaryUnaryMultiCallable[get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataResponse]

class PredictionServiceServicer:
    def Classify(self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext) -> classification_pb2.ClassificationResponse: ...
    def Regress(self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext) -> regression_pb2.RegressionResponse: ...
    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> predict_pb2.PredictResponse: ...
    def MultiInference(self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext) -> inference_pb2.MultiInferenceResponse: ...
    def GetModelMetadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext) -> get_model_metadata_pb2.GetModelMetadataResponse: ...

def add_PredictionServiceServicer_to_server(servicer: PredictionServiceServicer, server: Any) -> None: ...
