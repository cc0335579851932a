"""What a configuration becomes when one of its models is changed."""

from collections.abc import Callable

import pytest

from servable.config.model_changes import added, is_pinned, labelled, pinned, removed
from servable.config.model_options import ModelOptions
from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.core.served_versions import Pinned
from servable.errors import AlreadyExists, NotFound

Change = Callable[[ModelServerConfig], ModelServerConfig]

M = ModelConfig("m", "/m", version_labels={"stable": 1, "next": 2})
N = ModelConfig("n", "/n")
NEW = ModelConfig("m", "/elsewhere")
BEFORE = ModelServerConfig((M, N))


def labels_of_m(config: ModelServerConfig) -> dict[str, int]:
    return dict(config.models[0].version_labels)


@pytest.mark.parametrize(
    ("change", "models"),
    [
        pytest.param(
            lambda c: added(c, ModelConfig("o", "/o")),
            ["/m", "/n", "/o"],
            id="one more",
        ),
        pytest.param(
            lambda c: added(c, NEW, replace=True),
            ["/elsewhere", "/n"],
            id="in its place",
        ),
        pytest.param(lambda c: removed(c, "m"), ["/n"], id="one less"),
    ],
)
def test_which_models_there_are(change: Change, models: list[str]) -> None:
    assert [model.base_path for model in change(BEFORE).models] == models


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        pytest.param(
            lambda c: labelled(c, "m", {"stable": 3}),
            {"stable": 3, "next": 2},
            id="one is moved",
        ),
        pytest.param(
            lambda c: labelled(c, "m", {}, ["next", "none"]), {"stable": 1}, id="taken"
        ),
        pytest.param(
            lambda c: labelled(c, "m", {"next": 4}, ["next"]),
            {"stable": 1, "next": 4},
            id="taken and given: given",
        ),
    ],
)
def test_which_labels_a_model_has(change: Change, labels: dict[str, int]) -> None:
    assert labels_of_m(change(BEFORE)) == labels


def test_a_pin_leaves_the_other_options() -> None:
    before = added(
        BEFORE, ModelConfig("o", "/o", options=ModelOptions("resource_preserving"))
    )
    first, _, last = pinned(pinned(before, "o", 3), "m", 7).models

    assert (first.options, is_pinned(first)) == (ModelOptions("", Pinned(7)), True)
    assert last.options == ModelOptions("resource_preserving", Pinned(3))
    assert not is_pinned(N)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(lambda c: added(c, NEW), AlreadyExists, id="there is one"),
        pytest.param(lambda c: removed(c, "x"), NotFound, id="nothing to remove"),
        pytest.param(lambda c: labelled(c, "x", {}), NotFound, id="nothing to label"),
        pytest.param(lambda c: pinned(c, "x", 1), NotFound, id="nothing to pin"),
    ],
)
def test_what_cannot_be_changed(change: Change, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"There is (no|a) model"):
        change(BEFORE)
