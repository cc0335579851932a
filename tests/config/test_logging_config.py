"""What a logging_config asks for, and what is refused."""

import logging
from pathlib import Path

import pytest
from google.protobuf import text_format

from servable.apis import logging_config_pb2
from servable.config import logging_config
from servable.config.logging_config import LoggingConfig
from servable.errors import InvalidArgument, NotFound, PermissionDenied

COLLECTOR = 'log_collector_config { type: "tfrecord" filename_prefix: "/logs/m" } '


def read(text: str) -> LoggingConfig:
    message = text_format.Parse(text, logging_config_pb2.LoggingConfig())
    return logging_config.from_proto("m", message)


@pytest.mark.parametrize(
    ("sampling", "rate"),
    [
        pytest.param("", 0.0, id="nothing is logged by default"),
        pytest.param("sampling_rate: 0.25", 0.25, id="a rate"),
        pytest.param(
            "sampling_rate: 0.25 per_task_sampling_configs { sampling_rate: 0.5 }",
            0.5,
            id="a rule for every task wins",
        ),
        pytest.param(
            "sampling_rate: 0.25 "
            'per_task_sampling_configs { dc: "ab" sampling_rate: 0.5 } '
            "per_task_sampling_configs { task_index: 0 sampling_rate: 0.5 }",
            0.25,
            id="rules for other tasks do not count",
        ),
    ],
)
def test_the_rate_is_that_of_this_server(sampling: str, rate: float) -> None:
    config = read(f"{COLLECTOR} sampling_config {{ {sampling} }}")

    assert config.sampling_rate == rate
    assert config.filename_prefix == "/logs/m"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "No request-logger-creator provided.", id="no collector"),
        pytest.param(
            'log_collector_config { type: "file" filename_prefix: "/logs/m" }',
            "No request-logger-creator provided.",
            id="an unknown collector",
        ),
        pytest.param(
            COLLECTOR + "custom_logging_config {}",
            "No request-logger-creator provided.",
            id="a custom configuration",
        ),
        pytest.param(
            'log_collector_config { type: "tfrecord" filename_prefix: "logs/m" }',
            "log_collector_config.filename_prefix of model m must be an absolute path "
            "and the beginning of a file name; was 'logs/m'",
            id="a relative prefix",
        ),
        pytest.param(
            'log_collector_config { type: "tfrecord" filename_prefix: "/logs/" }',
            "log_collector_config.filename_prefix of model m must be an absolute path "
            "and the beginning of a file name; was '/logs/'",
            id="a folder for a prefix",
        ),
        pytest.param(
            COLLECTOR + "sampling_config { sampling_rate: 1.5 }",
            "sampling_rate of model m must be from 0 to 1; was 1.5",
            id="a rate above 1",
        ),
        pytest.param(
            COLLECTOR + "sampling_config { sampling_rate: nan }",
            "sampling_rate of model m must be from 0 to 1; was nan",
            id="a rate that is no number",
        ),
        pytest.param(
            COLLECTOR
            + "sampling_config { per_task_sampling_configs { sampling_rate: -1 } }",
            "per_task_sampling_configs.sampling_rate of model m must be from 0 to 1; "
            "was -1.0",
            id="a rate of a rule below 0",
        ),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        read(text)

    assert error.value.message == problem


def test_the_log_says_which_collector_there_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(InvalidArgument):
        read('log_collector_config { type: "file" }')

    assert 'log_collector_config.type "file"; the only log collector' in caplog.text


def test_a_folder_that_is_missing_is_found_before_anything_is_logged(
    tmp_path: Path,
) -> None:
    LoggingConfig(str(tmp_path / "log"), 1.0).check_folder(())
    with pytest.raises(NotFound, match="filename_prefix needs the folder"):
        LoggingConfig(str(tmp_path / "missing" / "log"), 1.0).check_folder(())


@pytest.mark.parametrize(
    ("prefix", "is_allowed"),
    [
        pytest.param("root/log", True, id="in it"),
        pytest.param("root/inside/log", True, id="deeper"),
        pytest.param("link/log", True, id="by a link to it"),
        pytest.param("elsewhere/log", False, id="beside it"),
        pytest.param("root-too/log", False, id="a longer name"),
        pytest.param("root/../elsewhere/log", False, id="by a way out"),
        pytest.param("root/out/log", False, id="by a link out of it"),
        pytest.param("gone/log", False, id="a folder that is not told of"),
    ],
)
def test_logs_are_below_their_roots(
    prefix: str, is_allowed: bool, tmp_path: Path
) -> None:
    for name in ("root/inside", "elsewhere", "root-too"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("root")
    (tmp_path / "root" / "out").symlink_to("../elsewhere")
    config = LoggingConfig(f"{tmp_path}/{prefix}", 1.0)
    roots = (str(tmp_path / "root"), "/nowhere")

    if is_allowed:
        config.check_folder(roots)
    else:
        with pytest.raises(PermissionDenied, match="below one of --request_log_roots"):
            config.check_folder(roots)


def test_a_message_of_a_configuration_means_that_configuration() -> None:
    config = read(COLLECTOR + "sampling_config { sampling_rate: 0.5 attributes: 1 }")

    assert logging_config.from_proto("m", logging_config.to_proto(config)) == config
