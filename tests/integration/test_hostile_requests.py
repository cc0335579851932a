"""
Requests that are wrong, oversized, cut off or made to hurt, against a real server.

Each gets the error that is specified for it, at little cost in time and memory, and
the next request over the same protocol is answered.
"""

import contextlib
import http.client
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest

from servable.apis import predict_pb2, tensor_pb2
from servable.client import make_tensor_proto

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("servable._engine") is None,
        reason="the engine is not built",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
    ),
]

MODEL: Final = "half_plus_two"
PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
REGRESS: Final = "/tensorflow.serving.PredictionService/Regress"
METADATA: Final = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
TARGET: Final = f"/v1/models/{MODEL}:predict"
LIMIT_MIB: Final = 16
LONGEST_TEXT: Final = 1024 + len("...TRUNCATED")

# Of processor time, which a busy machine does not stretch; it is counted in ticks of
# ten milliseconds, and the server looks at its files meanwhile.
CHEAP_S: Final = 0.1
GROWTH_MIB: Final = 64


@dataclass(frozen=True)
class Grpc:
    """One call, in bytes, and how it ends."""

    method: str
    message: bytes
    code: grpc.StatusCode
    text: str = ""
    cpu_s: float = CHEAP_S
    growth_mib: float = GROWTH_MIB


@dataclass(frozen=True)
class Rest:
    """One request, and how it is answered."""

    method: str
    target: str
    body: bytes
    status: int
    text: str = ""
    cpu_s: float = CHEAP_S
    growth_mib: float = GROWTH_MIB


INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def length_delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def shaped(dtype: int, *sizes: int, content: bytes = b"") -> bytes:
    """Return a TensorProto; sizes are written as they are, even negative ones."""
    dims = b"".join(
        length_delimited(2, b"\x08" + varint(size % 2**64)) for size in sizes
    )
    return b"\x08" + varint(dtype) + length_delimited(2, dims) + content


