"""The platform "tensorflow" up to the point where TensorFlow takes over."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

_engine = pytest.importorskip("servable._engine")

from servable.apis import config_pb2  # noqa: E402
from servable.config.batching_parameters import BatchingParameters  # noqa: E402
from servable.config.model_batching import (  # noqa: E402
    EngineBatching,
    ModelBatching,
)
from servable.config.session_config import (  # noqa: E402
    SessionFlags,
    read_session_config,
)
from servable.core.servable_id import ServableId  # noqa: E402
from servable.core.storage_path import StoragePath  # noqa: E402
from servable.errors import (  # noqa: E402
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    Unimplemented,
)
from servable.platforms.tensorflow import (  # noqa: E402
    SavedModelLoader,
    TensorFlowPlatform,
)
from servable.platforms.tensorflow_library import (  # noqa: E402
    LIBRARY,
    TensorFlowLibrary,
)


class FakeServable:
    def __init__(self) -> None:
        self.is_closed = False
        self.batching: EngineBatching | None = None

    def set_batching(self, batching: EngineBatching) -> None:
        self.batching = batching

    def close(self) -> bool:
        self.is_closed = True
        return True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What TensorFlow was asked to open, and by a thread of which niceness."""
    calls: list[tuple[Any, ...]] = []

    def load_saved_model(
        *arguments: Any,
        inter_op_in_caller: bool,
        session_target: str,
        load_run_options: bytes,
        fixed_inputs: Sequence[tuple[str, bytes]],
    ) -> FakeServable:
        del session_target, load_run_options, fixed_inputs
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        calls.append((*arguments, inter_op_in_caller, nice))
        return FakeServable()

    monkeypatch.setattr(_engine, "load_saved_model", load_saved_model)
    monkeypatch.setattr(LIBRARY, "open", lambda: "2.21.0")
    return calls


NOT_BATCHED = ModelBatching(None)


def loader(
    path: Path, batching: ModelBatching = NOT_BATCHED, tags: str = "serve"
) -> SavedModelLoader:
    platform = TensorFlowPlatform(b"config", [tags], batching=batching.of)
    return platform.loader(ServableId("m", 1), StoragePath(str(path)))


def saved_model(path: Path) -> Path:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"1234567890")
    (path / "variables" / "variables.index").write_bytes(b"12345")
    (path / "variables" / "variables.data-00000-of-00001").write_bytes(b"12345")
    return path


