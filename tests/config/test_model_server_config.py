"""Which model configurations are legal, and what one changes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.apis import model_server_config_pb2
from servable.config import model_server_config
from servable.config.model_server_config import (
    All,
    Latest,
    ModelConfig,
    ModelServerConfig,
    Specific,
    assign_labels,
    plan,
)
from servable.config.text_format import parse_text_proto
from servable.errors import FailedPrecondition, InvalidArgument, Unimplemented


def config(text: str) -> ModelServerConfig:
    message = parse_text_proto(
        text.encode(), model_server_config_pb2.ModelServerConfig, "/c"
    )
    return model_server_config.from_proto(message)


def models(*texts: str) -> ModelServerConfig:
    return config(
        "model_config_list {" + "".join(f"config {{ {t} }}" for t in texts) + "}"
    )


M = 'name: "m" base_path: "/m" '


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        pytest.param(
            [M],
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform, model name is m",
            id="no platform",
        ),
        pytest.param(
            [M + 'model_type: TENSORFLOW model_platform: "tensorflow"'],
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform, model name is m",
            id="a platform in both ways",
        ),
        pytest.param(
            [M + "model_type: OTHER"],
            "ModelServerConfig::model_type choice 2 not supported.",
            id="the other model type",
        ),
        pytest.param(
            [M + 'model_platform: "caffe"'],
            "Model m requests unsupported platform caffe",
            id="an unknown platform",
        ),
        pytest.param(
            [M + 'model_platform: "tensorflow"'] * 2,
            "Illegal to list model m multiple times in config list",
            id="a name twice",
        ),
        pytest.param(
            ['name: "m" base_path: "rel/path" model_platform: "tensorflow"'],
            "Expected model m to have an absolute path or URI; got "
            "base_path()=rel/path",
            id="a relative path",
        ),
        pytest.param(
            ['name: "q" model_platform: "tensorflow"'],
            "Expected model q to have an absolute path or URI; got base_path()=",
            id="no path",
        ),
        pytest.param(
            ['name: "m" base_path: "/m\\0" model_platform: "tensorflow"'],
            "Expected model m to have a base_path without zero bytes",
            id="a path that no system can open",
        ),
        pytest.param(
            [M + 'model_platform: "tensorflow" logging_config {}'],
            "No request-logger-creator provided.",
            id="request logging",
        ),
    ],
)
def test_what_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        models(*texts)

    assert error.value.message == message


def test_a_custom_config_is_refused() -> None:
    with pytest.raises(Unimplemented):
        config("custom_model_config {}")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        pytest.param("", Latest(1), id="unset is the latest one"),
        pytest.param("latest {}", Latest(1), id="latest without a number is one"),
        pytest.param("latest { num_versions: 0 }", Latest(1), id="latest 0 is one"),
        pytest.param("latest { num_versions: 3 }", Latest(3), id="latest 3"),
        pytest.param("all {}", All(), id="all"),
        pytest.param("specific { versions: [3, 1] }", Specific((3, 1)), id="specific"),
        pytest.param("specific {}", Specific(()), id="specific without any is none"),
    ],
)
def test_version_policies(text: str, policy: Latest | All | Specific) -> None:
    (model,) = models(
        M + f'model_platform: "tensorflow" model_version_policy {{ {text} }}'
    ).models

    assert model.version_policy == policy


def test_a_uri_is_a_base_path() -> None:
    (model,) = models(
        'name: "m" base_path: "gs://bucket/m" model_platform: "tensorflow"'
    ).models

    assert model.base_path == "gs://bucket/m"


def test_the_deprecated_type_means_its_platform() -> None:
    (model,) = models(M + "model_type: TENSORFLOW").models

    assert model.platform == "tensorflow"


def test_a_config_without_a_list_is_not_an_empty_list() -> None:
    assert config("") == ModelServerConfig(is_list=False)
    assert config("model_config_list {}") == ModelServerConfig()


def test_one_model_from_flags() -> None:
    assert model_server_config.single_model("m", "/p").models == (
        ModelConfig("m", "/p"),
    )

    with pytest.raises(InvalidArgument, match="absolute path or URI"):
        model_server_config.single_model("m", "p")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(
        "model_config_list { config { name: 'm' base_path: '/m' "
        "model_platform: 'tensorflow' version_labels { key: 'a' value: 2 } } }"
    )

    assert model_server_config.read(str(path)).labels() == {"m": {"a": 2}}


def listing(*names: str) -> ModelServerConfig:
    return ModelServerConfig(tuple(ModelConfig(name, "/" + name) for name in names))


def test_a_plan_says_what_comes_stays_and_goes() -> None:
    transition = plan(listing("a", "b"), listing("c", "b"))

    assert [model.name for model in transition.added] == ["c"]
    assert [model.name for model in transition.kept] == ["b"]
    assert [model.name for model in transition.removed] == ["a"]


def test_a_platform_cannot_change() -> None:
    with pytest.raises(InvalidArgument) as error:
        plan(
            ModelServerConfig((ModelConfig("m", "/m", "tensorflow"),)),
            ModelServerConfig((ModelConfig("m", "/m", "python"),)),
        )

    assert error.value.message == (
        "Illegal to change a model's platform. For model m platform was tensorflow and "
        "new platform requested is python"
    )


def test_a_list_cannot_be_followed_by_none() -> None:
    with pytest.raises(FailedPrecondition) as error:
        plan(listing("a"), ModelServerConfig(is_list=False))

    assert error.value.message == (
        "Cannot transition to requested config. It is only legal to transition from "
        "one ModelConfigList to another."
    )


def test_none_can_be_followed_by_none_or_a_list() -> None:
    none = ModelServerConfig(is_list=False)

    assert plan(none, none).config == none
    assert [m.name for m in plan(none, listing("a")).added] == ["a"]


_names = st.frozensets(st.sampled_from("abcd")).map(lambda names: listing(*names))


@given(old=_names, new=_names)
def test_a_plan_accounts_for_every_model_once(
    old: ModelServerConfig, new: ModelServerConfig
) -> None:
    transition = plan(old, new)

    added, kept, removed = (
        [model.name for model in models]
        for models in (transition.added, transition.kept, transition.removed)
    )
    assert sorted(added + kept) == sorted(new.names())
    assert sorted(kept + removed) == sorted(old.names())


def labelled(**labels: int) -> ModelServerConfig:
    return ModelServerConfig((ModelConfig("m", "/m", version_labels=labels),))


@pytest.mark.parametrize(
    ("old", "new", "allow"),
    [
        pytest.param({}, {"a": 1}, False, id="a label on an available version"),
        pytest.param({"a": 2}, {"a": 1}, False, id="a label moves to one"),
        pytest.param({}, {"a": 9}, True, id="a new label may wait where allowed"),
        pytest.param({"a": 9}, {"a": 9}, True, id="an old one may keep waiting"),
        pytest.param({}, {"": 1}, False, id="an empty label is one"),
        pytest.param({"a": 1}, {}, False, id="labels go"),
    ],
)
def test_labels_that_are_granted(
    old: dict[str, int], new: dict[str, int], allow: bool
) -> None:
    granted = assign_labels(
        labelled(**new),
        {"m": old},
        is_available=lambda name, version: (name, version) == ("m", 1),
        allow_unavailable=allow,
    )

    assert granted == ({"m": new} if new else {})


@pytest.mark.parametrize(
    ("old", "new", "allow"),
    [
        pytest.param({}, {"a": 9}, False, id="a new label on a missing version"),
        pytest.param({"a": 9}, {"a": 9}, False, id="an old one on a version that left"),
        pytest.param({"a": 1}, {"a": 9}, True, id="moving to one, even where allowed"),
    ],
)
def test_labels_that_are_refused(
    old: dict[str, int], new: dict[str, int], allow: bool
) -> None:
    with pytest.raises(FailedPrecondition) as error:
        assign_labels(
            labelled(**new),
            {"m": old},
            is_available=lambda _, version: version == 1,
            allow_unavailable=allow,
        )

    assert error.value.message == (
        "Request to assign label to version 9 of model m, which is not currently "
        "available for inference"
    )