def predict(
    tensor: bytes, signature: str = "", *, alias: str = "x", model: str = MODEL
) -> bytes:
    """Return a PredictRequest with the bytes of one TensorProto in it."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    entry = length_delimited(1, alias.encode()) + length_delimited(2, tensor)
    return request.SerializeToString() + length_delimited(2, entry)


def to(**spec: Any) -> bytes:
    """Return a good request to another model spec."""
    request = predict_pb2.PredictRequest()
    for name, value in {"name": MODEL, **spec}.items():
        if name == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, name, value)
    request.inputs["x"].CopyFrom(make_tensor_proto([1.0], "float32"))
    return request.SerializeToString()


def refused(tensor: str | bytes, signature: str, text: str = "") -> Grpc:
    tensor = bytes.fromhex(tensor) if isinstance(tensor, str) else tensor
    text = text or "tensor parsing error: x"
    return Grpc(PREDICT, predict(tensor, signature), INVALID, text)


GOOD: Final = make_tensor_proto([1.0, 2.0], "float32").SerializeToString()
FLOAT, STRING, INT8, BOOL = 1, 7, 6, 10
EMPTY_STRINGS: Final = 7 << 20  # of two bytes each, and 24 as a tensor
GOOD_REQUEST: Final = predict(GOOD)

TENSORS = {
    "T1 one float for a gibibyte": Grpc(
        PREDICT,
        predict(bytes.fromhex("0801120812060880808080012a040000803f")),
        EXHAUSTED,
    ),
    "T2 one string for 2^27": Grpc(
        PREDICT,
        predict(bytes.fromhex("0807120712050880808040420161"), "echo_STRING"),
        EXHAUSTED,
    ),
    "T3 no values at all": Grpc(
        PREDICT, predict(bytes.fromhex("080112081206088080808001")), EXHAUSTED
    ),
    "T4 one float for 64 gibibytes": Grpc(
        PREDICT,
        predict(shaped(FLOAT, 2**34, content=b"\x2a\x04\0\0\x80\x3f")),
        EXHAUSTED,
    ),
    "T5 2^32 x 2^32": refused(shaped(FLOAT, 2**32, 2**32), ""),
    "T5 2^31 x 2^31 x 4": refused(shaped(FLOAT, 2**31, 2**31, 4), ""),
    "T5 overflow, then zero": refused(shaped(FLOAT, 2**62, 2**62, 0), ""),
    "T5 2^63 - 1": refused(shaped(FLOAT, 2**63 - 1), ""),
    "T6 a negative size": refused(shaped(FLOAT, -1), ""),
    "T6 two whose product is positive": refused(shaped(FLOAT, -2, -3), ""),
    "T8 content too short": refused(shaped(FLOAT, 2, content=b"\x22\x03abc"), ""),
    "T8 content too long": refused(shaped(FLOAT, 1, content=b"\x22\x08abcdabcd"), ""),
    "T11 bytes that are no booleans": refused(
        shaped(BOOL, 2, content=b"\x22\x02\x02\xff"), "echo_BOOL"
    ),
    "T12 no dtype": refused(shaped(0, 1), ""),
    "T12 a reference": refused(shaped(101, 1), ""),
    "T12 an unknown dtype": refused(shaped(999, 1), ""),
    "T13 a forged resource": refused("0814120412020801", "echo_RESOURCE", "*"),
    "T13 a variant": refused("0815120412020801", "", "*"),
    "T15 millions of empty strings": Grpc(
        PREDICT,
        predict(
            shaped(STRING, EMPTY_STRINGS, content=b"\x42\0" * EMPTY_STRINGS),
            "echo_STRING",
        ),
        EXHAUSTED,
        f"A tensor of shape [{EMPTY_STRINGS}] takes {24 * EMPTY_STRINGS} bytes; ",
        cpu_s=2.0,  # each of the values is looked at, by a build that may be a slow one
    ),
    "T14 rank 255": refused(shaped(FLOAT, *[1] * 255), ""),
    "T14 rank 300": refused(shaped(FLOAT, *[1] * 300), ""),
}


def many_inputs() -> bytes:
    """Return a million inputs of one byte each."""
    entries = bytearray()
    for index in range(1_000_000):
        name = b"%x" % index
        entries += b"\x12" + bytes([len(name) + 2]) + b"\x0a" + bytes([len(name)])
        entries += name
    return length_delimited(1, length_delimited(1, MODEL.encode())) + bytes(entries)


def many_outputs() -> bytes:
    return GOOD_REQUEST + length_delimited(3, b"y") * 100_000


GRPC: dict[str, Grpc] = {
    "no model spec": Grpc(PREDICT, b"", INVALID, "Missing ModelSpec"),
    "no name": Grpc(PREDICT, to(name=""), INVALID, "ModelSpec has no name specified."),
    "an unknown model": Grpc(
        PREDICT,
        to(name="nope"),
        NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    ),
    "a name of a megabyte": Grpc(
        PREDICT,
        to(name="n" * 2**20),
        NOT_FOUND,
        "Servable not found for request: Latest(nnn",
    ),
    "a name that is a path": Grpc(
        PREDICT,
        to(name="../../etc/passwd\0"),
        NOT_FOUND,
        "Servable not found for request: Latest(../../etc/passwd",
    ),
    "an unknown version": Grpc(
        PREDICT,
        to(version=8),
        NOT_FOUND,
        f"Servable not found for request: Specific({MODEL}, 8)",
    ),
    "a negative version": Grpc(
        PREDICT,
        to(version=-(2**63)),
        NOT_FOUND,
        f"Servable not found for request: Specific({MODEL}, -9223372036854775808)",
    ),
    "an unknown label": Grpc(
        PREDICT,
        to(version_label="canary"),
        INVALID,
        "Unrecognized servable version label: canary",
    ),
    "an unknown signature": Grpc(
        PREDICT,
        to(signature_name="nope"),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    ),
    "an unknown input": Grpc(
        PREDICT,
        predict(GOOD, alias="z"),
        INVALID,
        "Signature input alias: x(feed name: x:0) not found in request",
    ),
    "an input too many": Grpc(
        PREDICT,
        GOOD_REQUEST + length_delimited(2, b"\x0a\x01z\x12\x00"),
        INVALID,
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: "
        "{z}. Missing but required: {}.",
    ),
    "an unknown output": Grpc(
        PREDICT,
        GOOD_REQUEST + length_delimited(3, b"q"),
        INVALID,
        "output tensor alias not found in signature: q Outputs expected to be in the "
        "set {y}.",
    ),
    "another dtype": refused(
        make_tensor_proto(["a"]).SerializeToString(),
        "",
        "Expects arg[0] to be float but string is provided",
    ),
    "T17 a million inputs": Grpc(
        PREDICT,
        many_inputs(),
        INVALID,
        "input size does not match signature: 1000000!=1 ",
        cpu_s=3.0,
        growth_mib=256,  # all names are kept, for the text: 16 times the message
    ),
    "T17 an output a hundred thousand times": Grpc(
        PREDICT, many_outputs(), INVALID, "duplicate output tensor alias: y"
    ),
    "E2 millions of empty examples": Grpc(
        REGRESS,
        length_delimited(
            1, length_delimited(1, MODEL.encode()) + length_delimited(3, b"regress")
        )
        + length_delimited(2, length_delimited(1, b"\x0a\0" * (7 << 20))),
        EXHAUSTED,
        f"The request has {7 << 20} examples or more; --max_examples allows 65536",
        cpu_s=2.0,  # each is looked at, by a build that may be a slow one
        growth_mib=48,  # of which the message is 14 MiB, twice while it comes
    ),
    "a message cut off": Grpc(PREDICT, GOOD_REQUEST[:-1], grpc.StatusCode.INTERNAL),
    "a length beyond the end": Grpc(
        PREDICT, b"\x0a\xff\xff\xff\xff\x07", grpc.StatusCode.INTERNAL
    ),
    "no protobuf": Grpc(PREDICT, b"\xff" * 100, grpc.StatusCode.INTERNAL),
    "a name that is no UTF-8": Grpc(
        PREDICT,
        length_delimited(1, length_delimited(1, b"\xff\xfe")),
        grpc.StatusCode.INTERNAL,
    ),
    "a message larger than the limit": Grpc(
        PREDICT,
        predict(shaped(FLOAT, 2**22 * 5, content=b"")) + bytes(2**20 * 17),
        EXHAUSTED,
    ),
    "an unknown method": Grpc(
        "/tensorflow.serving.PredictionService/Nope",
        b"",
        grpc.StatusCode.UNIMPLEMENTED,
    ),
    "an unknown service": Grpc(
        "/no.Service/Predict", b"", grpc.StatusCode.UNIMPLEMENTED
    ),
    "metadata of an unknown model": Grpc(
        METADATA,
        b"\x0a\x06\x0a\x04nope" + length_delimited(2, b"signature_def"),
        NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    ),
    "an unknown metadata field": Grpc(
        METADATA,
        b"\x0a\x06\x0a\x04nope" + length_delimited(2, b"secrets"),
        INVALID,
        "Metadata field secrets is not supported",
    ),
    "status of an unknown model": Grpc(
        STATUS,
        b"\x0a\x06\x0a\x04nope",
        NOT_FOUND,
        "Could not find any versions of model nope",
    ),
    **TENSORS,
}


def nested(depth: int, opening: bytes, inner: bytes, closing: bytes) -> bytes:
    return b'{"instances": ' + opening * depth + inner + closing * depth + b"}"


def post(body: bytes | str, status: int, text: str, cpu_s: float = CHEAP_S) -> Rest:
    content = body.encode() if isinstance(body, str) else body
    return Rest("POST", TARGET, content, status, text, cpu_s)


def asks(method: str, target: str, status: int, text: str = "", body: str = "") -> Rest:
    return Rest(method, target, body.encode(), status, text)


ONE: Final = '{"instances": [1.0]}'
ELEMENT: Final = "Failed to process element: 0 of 'instances' list."
REST: dict[str, Rest] = {
    "an unknown model": asks(
        "POST",
        "/v1/models/nope:predict",
        404,
        "Servable not found for request: Latest(nope)",
        ONE,
    ),
    "a name that is a path": asks(
        "POST",
        "/v1/models/..%2f..%2fetc%2fpasswd:predict",
        404,
        "Servable not found for request: Latest(../../etc/passwd)",
        ONE,
    ),
    "an unknown version": asks(
        "POST",
        f"/v1/models/{MODEL}/versions/8:predict",
        404,
        f"Servable not found for request: Specific({MODEL}, 8)",
        ONE,
    ),
    "a version that is no number": asks(
        "POST",
        f"/v1/models/{MODEL}/versions/%D9%A3:predict",
        400,
        f"Malformed request: POST /v1/models/{MODEL}/versions/%D9%A3:predict",
        ONE,
    ),
    "a version beyond 64 bits": asks(
        "POST", f"/v1/models/{MODEL}/versions/{'9' * 20}:predict", 400, "", ONE
    ),
    "an unknown label": asks(
        "POST",
        f"/v1/models/{MODEL}/labels/canary:predict",
        400,
        "Unrecognized servable version label: canary",
        ONE,
    ),
    "an unknown signature": post(
        '{"signature_name": "nope", "instances": [1.0]}',
        400,
        'Serving signature name: "nope" not found in signature def',
    ),
    "an unknown input": post(
        '{"instances": [{"z": 1.0}]}',
        400,
        "Failed to process element: 0 key: z of 'instances' list. Error: "
        "INVALID_ARGUMENT: JSON object: does not have named input: z",
    ),
    "another dtype": post(
        '{"instances": ["a"]}',
        400,
        f'{ELEMENT} Error: INVALID_ARGUMENT: JSON Value: "a" Type: String is not of '
        "expected type: float",
    ),
    "ragged rows": post(
        '{"instances": [[1.0, 2.0], [3.0]]}',
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        "Expecting tensor size: 2 but got: 1",
    ),
    "no instances": post("{}", 400, "Missing 'inputs' or 'instances' key"),
    "an empty body": post("", 400, "JSON Parse error: The document is empty"),
    "a document cut off": post(
        '{"instances": [1.0, 2',
        400,
        "JSON Parse error: Missing a comma or ']' after an array element. at offset",
    ),
    "no object": post("[1.0]", 400, "JSON Value: [1.0] Is not object"),
    "no JSON": post(b"\xff\xfe\x00", 400, "JSON Parse error: "),
    "a number of a million digits": post(
        '{"instances": [' + "9" * 1_000_000 + "]}",
        400,
        "JSON Parse error: Number too big to be stored in double.",
    ),
    "fifty thousand lists": post(nested(50_000, b"[", b"0.5", b"]"), 400, "", 1.0),
    "a million lists": post(nested(1_000_000, b"[", b"0.5", b"]"), 400, "", 1.0),
    "a million lists, never closed": post(
        nested(1_000_000, b"[", b"", b""), 400, "", 1.0
    ),
    "fifty thousand objects": post(nested(50_000, b'{"a":', b"1", b"}"), 400, "", 1.0),
    "a body larger than the limit": post(
        b'{"instances": [' + b"1," * (LIMIT_MIB * 2**19) + b"1]}", 413, ""
    ),
    "an unknown verb": asks(
        "POST",
        f"/v1/models/{MODEL}:train",
        400,
        f"Malformed request: POST /v1/models/{MODEL}:train",
        ONE,
    ),
    "GET where POST belongs": asks(
        "GET", TARGET, 400, f"Malformed request: GET {TARGET}"
    ),
    "PUT": asks("PUT", TARGET, 400, f"Malformed request: PUT {TARGET}", ONE),
    "DELETE": asks("DELETE", TARGET, 400, f"Malformed request: DELETE {TARGET}"),
    "a method that HTTP does not have": asks("BREW", TARGET, 501),
    "a path outside the API": asks("GET", "/etc/passwd", 404),
    "a path with dots": asks("GET", "/v1/../../etc/passwd", 400),
    "status of an unknown model": asks(
        "GET", "/v1/models/nope", 404, "Could not find any versions of model nope"
    ),
    "metadata of an unknown model": asks(
        "GET",
        "/v1/models/nope/metadata",
        404,
        "Servable not found for request: Latest(nope)",
    ),
}


@pytest.fixture(scope="module")
def server(start: Any, write_version: Any, tmp_path_factory: Any) -> Any:
    base_path = tmp_path_factory.mktemp("models") / MODEL
    write_version(base_path / "7")
    running = start(
        str(base_path),
        "--wait_for_models",
        f"--max_message_bytes={LIMIT_MIB << 20}",
        f"--max_body_bytes={LIMIT_MIB << 20}",
    )
    # What is made once is no growth.
    with grpc.insecure_channel(running.grpc) as channel:
        assert call(channel, PREDICT, GOOD_REQUEST)[0] is grpc.StatusCode.OK
    return running


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options) as opened:
        yield opened


def _same(message: bytes) -> bytes:
    return message


def call(
    channel: grpc.Channel, method: str, message: bytes
) -> tuple[grpc.StatusCode, str, bytes]:
    try:
        answer: bytes = channel.unary_unary(method, _same, _same)(message, timeout=30)
    except grpc.RpcError as error:
        return error.code(), error.details() or "", b""
    return grpc.StatusCode.OK, "", answer


def ask(server: Any, row: Rest) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    try:
        # The answer may come before the whole request is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(row.method, row.target, row.body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def at_little_cost(server: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that what happens meanwhile takes neither memory nor much time."""
    row = request.node.callspec.params.get("row")
    server.forget_peak()
    resident_mib, cpu_s = server.resident_mib(), server.cpu_s()
    yield
    assert server.process.poll() is None
    used_s = server.cpu_s() - cpu_s
    growth_mib = server.resident_mib(at_most=True) - resident_mib
    assert used_s <= (row.cpu_s if row else CHEAP_S)
    assert growth_mib <= (row.growth_mib if row else GROWTH_MIB)


