"""Configuration files in text format: what is accepted, and what errors say."""

import contextlib
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servable.apis import config_pb2, model_pb2, model_server_config_pb2
from servable.config.text_format import parse_text_proto, read_text_proto
from servable.errors import InvalidArgument, NotFound, ServingError

Config = model_server_config_pb2.ModelServerConfig


def parse(text: str) -> model_server_config_pb2.ModelServerConfig:
    return parse_text_proto(text.encode(), Config, "/c")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            'model_config_list { config { name: "m" nope: 1 } }',
            '1:44: Message type "tensorflow.serving.ModelConfig" has no field named '
            '"nope".',
            id="an unknown field is told of at the token after its name",
        ),
        pytest.param(
            "model_config_list { config { name: 5 } }",
            "1:36: Expected string, got: 5",
            id="a number is no string",
        ),
        pytest.param(
            "# one\n\ngarbage # two\n",
            '4:1: Message type "tensorflow.serving.ModelServerConfig" has no field '
            'named "garbage".',
            id="comments and lines count",
        ),
        pytest.param(
            "model_config_list { config {",
            "1:29: Expected identifier, got: ",
            id="the file ends too early",
        ),
        pytest.param(
            "model_config_list { config { model_version_policy { latest { "
            "num_versions: abc } } } }",
            "1:76: Expected integer, got: abc",
            id="a word is no integer",
        ),
        pytest.param(
            "model_config_list {\n config {\n  \0",
            "3:3: Invalid control characters encountered in text.",
            id="a zero byte",
        ),
        pytest.param(
            "model_config_list: 5",
            '1:20: Expected "{", found "5".',
            id="a number is no message",
        ),
        pytest.param(
            "model_config_list < config < > }",
            '1:32: Expected ">", found "}".',
            id="brackets of two kinds",
        ),
        pytest.param(
            "model_config_list {\n\tconfig {\n\t\tnam: 'm' } }",
            '3:20: Message type "tensorflow.serving.ModelConfig" has no field named '
            '"nam".',
            id="tabs are eight columns wide",
        ),
        pytest.param(
            "model_config_list { config { name: 'a' name: 'b' } }",
            '1:44: Non-repeated field "name" is specified multiple times.',
            id="a field that is given twice",
        ),
        pytest.param(
            "model_config_list { config { model_version_policy { latest { } "
            "all { } } } }",
            '1:68: Field "all" is specified along with field "latest", another member '
            'of oneof "policy_choice".',
            id="two of which one is chosen",
        ),
        pytest.param(
            "model_config_list { config { model_type: WHAT } }",
            '1:47: Unknown enumeration value of "WHAT" for field "model_type".',
            id="an unknown name of a value",
        ),
        pytest.param(
            "model_config_list { config { version_labels { value: "
            "-9223372036854775809 } } }",
            "1:55: Integer out of range (9223372036854775809)",
            id="more than a number holds",
        ),
        pytest.param(
            "model_config_list { config { version_labels { value: " + "9" * 5000,
            f"1:54: Integer out of range ({'9' * 5000})",
            id="more digits than Python reads",
        ),
        pytest.param(
            "model_config_list { config { name: 'm\n} }",
            "1:38: String literals cannot cross line boundaries.",
            id="a string that does not end",
        ),
        pytest.param(
            "model_config_list { config { base_path: /m } }",
            "1:41: Expected string, got: /",
            id="a path without quotation marks",
        ),
        pytest.param(
            "model_config_list { config: [ { } { } ] }",
            '1:35: Expected ",", found "{".',
            id="a list without commas",
        ),
        pytest.param(
            "custom_model_config { [x/no.Such] { } }",
            '1:35: Could not find type "x/no.Such" stored in google.protobuf.Any.',
            id="an unknown type",
        ),
        pytest.param(
            "model_config_list { [a.b] { } }",
            '1:27: Extension "a.b" is not defined or is not an extension of '
            '"tensorflow.serving.ModelConfigList".',
            id="an unknown extension",
        ),
    ],
)
def test_an_error_names_type_place_and_reason(
    text: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse(text)

    assert error.value.message == "Invalid protobuf file: '/c'"
    assert caplog.messages == [
        f"Error parsing text-format tensorflow.serving.ModelServerConfig: {problem}"
    ]


def test_invalid_utf_8_is_told_of_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(InvalidArgument, match="Invalid protobuf file: '/c'"):
        parse_text_proto(b"# a\n  \xff", Config, "/c")

    assert caplog.messages[0].endswith("ModelServerConfig: 2:3: Invalid UTF-8.")


def test_the_whole_syntax_is_read() -> None:
    message = parse(
        "model_config_list: < config: { name: 'a' 'b', base_path: \"/scale\"; "
        "model_platform: 'tensor' \"flow\" # note\n"
        " model_version_policy: { specific { versions: [1, 3] } } } >"
    )

    (model,) = message.model_config_list.config
    assert (model.name, model.model_platform) == ("ab", "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [1, 3]


def test_an_any_of_a_known_type_is_expanded() -> None:
    message = parse(
        "custom_model_config { [type.googleapis.com/tensorflow.serving.ModelSpec] "
        '{ name: "x" } }'
    )

    spec = model_pb2.ModelSpec()
    assert message.custom_model_config.Unpack(spec)
    assert spec.name == "x"


def test_white_space_is_an_empty_message(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(" \n")

    assert read_text_proto(str(path), Config) == Config()


def test_a_file_of_no_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.touch()

    with pytest.raises(InvalidArgument) as error:
        read_text_proto(str(path), Config)

    assert error.value.message == f"{path}; Invalid argument"


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as error:
        read_text_proto(f"{tmp_path}/none", Config)

    assert error.value.message == f"{tmp_path}/none; No such file or directory"


@pytest.mark.parametrize("path", ["", "/", "a\0b"], ids=["empty", "directory", "zero"])
def test_no_path_raises_anything_but_a_serving_error(path: str) -> None:
    with pytest.raises(ServingError):
        read_text_proto(path, Config)


_words = st.sampled_from(
    [
        "model_config_list", "config", "name", "base_path", "version_labels", "key",
        "custom_model_config", "[type.googleapis.com/tensorflow.ConfigProto]", "value",
        "model_version_policy", "latest", "num_versions", "specific", "versions",
        "device_count", "session_metadata", "experimental", "gpu_options",
        "{", "}", "<", ">", "[", "]", ":", ",", ";", '"', "'", "\\", "#", "\n", "-",
        ".", "1", "99999999999999999999", "0x", "1e400", "nan", "true", "'a'",
        '"\\xff"',
    ]
)  # fmt: skip
_texts = st.one_of(
    st.lists(_words, max_size=30).map(" ".join).map(str.encode),
    st.lists(_words, max_size=30).map("".join).map(str.encode),
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")),
)


@given(data=_texts, message_type=st.sampled_from([Config, config_pb2.ConfigProto]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_raises_anything_but_invalid_argument(
    data: bytes, message_type: type
) -> None:
    logging.getLogger("servable").setLevel(logging.CRITICAL)
    with contextlib.suppress(InvalidArgument):
        parse_text_proto(data, message_type, "/c")
    logging.getLogger("servable").setLevel(logging.NOTSET)


def test_endless_nesting_is_refused() -> None:
    level = (
        "custom_model_config { [type.googleapis.com/tensorflow.serving."
        "ModelServerConfig] { "
    )

    with pytest.raises(InvalidArgument):
        parse(level * 3000 + "} }" * 3000)
