from typing import Any

import grpc
from servable.apis import session_service_pb2

class SessionServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    SessionRun: grpc.UnaryUnaryMultiCallable[session_service_pb2.SessionRunRequest, session_service_pb2.SessionRunResponse]

class SessionServiceServicer:
    def SessionRun(self, request: session_service_pb2.SessionRunRequest, context: grpc.ServicerContext) -> session_service_pb2.SessionRunResponse: ...

def add_SessionServiceServicer_to_server(servicer: SessionServiceServicer, server: Any) -> None: ...
