"""`servable` and its commands, as far as nothing is served."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from servable.cli import commands
from servable.cli.commands import servable
from servable.cli.flags import parse
from servable.cli.serve import SERVE_FLAGS, with_directories
from servable.sources.database import publish


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(servable, arguments, prog_name="servable")
    return result.exit_code, result.output


def test_help_lists_every_command() -> None:
    code, output = invoke("--help")

    assert code == 0
    for name, command in commands.COMMANDS.items():
        assert name in output
        assert command.help.split()[0] in output


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_is_where_the_table_says(name: str) -> None:
    code, output = invoke(name, "--help")

    assert code == 0
    assert output.startswith(f"Usage: servable {name}")


def test_its_own_version_is_an_option_too() -> None:
    _, versions = invoke("version")

    assert invoke("--version") == (0, versions.partition("\n")[0] + "\n")


def test_no_other_command_exists() -> None:
    code, output = invoke("dance")

    assert code == 2
    assert "No such command 'dance'" in output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    code, output = invoke("completion", shell)

    assert code == 0
    assert "_SERVABLE_COMPLETE" in output


def test_flags_are_completed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from servable.cli import main; main()"],
        env={
            "_SERVABLE_COMPLETE": "bash_complete",
            "COMP_WORDS": "servable serve --rest_api_p",
            "COMP_CWORD": "2",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        check=False,
        text=True,
    )

    assert "--rest_api_port" in done.stdout


def modules_after(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_a_server_imports_nothing_that_is_for_people_or_models() -> None:
    modules = modules_after(
        "import servable.cli.tensorflow_model_server, servable.server"
    )

    assert not modules & {"click", "rich", "httpx", "numpy", "tensorflow", "grpc"}


def test_help_imports_no_server() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, servable.cli\n"
            "sys.argv = ['servable', '--help']\n"
            "try: servable.cli.main()\n"
            "except SystemExit: print(*sys.modules)",
        ],
        capture_output=True,
        check=True,
        text=True,
    )

    loaded = done.stdout.split()
    assert "servable.cli.commands" in loaded
    assert "servable.server" not in loaded
    assert "google.protobuf" not in loaded


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["--nope"], "--nope", id="an unknown flag"),
        pytest.param(
            ["--file_system_poll_wait_seconds=0.3"],
            "file_system_poll_wait_seconds: '0.3' is not a whole number of 32 bits",
            id="half a number",
        ),
        pytest.param(
            ["--port=3000000000"],
            "port: '3000000000' is not a whole number of 32 bits",
            id="too large a number",
        ),
        pytest.param(
            ["--enable_batching=maybe"], "'maybe' is not true or false", id="no bool"
        ),
        pytest.param(
            ["--per_process_gpu_memory_fraction=x"],
            "'x' is not a number",
            id="no float",
        ),
        pytest.param(["a", "b"], "One directory can be served", id="two directories"),
        pytest.param(["/no/such"], "/no/such is not a directory", id="no directory"),
    ],
)
def test_serve_refuses_what_it_does_not_understand(
    arguments: list[str], text: str
) -> None:
    code, output = invoke("serve", *arguments)

    assert code == 2
    assert text in " ".join(output.split())


def test_serve_takes_a_directory_for_the_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    parsed = with_directories(parse(["m"], SERVE_FLAGS))
    named = with_directories(parse(["m", "--model_name=n"], SERVE_FLAGS))

    assert parsed.values["model_base_path"] == str(tmp_path / "m")
    assert parsed.values["model_name"] == "m"
    assert named.values["model_name"] == "n"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/models/half_plus_two/", "half_plus_two"),
        ("sqlite:////var/models.db#m", "m"),
        ("models:/m", "m"),
        ("models:/m@champion", "m"),
        ("mlflow://host:5000/m#model/data", "m"),
    ],
)
def test_serve_takes_a_url_for_a_directory(url: str, name: str) -> None:
    parsed = with_directories(parse([url], SERVE_FLAGS))

    assert parsed.values["model_base_path"] == url
    assert parsed.values["model_name"] == name


def test_serve_says_what_to_do_with_a_version(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()

    with pytest.raises(click.UsageError, match="the directory above them"):
        with_directories(parse([str(tmp_path)], SERVE_FLAGS))


def test_serve_opens_rest_and_waits_for_nothing_by_default() -> None:
    values = parse([], SERVE_FLAGS).values

    assert values["rest_api_port"] == 8501
    assert values["rest_api_extensions"] is True
    assert values["wait_for_models"] is False


def saved_model(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"x")


def test_check_shows_what_would_be_served(tmp_path: Path) -> None:
    saved_model(tmp_path / "m" / "1")
    saved_model(tmp_path / "m" / "2")
    (tmp_path / "c").write_text(
        f"model_config_list {{ config {{ name: 'm' base_path: '{tmp_path}/m' "
        "model_platform: 'tensorflow' model_version_policy { all {} } "
        "version_labels { key: 'stable' value: 1 } } }"
    )

    code, output = invoke("check", str(tmp_path / "c"))

    assert code == 0
    assert "1, 2" in output
    assert "all" in output
    assert "needs --allow_version_labels_for_unavailable_models" in output


def test_check_looks_for_savedmodels_where_there_must_be_some(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "table.csv").write_text("word,id\nthe,1\n")
    (tmp_path / "c").write_text(
        f"model_config_list {{ config {{ name: 'm' base_path: '{tmp_path}/m' "
        "model_platform: 'hashmap' } }"
    )

    code, output = invoke("check", str(tmp_path / "c"))

    assert (code, "saved_model.pb" in output) == (0, False)


def test_check_looks_at_other_places_than_directories(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="servable[database] is not installed")
    database = tmp_path / "models.db"
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "saved_model.pb").touch()
    publish(f"sqlite:///{database}", "m", str(tmp_path / "exported"), 7)
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list { "
        f'config {{ name: "m" base_path: "sqlite:///{database}" '
        'model_platform: "tensorflow" } '
        f'config {{ name: "n" base_path: "sqlite:///{tmp_path}/none.db" '
        'model_platform: "tensorflow" } '
        'config { name: "o" base_path: "ftp://x/o" model_platform: "tensorflow" } }'
    )
    code, output = invoke("check", str(config))
    text = " ".join(output.split())

    assert code == 1
    assert " 7 " in text
    assert "n: sqlite:///" in text
    assert "No such file or directory" in text
    assert "o: No source for base paths with ftp://" in text


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        pytest.param(
            "name: 'm' base_path: '{tmp}/none'", "No such file", id="no base path"
        ),
        pytest.param(
            "name: 'm' base_path: '{tmp}'",
            "no directory with a number for a name",
            id="no version",
        ),
        pytest.param(
            "name: 'm' base_path: '{tmp}/m' "
            "model_version_policy {{ specific {{ versions: 7 }} }}",
            "version 7 is not there",
            id="a version that is not there",
        ),
        pytest.param(
            "name: 'm' base_path: '{tmp}/m' version_labels {{ key: 'a' value: 1 }}",
            'label "a" is on version 1, which is not served',
            id="a label on a version that is not served",
        ),
        pytest.param(
            "name: 'm' base_path: '{tmp}/empty'",
            "there is no file saved_model.pb",
            id="a version that is no SavedModel",
        ),
    ],
)
def test_check_finds_what_is_wrong_with_the_files(
    model: str, problem: str, tmp_path: Path
) -> None:
    saved_model(tmp_path / "m" / "1")
    saved_model(tmp_path / "m" / "2")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "c").write_text(
        "model_config_list { config { "
        + model.format(tmp=tmp_path)
        + " model_platform: 'tensorflow' } }"
    )

    code, output = invoke("check", str(tmp_path / "c"))

    assert code == 1
    assert problem in output


def test_check_repeats_what_the_server_would_say(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("garbage")

    code, output = invoke("check", str(tmp_path / "c"))

    assert code == 1
    assert f"INVALID_ARGUMENT: Invalid protobuf file: '{tmp_path}/c'" in output
