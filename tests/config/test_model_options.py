"""What is said of a model here and not to TensorFlow Serving."""

import pytest

from servable.apis import model_server_config_pb2
from servable.config import model_options, model_server_config
from servable.config.model_options import ModelOptions
from servable.config.model_server_config import (
    All,
    Latest,
    ModelConfig,
    ModelServerConfig,
    Specific,
    effective_options,
)
from servable.config.text_format import parse_text_proto
from servable.core.served_versions import Canary, Pinned, ServedVersions, Shadow
from servable.errors import InvalidArgument


def read(text: str) -> ModelConfig:
    text = (
        'model_config_list { config { name: "m" base_path: "/m" '
        f'model_platform: "tensorflow" {text} }} }}'
    )
    message = parse_text_proto(
        text.encode(), model_server_config_pb2.ModelServerConfig, "models.config"
    )
    (model,) = model_server_config.from_proto(message).models
    return model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", None, id="nothing"),
        pytest.param("servable {}", ModelOptions(), id="nothing special"),
        pytest.param(
            'servable { aspired_version_policy: "resource_preserving" }',
            ModelOptions("resource_preserving"),
            id="a policy",
        ),
        pytest.param(
            "servable { pinned { version: 3 } }",
            ModelOptions(served_versions=Pinned(3)),
            id="a pin",
        ),
        pytest.param(
            "servable { pinned {} }",
            ModelOptions(served_versions=Pinned(0)),
            id="a pin on version 0",
        ),
        pytest.param(
            "servable { canary { percent: 5 } }",
            ModelOptions(served_versions=Canary(5, 500, 60.0, 0.01, 1.5)),
            id="a canary with its defaults",
        ),
        pytest.param(
            "servable { canary { percent: 5 min_requests: 10 min_seconds: 0 "
            "max_error_rate_increase: 0 max_latency_ratio: 2 } }",
            ModelOptions(served_versions=Canary(5, 10, 0.0, 0.0, 2.0)),
            id="a canary with all that can be said",
        ),
        pytest.param(
            "servable { shadow { percent: 100 relative_tolerance: 0 } }",
            ModelOptions(served_versions=Shadow(100, 0.0)),
            id="a shadow",
        ),
    ],
)
def test_a_model_may_say(text: str, expected: ModelOptions | None) -> None:
    model = read(text)

    assert model.options == expected
    again = model_server_config.from_proto(
        model_server_config.to_proto(ModelServerConfig((model,)))
    )
    assert again.models == (model,)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(
            "servable { canary {} }",
            "model m: servable.canary.percent must be above 0 and at most 100; was 0",
            id="a canary of nothing",
        ),
        pytest.param(
            "servable { shadow { percent: nan } }",
            "servable.shadow.percent must be above 0 and at most 100; was nan",
            id="no number",
        ),
        pytest.param(
            "servable { canary { percent: 1 min_requests: 0 } }",
            "servable.canary.min_requests must be at least 1; was 0",
            id="a canary judged by nothing",
        ),
        pytest.param(
            "servable { canary { percent: 1 max_latency_ratio: 0.5 } }",
            "servable.canary.max_latency_ratio must be at least 1; was 0.5",
            id="a canary that must be faster",
        ),
        pytest.param(
            "model_version_policy { all {} } servable { pinned { version: 1 } }",
            "model m has both a model_version_policy and servable.pinned",
            id="two policies",
        ),
    ],
)
def test_what_is_refused(text: str, error: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read(text)

    assert error in refused.value.message


def test_a_flag_says_the_same() -> None:
    options = model_options.parse("pinned { version: 7 }")

    assert options == ModelOptions(served_versions=Pinned(7))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(ModelConfig("m", "/m"), Pinned(7), id="where nothing is said"),
        pytest.param(
            ModelConfig("m", "/m", options=ModelOptions()), None, id="not where it is"
        ),
        pytest.param(
            ModelConfig("m", "/m", version_policy=All()), None, id="not for another"
        ),
    ],
)
def test_the_default_counts(
    model: ModelConfig, expected: ServedVersions | None
) -> None:
    default = ModelOptions("resource_preserving", Pinned(7))

    assert effective_options(model, default).served_versions == expected


@pytest.mark.parametrize(
    "policy", [Latest(), Latest(3), All(), Specific((1, 2)), Specific(())], ids=str
)
def test_a_config_survives_the_wire(policy: model_server_config.VersionPolicy) -> None:
    model = ModelConfig("m", "/m", version_policy=policy, version_labels={"a": 1})
    config = ModelServerConfig((model,))

    message = model_server_config.to_proto(config)
    assert model_server_config.from_proto(message) == config