@pytest.mark.usefixtures("at_little_cost")
@pytest.mark.parametrize("row", GRPC.values(), ids=GRPC.keys())
def test_a_call_is_refused_and_the_next_one_answered(
    row: Grpc, channel: grpc.Channel
) -> None:
    code, text, _ = call(channel, row.method, row.message)

    assert code is row.code, text
    assert text.startswith(row.text.removesuffix("*"))
    assert len(text) <= LONGEST_TEXT
    assert_good_over_grpc(channel)


def test_a_call_that_is_no_message_is_refused_without_a_text(
    channel: grpc.Channel,
) -> None:
    code, text, _ = call(channel, PREDICT, b"\xff")

    assert (code, text) == (grpc.StatusCode.INTERNAL, "")


@pytest.mark.usefixtures("at_little_cost")
@pytest.mark.parametrize("row", REST.values(), ids=REST.keys())
def test_a_request_is_refused_and_the_next_one_answered(row: Rest, server: Any) -> None:
    status, body = ask(server, row)

    assert status == row.status, body
    if row.text:
        assert json.loads(body)["error"].startswith(row.text)
    assert_good_over_rest(server)


@pytest.mark.parametrize(
    ("tensor", "signature", "shape", "field", "values"),
    [
        pytest.param(
            shaped(FLOAT, 2, content=b"\x2a\x08\0\0\x80\x3f\0\0\0\x40" * 500),
            "echo_FLOAT",
            [2],
            "float_val",
            [1.0, 2.0],
            id="T9 a thousand values for two",
        ),
        pytest.param(
            shaped(INT8, 1, content=b"\x3a\x03" + varint(100_000)),
            "echo_INT8",
            [1],
            "int_val",
            [-96],
            id="T10 a number that does not fit",
        ),
        pytest.param(
            shaped(19, 1, content=b"\x6a\x05" + varint(2**30 + 0x3C00)),
            "echo_HALF",
            [1],
            "half_val",
            [0x3C00],
            id="T10 more bits than a half has",
        ),
        pytest.param(
            shaped(FLOAT, 0, 2**62),
            "echo_FLOAT",
            [0, 2**62],
            "float_val",
            [],
            id="T7 nothing, by a huge size",
        ),
        pytest.param(
            shaped(FLOAT, content=b"\x2a\x04\0\0\x80\x3f")[:2]
            + length_delimited(2, b"\x18\x01")
            + b"\x2a\x04\0\0\x80\x3f",
            "echo_FLOAT",
            [],
            "float_val",
            [1.0],
            id="T6 an unknown rank is a scalar",
        ),
    ],
)
@pytest.mark.usefixtures("at_little_cost")
def test_what_tensorflow_forgives(
    tensor: bytes,
    signature: str,
    shape: list[int],
    field: str,
    values: list[float],
    channel: grpc.Channel,
) -> None:
    code, text, answer = call(channel, PREDICT, predict(tensor, signature))

    assert code is grpc.StatusCode.OK, text
    y: tensor_pb2.TensorProto = predict_pb2.PredictResponse.FromString(answer).outputs[
        "y"
    ]
    assert [dim.size for dim in y.tensor_shape.dim] == shape
    assert list(getattr(y, field)) == values


def test_refusals_leave_no_memory_behind(server: Any, channel: grpc.Channel) -> None:
    rows = [row for row in GRPC.values() if len(row.message) < 1 << 16]
    for row in rows:
        call(channel, row.method, row.message)
    before = server.resident_mib()
    for _ in range(50):
        for row in rows:
            call(channel, row.method, row.message)

    assert server.resident_mib() - before <= 16
    assert_good_over_grpc(channel)


def assert_good_over_grpc(channel: grpc.Channel) -> None:
    code, text, answer = call(channel, PREDICT, GOOD_REQUEST)
    assert code is grpc.StatusCode.OK, text
    outputs = predict_pb2.PredictResponse.FromString(answer).outputs
    assert list(outputs["y"].float_val) == [2.5, 3.0]


def assert_good_over_rest(server: Any) -> None:
    status, body = ask(server, asks("POST", TARGET, 200, "", ONE))
    assert (status, json.loads(body)) == (200, {"predictions": [2.5]})
