"""What is said of a version that did not survive its trial."""

import pytest

from servable.config.server_options import ServerOptions
from servable.config.session_config import SessionFlags
from servable.errors import NotFound
from servable.platforms.trial import TrialLoader, last_line
from servable.testing import FakeLoader


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("", "", id="nothing was said"),
        pytest.param("a\nb\n\n", "b", id="the last line that is none"),
        pytest.param(
            "F tensorflow/core/tensor.cc:40] Check failed: x < 2 (3 vs. 2)",
            "F tensorflow/core/tensor.cc:40] Check failed: x < 2 (3 vs. 2)",
            id="a place in TensorFlow is no path of ours",
        ),
        pytest.param(
            "cannot open '/srv/models/m/1': no",
            "cannot open '(path)': no",
            id="paths are left out",
        ),
        pytest.param("x" * 1000, "x" * 300, id="long ones are cut"),
    ],
)
def test_the_last_line(words: str, expected: str) -> None:
    assert last_line(words) == expected


def test_what_failed_its_trial_is_not_loaded() -> None:
    def fail() -> None:
        raise NotFound("no graph")

    inner = FakeLoader("x")
    with pytest.raises(NotFound):
        TrialLoader(inner, fail).load()

    assert inner.calls == []


def test_the_process_gets_the_options_of_the_server() -> None:
    options = ServerOptions(
        model_base_path="/m",
        saved_model_tags=("serve", "gpu"),
        session=SessionFlags(inter_op_parallelism=3),
        canary_load=True,
    )

    assert ServerOptions.from_json(options.to_json()) == options
