"""How a command line is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.cli.flags import FLAGS, Flag, FlagType, FlagValue, parse, usage
from servable.config.server_options import ServerOptions

TABLE = (
    Flag("port", FlagType.INT32, 8500, "A port."),
    Flag("wait", FlagType.INT64, 1, "A time."),
    Flag("name", FlagType.STRING, "default", "A name."),
    Flag("share", FlagType.FLOAT, 0.0, "A share."),
    Flag("on", FlagType.BOOL, default=False, help="A switch."),
    Flag("idle", FlagType.BOOL, default=True, help="Nothing.", inert="why"),
    Flag(
        "idle_off",
        FlagType.BOOL,
        default=False,
        help="Nothing.",
        inert="why",
        behaves_as=False,
    ),
)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        pytest.param("", "port", 8500, id="a flag not given has its default"),
        pytest.param("--port=1", "port", 1, id="name=value"),
        pytest.param("--port=-7", "port", -7, id="a negative number"),
        pytest.param("--port=+7", "port", 7, id="a plus sign"),
        pytest.param("--port=007", "port", 7, id="leading zeros are decimal"),
        pytest.param("--port=1 --port=2", "port", 2, id="the last one wins"),
        pytest.param("--port 1", "port", 1, id="name and value apart"),
        pytest.param("--wait -1", "wait", -1, id="a negative number apart"),
        pytest.param("--wait=9223372036854775807", "wait", 2**63 - 1, id="int64"),
        pytest.param("--name=", "name", "", id="an empty string"),
        pytest.param("--name=a=b", "name", "a=b", id="the first = counts"),
        pytest.param("--name=--on", "name", "--on", id="a value that is like a flag"),
        pytest.param("--share=0.5", "share", 0.5, id="a fraction"),
        pytest.param("--share=1e-1", "share", 0.1, id="an exponent"),
        pytest.param("--share=2", "share", 2.0, id="a whole float"),
        pytest.param("--on", "on", True, id="a bool alone is true"),
        pytest.param("--on=TRUE", "on", True, id="the case does not matter"),
        pytest.param("--on=1", "on", True, id="1 is true"),
        pytest.param("--on=False", "on", False, id="False is false"),
        pytest.param("--on=0", "on", False, id="0 is false"),
        pytest.param("--on false", "on", True, id="a bool takes no word after it"),
    ],
)
def test_values(line: str, name: str, value: FlagValue) -> None:
    parsed = parse(line.split(), TABLE)

    assert parsed.values[name] == value
    assert type(parsed.values[name]) is type(value)
    assert parsed.given == ({name} if line else set())
    assert not parsed.malformed


@pytest.mark.parametrize(
    "argument",
    [
        "--port=abc",
        "--port=85x",
        "--port=",
        "--port=8500 ",
        "--port=1.0",
        "--port=1_0",
        "--port=\u0661",
        "--port=99999999999",
        "--port=2147483648",
        "--port=-2147483649",
        "--wait=9223372036854775808",
        "--wait=" + "9" * 10_000,
        "--on=maybe",
        "--on=yes",
        "--on=",
        "--share=x",
        "--share=nan",
        "--share=1_0",
        "--share=",
    ],
)
def test_values_that_cannot_be_read(argument: str) -> None:
    parsed = parse([argument], TABLE)

    name, _, text = argument.removeprefix("--").partition("=")
    assert parsed.malformed == ((name, text),)
    assert parsed.given == set()


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        pytest.param("--nope", ["--nope"], id="a flag that does not exist"),
        pytest.param("--aa=1 --bb=2", ["--aa=1", "--bb=2"], id="two, in order"),
        pytest.param("extra", ["extra"], id="a word"),
        pytest.param("-port=1", ["-port=1"], id="a single dash"),
        pytest.param("--Port=1", ["--Port=1"], id="another case"),
        pytest.param("--po=1", ["--po=1"], id="a beginning of a name"),
        pytest.param("-- --port=1", ["--", "--port=1"], id="what follows two dashes"),
        pytest.param("--port --on", ["--port"], id="a value that is missing"),
        pytest.param("--port", ["--port"], id="a value that is missing at the end"),
        pytest.param("--on false", ["false"], id="a word after a bool"),
        pytest.param("--=1", ["--=1"], id="no name"),
    ],
)
def test_unknown_arguments(line: str, unknown: list[str]) -> None:
    parsed = parse(line.split(), TABLE)

    assert list(parsed.unknown) == unknown
    assert parsed.values["port"] == 8500


def test_help_is_noticed_until_the_flags_end() -> None:
    assert parse(["--help"], TABLE).wants_help
    assert not parse(["--", "--help"], TABLE).wants_help
    assert not parse(["--name", "--help"], TABLE).given


def test_words_are_positional() -> None:
    assert parse(["a", "-x", "--y", "b"], TABLE).positional == ("a", "b")


def test_flags_without_effect_are_named_when_given() -> None:
    parsed = parse(["--idle", "--idle_off=false", "--on"], TABLE)

    assert [flag.name for flag in parsed.without_effect(TABLE)] == ["idle"]


def _value(flag: Flag) -> st.SearchStrategy[FlagValue]:
    match flag.type:
        case FlagType.BOOL:
            return st.booleans()
        case FlagType.INT32:
            return st.integers(-(2**31), 2**31 - 1)
        case FlagType.INT64:
            return st.integers(-(2**63), 2**63 - 1)
        case FlagType.FLOAT:
            return st.floats(allow_nan=False, allow_infinity=False)
        case FlagType.STRING:
            return st.text()


_settings = st.lists(
    st.sampled_from(TABLE).flatmap(
        lambda flag: st.tuples(st.just(flag.name), _value(flag))
    )
)


@given(_settings)
def test_what_is_written_is_read_back(pairs: list[tuple[str, FlagValue]]) -> None:
    parsed = parse([f"--{name}={value}" for name, value in pairs], TABLE)

    expected = {flag.name: flag.default for flag in TABLE} | dict(pairs)
    assert parsed.values == expected
    assert parsed.given == dict(pairs).keys()
    assert not parsed.unknown


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--", "--on", "--port", "="])))
def test_every_argument_is_accounted_for(arguments: list[str]) -> None:
    parsed = parse(arguments, TABLE)

    assert parsed.values.keys() == {flag.name for flag in TABLE}
    assert set(parsed.unknown) <= set(arguments)
    if not parsed.given and not parsed.malformed and not parsed.wants_help:
        assert list(parsed.unknown) == arguments


def test_usage_lists_every_flag_with_default_type_and_help() -> None:
    text = usage("server", TABLE)

    assert text.startswith("usage: server\nFlags:\n")
    lines = {line.split()[0]: line for line in text.splitlines()[2:]}
    assert lines["--port=8500"].split() == ["--port=8500", "int32", "A", "port."]
    assert '--name="default"' in lines
    assert "--on=false" in lines
    assert lines["--idle=true"].endswith("Nothing. No effect: why.")


def test_the_table_has_upstreams_flags_and_ours() -> None:
    names = [flag.name for flag in FLAGS]

    assert len(set(names)) == len(names)
    assert sum(not flag.is_ours for flag in FLAGS) == 48


def test_the_defaults_of_flags_and_options_agree() -> None:
    assert ServerOptions.from_flags(parse([], FLAGS).values, given=()) == (
        ServerOptions()
    )
