"""Batching parameters: defaults, and what is refused."""

from pathlib import Path

import pytest

from servable.apis import session_bundle_config_pb2
from servable.config import batching_parameters
from servable.config.batching_parameters import BatchingParameters
from servable.config.text_format import parse_text_proto
from servable.errors import InvalidArgument


def parameters(text: str) -> BatchingParameters:
    return batching_parameters.from_proto(
        parse_text_proto(
            text.encode(), session_bundle_config_pb2.BatchingParameters, "/b"
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "num_batch_threads { value: 0 }",
            "num_batch_threads must be positive; was 0",
            id="no thread",
        ),
        pytest.param(
            "num_batch_threads { value: -2 }",
            "num_batch_threads must be positive; was -2",
            id="fewer than no threads",
        ),
        pytest.param(
            "batch_timeout_micros { value: -1 }",
            "batch_timeout_micros must be non-negative; was -1",
            id="a negative timeout",
        ),
        pytest.param(
            "max_batch_size { value: 0 }",
            "input_batch_size_limit must be positive; was 0",
            id="batches of no rows",
        ),
        pytest.param(
            "max_enqueued_batches { value: -1 }",
            "max_enqueued_batches must be non-negative; was -1",
            id="a negative queue",
        ),
        pytest.param(
            "max_batch_size { value: 4 } max_execution_batch_size { value: 8 } "
            "enable_large_batch_splitting { value: true }",
            "When enable_large_batch_splitting is true, input_batch_size_limit must be "
            "greater than or equal to max_execution_batch_size.",
            id="batches that run larger than what comes in",
        ),
        pytest.param(
            "max_execution_batch_size { value: 0 } "
            "enable_large_batch_splitting { value: true }",
            "max_execution_batch_size must be positive; was 0",
            id="batches that run with no rows",
        ),
        pytest.param("max_batch_size: 3", "Invalid protobuf file: '/b'", id="a number"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parameters(text)

    assert error.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]",
            "last entry was 4; expected 8",
            id="another maximum",
        ),
        pytest.param(
            "allowed_batch_sizes: [2, 4]",
            "last entry was 4; expected 1000",
            id="the default maximum",
        ),
        pytest.param(
            "max_batch_size { value: 16 } max_execution_batch_size { value: 4 } "
            "enable_large_batch_splitting { value: true } allowed_batch_sizes: [2, 4]",
            "last entry was 4; expected 16",
            id="the maximum even with splitting",
        ),
    ],
)
def test_allowed_sizes_are_checked_when_a_model_is_loaded(
    text: str, message: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        parameters(text).check_model()

    assert error.value.message == (
        f"Last entry in allowed_batch_sizes must match max_batch_size; {message}"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="none"),
        pytest.param(
            "max_batch_size { value: 4 } allowed_batch_sizes: [3, 2, 4]",
            id="not ascending",
        ),
        pytest.param(
            "max_batch_size { value: 4 } max_execution_batch_size { value: 8 }",
            id="a larger execution size without splitting",
        ),
    ],
)
def test_what_upstream_lets_pass(text: str) -> None:
    parameters(text).check_model()


def test_defaults_without_a_file_and_with_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_text("\n")

    from_file = batching_parameters.read(str(path))

    assert from_file.thread_pool_name == "batch_threads"
    assert BatchingParameters().thread_pool_name == "model_server_batch_threads"
    assert from_file.max_batch_size == BatchingParameters().max_batch_size == 1000
    assert from_file.max_enqueued_batches == 10
    assert from_file.num_batch_threads > 0


def test_units_and_dependent_defaults() -> None:
    got = parameters(
        "batch_timeout_micros { value: 1500 } max_batch_size { value: 64 }"
    )

    assert got.batch_timeout_s == 0.0015
    assert got.max_execution_batch_size == 64


def test_an_empty_queue_is_one_batch_unless_batches_are_split() -> None:
    assert parameters("max_enqueued_batches { value: 0 }").max_enqueued_batches == 1
    assert (
        parameters(
            "max_enqueued_batches { value: 0 } "
            "enable_large_batch_splitting { value: true }"
        ).max_enqueued_batches
        == 0
    )
