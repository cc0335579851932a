"""Estimates and the pool they are taken from."""

from collections.abc import Hashable
from pathlib import Path

import pytest

from servable.core.resources import ResourcePool, estimate_from_files
from servable.core.servable_id import ServableId

M1, M2 = ServableId("m", 1), ServableId("m", 2)


def test_an_estimate_is_a_fifth_more_than_all_files(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x" * 100)
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(b"x" * 50)

    assert estimate_from_files(tmp_path) == 180


def test_an_estimate_adds_what_is_needed_while_loading(tmp_path: Path) -> None:
    assert estimate_from_files(tmp_path, transient_bytes=7) == 7


def test_a_single_file_can_be_estimated(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x" * 10)

    assert estimate_from_files(tmp_path / "model") == 12


def test_a_directory_that_is_linked_into_itself_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "again").symlink_to(tmp_path)

    assert estimate_from_files(tmp_path) == 12


def test_what_is_not_there_cannot_be_estimated(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        estimate_from_files(tmp_path / "none")


@pytest.mark.parametrize(
    ("size_bytes", "fits"),
    [
        pytest.param(59, True, id="below the limit"),
        pytest.param(60, True, id="at the limit"),
        pytest.param(61, False, id="above the limit"),
    ],
)
def test_a_limit_counts_all_servables_together(size_bytes: int, fits: bool) -> None:
    pool = ResourcePool(limit_bytes=100)
    pool.reserve(M1, 40)

    assert pool.reserve(M2, size_bytes) is fits


def test_a_new_reservation_takes_the_place_of_the_old() -> None:
    pool = ResourcePool(limit_bytes=100)
    pool.reserve(M1, 90)
    pool.reserve(M1, 100)

    assert repr(pool) == "<ResourcePool 100 of 100>"


def test_what_is_released_can_be_reserved() -> None:
    pool = ResourcePool(limit_bytes=100)
    pool.reserve(M1, 100)
    pool.release(M1)
    pool.release(M1)

    assert pool.reserve(M2, 100)


def test_without_a_limit_everything_fits() -> None:
    assert ResourcePool().reserve(M1, 2**62)


@pytest.mark.parametrize(
    ("shared", "size_bytes", "fits"),
    [
        pytest.param({"words": 50}, 30, True, id="what both have counts once"),
        pytest.param({"words": 50}, 31, False, id="and counts"),
        pytest.param({"other": 50}, 0, False, id="what one has does not"),
        pytest.param({"words": 60}, 20, True, id="the larger estimate of it counts"),
        pytest.param({"words": 60}, 21, False, id="to the byte"),
    ],
)
def test_what_servables_share(
    shared: dict[Hashable, int], size_bytes: int, fits: bool
) -> None:
    pool = ResourcePool(limit_bytes=100)
    assert pool.reserve(M1, 20, {"words": 50})

    assert pool.reserve(M2, size_bytes, shared) is fits


def test_what_is_shared_goes_with_the_last_who_has_it() -> None:
    pool = ResourcePool(limit_bytes=100)
    pool.reserve(M1, 20, {"words": 50})
    pool.reserve(M2, 30, {"words": 50})

    assert (pool.release(M1), pool.reserved_bytes) == (20, 80)
    assert (pool.release(M2), pool.reserved_bytes) == (80, 0)


def test_trying_out_changes_nothing() -> None:
    pool = ResourcePool(limit_bytes=100)
    pool.reserve(M1, 20, {"words": 50})
    trial = pool.copy()

    assert trial.reserve(M2, 30, {"words": 50})
    assert not trial.reserve(M2, 31, {"words": 50})
    assert pool.reserved_bytes == 70


def test_a_limit_that_is_a_guess_spares_the_only_version_of_a_model() -> None:
    pool = ResourcePool(100, spares_the_only_one=True)

    first = pool.reserve(ServableId("m", 1), 150)
    beside_it = pool.reserve(ServableId("m", 2), 1)
    of_another_model = pool.reserve(ServableId("n", 1), 150)
    tried = pool.copy().reserve(ServableId("o", 1), 150)
    again = pool.reserve(ServableId("m", 1), 160)

    assert (first, beside_it, of_another_model, tried, again) == (
        True,
        False,
        True,
        True,
        True,
    )
