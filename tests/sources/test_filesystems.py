"""How often stores that are down are asked, and what is said of them."""

import importlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from servable.errors import Code
from servable.sources import filesystems
from servable.sources.object_store import ObjectStore
from servable.sources.store_source import what_failed

pytestmark = pytest.mark.filterwarnings(
    # aiohttp's sessions live as long as fsspec's loop, which is as long as the process.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

ACCOUNT = "devstoreaccount1"
STORES = {
    "s3": {
        "AWS_ENDPOINT_URL": "{url}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    },
    "gs": {"STORAGE_EMULATOR_HOST": "{url}"},
    "az": {
        "AZURE_STORAGE_CONNECTION_STRING": (
            f"AccountName={ACCOUNT};AccountKey=eA==;BlobEndpoint={{url}}/{ACCOUNT};"
        )
    },
    "hf": {},
    "http": {},
}
PACKAGES = {
    "s3": "s3fs.S3FileSystem",
    "gs": "gcsfs.core.GCSFileSystem",
    "az": "adlfs.AzureBlobFileSystem",
    "hf": "huggingface_hub.HfFileSystem",
    "http": "fsspec.implementations.http.HTTPFileSystem",
}


@pytest.fixture(params=STORES)
def asked(
    request: pytest.FixtureRequest, broken_line: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ObjectStore, Any]]:
    """Return a store of each kind, and the line to it."""
    scheme = request.param
    module, _, name = PACKAGES[scheme].rpartition(".")
    file_system = getattr(pytest.importorskip(module), name)
    with broken_line(to_port=0) as line:
        for variable, value in STORES[scheme].items():
            monkeypatch.setenv(variable, value.format(url=line.url))
        if scheme == "hf":
            # The package reads its environment only when it is imported.
            fsspec = importlib.import_module("fsspec")
            monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": line.url})
        filesystems.forget()
        file_system.clear_instance_cache()
        place = line.url if scheme == "http" else f"{scheme}://some/models"
        yield ObjectStore(f"{place}/m"), line
        filesystems.forget()
        file_system.clear_instance_cache()


def test_a_store_that_answers_with_faults_is_asked_at_most_twice(
    asked: tuple[ObjectStore, Any],
) -> None:
    store, line = asked
    line.refuses = 503

    with pytest.raises(Exception, match=r"503|Service Unavailable"):
        list(store.children())
    assert 1 <= len(line.asked) <= 2


def test_a_store_that_ends_connections_is_not_asked_for_long(
    asked: tuple[ObjectStore, Any],
) -> None:
    store, line = asked
    line.is_cut = True

    with pytest.raises(Exception, match=r"(?i)disconnect|connection"):
        list(store.children())
    # aiohttp asks at once again where a connection ends.
    assert 1 <= len(line.asked) <= 4


@pytest.mark.parametrize("fault", [{"refuses": 503}, {"is_cut": True}])
def test_a_store_that_is_down_is_unavailable(
    fault: dict[str, Any], asked: tuple[ObjectStore, Any]
) -> None:
    store, line = asked
    for name, value in fault.items():
        setattr(line, name, value)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library's own
        list(store.children())
    error = what_failed(caught.value)

    assert error.code is Code.UNAVAILABLE
    assert len(error.message.splitlines()) == 1


def test_looking_for_credentials_of_one_store_does_not_hold_up_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fsspec")
    looking, found = threading.Event(), threading.Event()

    def look(_scheme: str, _patience: filesystems.Patience) -> str:
        looking.set()
        assert found.wait(30.0)
        return "gs"

    slow = filesystems.Kind("fsspec", "gcs", look)
    monkeypatch.setattr(filesystems, "KINDS", {**filesystems.KINDS, "gs": slow})
    filesystems.forget()
    thread = threading.Thread(target=filesystems.filesystem, args=["gs://b"])
    thread.start()
    assert looking.wait(30.0)
    try:
        assert filesystems.filesystem("memory://m")
    finally:
        found.set()
        thread.join()
        filesystems.forget()


def test_who_writes_is_more_patient_than_who_looks() -> None:
    pytest.importorskip("s3fs")
    patience = [filesystems.READING, filesystems.WRITING, filesystems.READING]
    made = [filesystems.filesystem("s3://b/m", each) for each in patience]
    limits = [each.config_kwargs["read_timeout"] for each in made]

    assert limits == [20.0, 300.0, 20.0]
    assert made[0] is made[2]


def test_an_account_in_the_url_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("adlfs")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "eA==")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    filesystems.forget()
    urls = [
        "abfss://c@one.dfs.core.windows.net/m",
        "abfss://c@two.dfs.core.windows.net/m",
        "az://c/m",
    ]
    asked = [filesystems.filesystem(url).account_url for url in urls]
    filesystems.forget()

    assert asked == [
        f"https://{account}.blob.core.windows.net" for account in ("one", "two", "mine")
    ]
