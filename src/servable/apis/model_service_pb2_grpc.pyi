from typing import Any

import grpc
from servable.apis import get_model_status_pb2
from servable.apis import model_management_pb2

class ModelServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    GetModelStatus: grpc.UnaryUnaryMultiCallable[get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse]
    HandleReloadConfigRequest: grpc.UnaryUnaryMultiCallable[model_management_pb2.ReloadConfigRequest, model_management_pb2.ReloadConfigResponse]

class ModelServiceServicer:
    def GetModelStatus(self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext) -> get_model_status_pb2.GetModelStatusResponse: ...
    def HandleReloadConfigRequest(self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext) -> model_management_pb2.ReloadConfigResponse: ...

def add_ModelServiceServicer_to_server(servicer: ModelServiceServicer, server: Any) -> None: ...
