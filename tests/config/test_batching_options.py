"""Batching options: what a file says, for whom, and what is refused."""

from pathlib import Path

import pytest

from servable.config import batching_options
from servable.config.batching_options import BatchingOptions, BatchingOptionsByModel
from servable.errors import InvalidArgument, NotFound


def read(path: Path, text: str, policy: str = "fixed") -> BatchingOptionsByModel:
    file = path / "batching.toml"
    file.write_text(text)
    return batching_options.read(str(file), policy)


def test_without_a_file_everything_is_as_there() -> None:
    assert batching_options.read("").of("m") == BatchingOptions()


def test_a_model_has_its_own_options_on_top_of_those_for_all(tmp_path: Path) -> None:
    options = read(
        tmp_path,
        """
        policy = "adaptive"
        target_p99_ms = 20
        [models.a]
        policy = "fixed"
        unbatched_signatures = ["one", "two"]
        [models."b c"]
        padding_value = -1
        """,
    )

    assert options.of("other") == BatchingOptions("adaptive", target_p99_ms=20)
    assert options.of("a") == BatchingOptions(
        "fixed", target_p99_ms=20, unbatched_signatures=("one", "two")
    )
    assert options.of("b c").padding_value == -1


def test_the_flag_is_the_policy_where_the_file_names_none(tmp_path: Path) -> None:
    options = read(tmp_path, '[models.a]\npolicy = "fixed"', policy="adaptive")

    assert options.of("m").policy == "adaptive"
    assert options.of("a").policy == "fixed"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(BatchingOptions(), False, id="refused as TensorFlow Serving does"),
        pytest.param(BatchingOptions("adaptive"), True, id="run by another policy"),
        pytest.param(
            BatchingOptions(run_unbatchable_alone=True), True, id="run if asked for"
        ),
        pytest.param(
            BatchingOptions("adaptive", run_unbatchable_alone=False),
            False,
            id="refused if asked for",
        ),
    ],
)
def test_what_no_batch_can_hold(options: BatchingOptions, *, expected: bool) -> None:
    assert options.runs_unbatchable_alone is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("polcy = 'x'", "there is no option polcy", id="a slip of the pen"),
        pytest.param(
            "policy = ''", "policy must be the name of a policy", id="no name"
        ),
        pytest.param("policy = 3", "policy must be the name", id="a number for a name"),
        pytest.param(
            "target_p99_ms = -1", "target_p99_ms must be a number", id="time back"
        ),
        pytest.param(
            "target_p99_ms = inf", "target_p99_ms must be a number", id="endless time"
        ),
        pytest.param(
            "max_in_flight = 1.5", "max_in_flight must be a number", id="half a batch"
        ),
        pytest.param(
            "unpad_outputs = 1", "unpad_outputs must be true or false", id="a number"
        ),
        pytest.param(
            "unbatched_signatures = [1]",
            "unbatched_signatures must be a list of names",
            id="numbers for names",
        ),
        pytest.param("models = 1", "models must be tables", id="models that are none"),
        pytest.param(
            "models.a = 1", "models must be tables", id="a model that is none"
        ),
        pytest.param(
            "[models.a]\nx = 1", "models.a: there is no option x", id="of a model"
        ),
        pytest.param("policy", "batching.toml: ", id="no TOML"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, text)

    assert message in caught.value.message


def test_a_file_that_is_missing_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        batching_options.read(str(tmp_path / "none"))