def test_what_the_session_file_says_of_devices_reaches_the_session(
    opened: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "session"
    file.write_text(
        'allow_soft_placement: true device_count { key: "GPU" value: 1 } '
        'gpu_options { allow_growth: true visible_device_list: "1,0" }'
    )
    config = read_session_config(
        SessionFlags(session_config_file=str(file), per_process_gpu_memory_fraction=0.5)
    )
    platform = TensorFlowPlatform(config, ["serve"])
    path = StoragePath(str(saved_model(tmp_path / "1")))
    platform.loader(ServableId("m", 1), path).load()

    passed = config_pb2.ConfigProto.FromString(opened[0][2])
    assert passed.allow_soft_placement
    assert dict(passed.device_count) == {"GPU": 1}
    assert passed.gpu_options.allow_growth
    assert passed.gpu_options.visible_device_list == "1,0"
    assert passed.gpu_options.per_process_gpu_memory_fraction == 0.5


def test_a_complete_model_is_opened_with_tags_and_session_config(
    opened: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    path = saved_model(tmp_path / "1")
    under_test = loader(path, tags="a")

    under_test.load()

    assert opened[0][:4] == (str(path), ("a",), b"config", True)
    servable = cast("FakeServable", under_test.servable())
    under_test.unload()
    assert servable.is_closed


def test_an_unloaded_model_has_no_servable(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition):
        loader(tmp_path).servable()


def session_bundle(path: Path) -> None:
    saved_model(path)
    (path / "export.meta").touch()


def without_a_shard(path: Path) -> None:
    saved_model(path)
    (path / "variables" / "variables.data-00000-of-00001").unlink()


NOT_FOUND = (
    "Specified file path does not appear to contain a SavedModel bundle (should have "
    "a file called `saved_model.pb`)\nSpecified file path: {path}"
)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        pytest.param(
            session_bundle,
            Unimplemented,
            "Session Bundle is deprecated and removed.",
            id="a session bundle",
        ),
        pytest.param(Path.mkdir, NotFound, NOT_FOUND, id="an empty directory"),
        pytest.param(Path.touch, NotFound, NOT_FOUND, id="a file"),
        pytest.param(
            without_a_shard,
            Unavailable,
            "The SavedModel at {path} is not complete: variables/variables.data is "
            "missing, or of several writes",
            id="a copy that is not finished",
        ),
    ],
)
def test_what_is_not_opened(
    make: Callable[[Path], object],
    error: type[ServingError],
    message: str,
    opened: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "1"
    make(path)

    with pytest.raises(error) as caught:
        loader(path).load()

    assert caught.value.message == message.format(path=path)
    assert not opened


def test_parameters_of_batching_that_are_wrong_come_first(
    opened: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    wrong = ModelBatching(BatchingParameters(allowed_batch_sizes=(2,)))

    with pytest.raises(InvalidArgument):
        loader(saved_model(tmp_path / "1"), wrong).load()

    assert not opened


def test_the_engine_is_told_how_a_version_is_batched(
    opened: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    under_test = loader(
        saved_model(tmp_path / "1"), ModelBatching(BatchingParameters(max_batch_size=7))
    )

    under_test.load()

    assert opened
    batching = cast("FakeServable", under_test.servable()).batching
    assert batching is not None
    assert batching.max_batch_size == 7


@pytest.mark.usefixtures("opened")
def test_what_tensorflow_says_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        error = _engine.EngineError("x")
        error.code, error.message = 5, "Could not find meta graph def"
        raise error

    monkeypatch.setattr(_engine, "load_saved_model", fail)

    with pytest.raises(NotFound, match="Could not find meta graph def"):
        loader(saved_model(tmp_path / "1")).load()


def test_only_loads_after_the_first_give_way_to_serving(
    opened: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    platform = TensorFlowPlatform(b"", ["serve"])
    path = StoragePath(str(saved_model(tmp_path / "1")))

    def load() -> None:
        platform.loader(ServableId("m", 1), path).load()

    for _ in range(2):
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()

    first, second = (call[-1] for call in opened)
    assert second > first
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert mine == first


def test_the_estimate_is_a_fifth_more_than_the_files(tmp_path: Path) -> None:
    path = saved_model(tmp_path / "1")
    (path / "gone").symlink_to(tmp_path / "none")

    assert loader(path).estimate_resources() == 24


def test_a_plain_file_has_an_estimate_and_is_refused_when_it_is_loaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "1").write_bytes(b"1234567890")

    assert loader(tmp_path / "1").estimate_resources() == 12


def test_a_directory_that_cannot_be_read_has_no_estimate(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        loader(tmp_path / "none").estimate_resources()


def test_a_missing_tensorflow_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(FailedPrecondition, match="TensorFlow is not installed"):
        TensorFlowLibrary().open()


def test_a_library_that_does_not_fit_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: str) -> None:
        error = _engine.EngineError("x")
        error.code, error.message = 9, "too old"
        raise error

    monkeypatch.setattr(_engine, "load_tensorflow", refuse)

    with pytest.raises(FailedPrecondition, match="too old"):
        TensorFlowLibrary().open()


def test_the_library_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    directories: list[str] = []

    def load(directory: str) -> str:
        directories.append(directory)
        return "2.21.0"

    monkeypatch.setattr(_engine, "load_tensorflow", load)
    library = TensorFlowLibrary()

    assert [library.open(), library.open()] == ["2.21.0", "2.21.0"]
    assert len(directories) == 1
