"""Whose batching parameters hold for which version."""

from pathlib import Path

import pytest

from servable.config.batching_options import BatchingOptions, BatchingOptionsByModel
from servable.config.batching_parameters import BatchingParameters
from servable.config.model_batching import PARAMETERS_FILE, ModelBatching
from servable.errors import InvalidArgument


def test_the_servers_parameters_hold_for_every_version(tmp_path: Path) -> None:
    (tmp_path / PARAMETERS_FILE).write_text("max_batch_size { value: 3 }")

    got = ModelBatching(BatchingParameters(max_batch_size=7)).of("m", str(tmp_path))

    assert got is not None
    assert got.max_batch_size == 7


def test_nothing_is_batched_without_parameters(tmp_path: Path) -> None:
    (tmp_path / PARAMETERS_FILE).write_text("max_batch_size { value: 3 }")

    assert ModelBatching(None, is_per_model=True).of("m", str(tmp_path)) is None


def test_a_versions_own_file_replaces_them_altogether(tmp_path: Path) -> None:
    (tmp_path / PARAMETERS_FILE).write_text("batch_timeout_micros { value: 5000 }")
    batching = ModelBatching(BatchingParameters(max_batch_size=7), is_per_model=True)

    got = batching.of("m", str(tmp_path))

    assert got is not None
    assert got.max_batch_size == 1000
    assert got.batch_timeout_s == 0.005


def test_a_version_without_a_file_of_its_own_is_not_batched(tmp_path: Path) -> None:
    batching = ModelBatching(BatchingParameters(), is_per_model=True)

    assert batching.of("m", str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry "
            "was 4; expected 8",
            id="sizes that contradict one another",
        ),
        pytest.param("what", "Invalid protobuf file: '{file}'", id="no parameters"),
    ],
)
def test_a_file_that_is_wrong_fails_the_load(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / PARAMETERS_FILE
    file.write_text(text)
    batching = ModelBatching(BatchingParameters(), is_per_model=True)

    with pytest.raises(InvalidArgument) as caught:
        batching.of("m", str(tmp_path))

    assert caught.value.message == message.format(file=file)


@pytest.mark.parametrize(
    ("options", "refuses_unbatchable", "runs_alone"),
    [
        pytest.param(BatchingOptions(), True, False, id="as TensorFlow Serving has it"),
        pytest.param(BatchingOptions(), False, True, id="models it does not have"),
        pytest.param(
            BatchingOptions(batcher="rows"), True, True, id="a batcher it does not have"
        ),
        pytest.param(
            BatchingOptions(batcher="rows", run_unbatchable_alone=False),
            False,
            False,
            id="what the options say",
        ),
    ],
)
def test_what_no_batch_can_hold(
    options: BatchingOptions,
    tmp_path: Path,
    *,
    refuses_unbatchable: bool,
    runs_alone: bool,
) -> None:
    batching = ModelBatching(
        BatchingParameters(),
        options=BatchingOptionsByModel(options),
        refuses_unbatchable=refuses_unbatchable,
    )

    got = batching.of("m", str(tmp_path))

    assert got is not None
    assert got.run_unbatchable_alone == runs_alone
    assert (got.batcher is not None) == bool(options.batcher)


def test_options_are_those_of_the_model(tmp_path: Path) -> None:
    options = BatchingOptionsByModel(by_model=(("a", BatchingOptions("adaptive")),))
    batching = ModelBatching(BatchingParameters(), options=options)

    got = [batching.of(name, str(tmp_path)) for name in ("a", "b")]

    assert [one and (one.policy, one.run_unbatchable_alone) for one in got] == [
        ("adaptive", True),
        ("fixed", False),
    ]
