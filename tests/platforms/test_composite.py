"""What a `composite.toml` says, and which of them are refused."""

import json

import pytest

from servable.errors import InvalidArgument

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.platforms.composite import parse

GOOD = """
[inputs]
x = { dtype = "string", shape = [-1] }

[outputs]
y = { dtype = "float32", shape = [-1, 3], from = "second.y" }

[[parts]]
name = "first"
shards = ["a", "b"]
route_by = "keys"
inputs = { keys = "x" }

[[parts]]
name = "second"
model = "c"
version = 3
inputs = { left = "first.value", right = "first.other" }
"""


def test_parts_have_the_outputs_that_are_used() -> None:
    composite = parse(GOOD)

    first, second = json.loads(composite.to_json())["parts"]
    assert (first["models"], first["route_by"]) == (["a", "b"], "keys")
    assert first["outputs"] == ["other", "value"]
    assert (second["version"], second["outputs"]) == (3, ["y"])
    assert composite.signature.outputs["y"].shape == (None, 3)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("[inputs]", "[input]", "composite.toml: unknown field input"),
        (
            'x = { dtype = "string", shape = [-1] }',
            'x = { dtype = "string" }',
            "composite.toml: inputs.x: shape is no list of sizes",
        ),
        (
            'x = { dtype = "string"',
            'x = { dtype = "text"',
            "composite.toml: inputs.x: 'text' names no type of tensor",
        ),
        (
            'from = "second.y"',
            'from = "third.y"',
            "composite.toml: outputs.y: there is no 'third.y' before it; there are x, "
            "first.OUTPUT, second.OUTPUT",
        ),
        (
            'keys = "x"',
            'keys = "second.y"',
            "composite.toml: part first, inputs.keys: there is no 'second.y' before "
            "it; there are x",
        ),
        (
            'name = "second"',
            'name = "first"',
            "composite.toml: two parts are called first",
        ),
        (
            'name = "second"',
            'name = "a.b"',
            "composite.toml: part a.b: a name has no dot",
        ),
        (
            'model = "c"',
            'model = "c"\nshards = ["d"]',
            "composite.toml: part second has either a model or shards",
        ),
        (
            'route_by = "keys"',
            'route_by = "key"',
            "composite.toml: part first: route_by names no input of it",
        ),
        ('route_by = "keys"', "", "composite.toml: part first has no route_by"),
        (
            'shards = ["a", "b"]',
            "shards = []",
            "composite.toml: part first: shards is no list of models",
        ),
        (
            "version = 3",
            'version = 3\nlabel = "x"',
            "composite.toml: part second has either a version or a label",
        ),
        (
            "version = 3",
            'version = "3"',
            "composite.toml: part second: version is '3'",
        ),
        (
            "version = 3",
            "versoin = 3",
            "composite.toml: part second: unknown field versoin",
        ),
        (
            'from = "second.y"',
            'from = "first.y"',
            "composite.toml: nothing uses part second",
        ),
    ],
)
def test_what_is_refused_names_its_field(old: str, new: str, text: str) -> None:
    assert old in GOOD

    with pytest.raises(InvalidArgument) as caught:
        parse(GOOD.replace(old, new))

    assert caught.value.message == text


@pytest.mark.parametrize("text", ["", "=", "[inputs]\nx = 1", "parts = 1"])
def test_what_is_no_composite_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"composite\.toml"):
        parse(text)
