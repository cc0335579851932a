"""docs/compatibility.md names everything there is, and proves what it says."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.message import Message

from servable.apis import (
    file_system_storage_path_source_pb2,
    log_collector_config_pb2,
    logging_config_pb2,
    model_server_config_pb2,
    model_service_pb2,
    monitoring_config_pb2,
    platform_config_pb2,
    prediction_service_pb2,
    saved_model_bundle_source_adapter_pb2,
    session_bundle_config_pb2,
    ssl_config_pb2,
    thread_pool_factory_config_pb2,
)
from servable.cli.flags import FLAGS, Flag

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
RECORDINGS = ROOT.parent / "shared" / "conformance" / "cases"

VERDICTS = {"same", "better", "no effect", "not yet", "ours"}
UNPROVEN = "none yet"

SERVICES = (prediction_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR)
MESSAGES: tuple[type[Message], ...] = (
    model_server_config_pb2.ModelServerConfig,
    model_server_config_pb2.ModelConfigList,
    model_server_config_pb2.ModelConfig,
    file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy,
    logging_config_pb2.LoggingConfig,
    logging_config_pb2.SamplingConfig,
    log_collector_config_pb2.LogCollectorConfig,
    ssl_config_pb2.SSLConfig,
    monitoring_config_pb2.MonitoringConfig,
    monitoring_config_pb2.PrometheusConfig,
    session_bundle_config_pb2.BatchingParameters,
    session_bundle_config_pb2.SessionBundleConfig,
    session_bundle_config_pb2.ModelWarmupOptions,
    platform_config_pb2.PlatformConfigMap,
    platform_config_pb2.PlatformConfig,
    saved_model_bundle_source_adapter_pb2.SavedModelBundleSourceAdapterConfig,
    thread_pool_factory_config_pb2.ThreadPoolFactoryConfig,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what it is about, the verdict, what is here, and what shows it."""

    subject: str
    verdict: str
    here: str
    shown_by: tuple[str, ...]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows(text: str) -> Iterator[Row]:
    """Yield the rows of all tables with a verdict."""
    is_inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_inside = False
        elif line.endswith("| shown by |"):
            is_inside = True
        elif is_inside and not line.startswith("|---"):
            subject, verdict, here, shown_by = cells(line)
            yield Row(subject, verdict, here, tuple(shown_by.split(", ")))


ROWS = list(rows(PAGE))


def section(title: str) -> str:
    return re.split(r"^#+ ", PAGE.split(f"# {title}\n", 1)[1], flags=re.MULTILINE)[0]


def flag_rows() -> dict[str, Row]:
    return {row.subject.strip("`"): row for row in rows(section("Flags"))}


def test_every_flag_has_one_row_and_no_other_has() -> None:
    subjects = [row.subject for row in rows(section("Flags"))]

    assert Counter(subjects) == Counter(f"`{flag.name}`" for flag in FLAGS)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_is_said_to_do_what_it_does(flag: Flag) -> None:
    row = flag_rows()[flag.name]

    if flag.inert:
        assert row.verdict in {"no effect", "not yet"}
    elif flag.is_ours:
        assert row.verdict in {"ours", "not yet"}
    else:
        assert row.verdict in {"same", "better", "not yet"}


def test_every_rpc_has_one_row() -> None:
    subjects = Counter(row.subject for row in ROWS)

    for file in SERVICES:
        for service in file.services_by_name.values():
            for method in service.methods:
                assert subjects[f"`{service.name}.{method.name}`"] == 1


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_configuration_field_has_one_row_and_no_other_has(
    message: type[Message],
) -> None:
    about = re.compile(rf"`{message.__name__}\.\w+`")
    subjects = [row.subject for row in ROWS if about.fullmatch(row.subject)]

    assert Counter(subjects) == Counter(
        f"`{message.__name__}.{field.name}`" for field in message.DESCRIPTOR.fields
    )


def test_verdicts_are_those_explained() -> None:
    assert {row.verdict for row in ROWS} == VERDICTS


def test_what_is_not_the_same_says_how() -> None:
    silent = {row.subject for row in ROWS if row.verdict != "same" and not row.here}

    assert silent == set()


def test_what_shows_it_exists() -> None:
    references = [(row.subject, test) for row in ROWS for test in row.shown_by]

    assert [reference for reference in references if not exists(reference[1])] == []


def test_references_in_prose_exist() -> None:
    references = set(re.findall(r"(?:tests|engine)/[\w/]+\.(?:py|rs)::\w+", PAGE))

    assert [reference for reference in references if not exists(reference)] == []


def test_each_deviation_is_named_once() -> None:
    named = Counter(re.findall(r"`case:([^`\s]+)`", PAGE))

    assert [case for case, times in named.items() if times > 1] == []


def test_deviations_are_recorded_cases() -> None:
    if not RECORDINGS.is_dir():
        pytest.skip("the recordings are not beside the repository")
    known = {
        json.loads(line)["id"]
        for path in RECORDINGS.glob("*.jsonl")
        for line in path.read_text().splitlines()
    }

    assert set(re.findall(r"`case:([^`\s]+)`", PAGE)) <= known


def exists(reference: str) -> bool:
    """Return whether the test, or the recorded area, that is referred to is there."""
    if reference == UNPROVEN:
        return True
    if reference.startswith("recorded:"):
        area = reference.removeprefix("recorded:")
        return not RECORDINGS.is_dir() or (RECORDINGS / f"{area}.jsonl").is_file()
    file, _, name = reference.partition("::")
    path = ROOT / file
    if not name or not path.is_file():
        return False
    keyword = "def" if path.suffix == ".py" else "fn"
    return re.search(rf"\b{keyword} {name}\(", path.read_text()) is not None
