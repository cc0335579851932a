"""The serving map: whole snapshots, in order."""

import threading

from servable.core.servable_id import ServableId
from servable.core.serving_map import ServingMap, ServingSnapshot

M1, M2, N1 = ServableId("m", 1), ServableId("m", 2), ServableId("n", 1)


def test_each_change_publishes_a_whole_snapshot() -> None:
    published: list[ServingSnapshot] = []
    serving_map = ServingMap(published.append)

    serving_map.add(M1, "m1")
    serving_map.add(M2, "m2")
    serving_map.set_labels({"m": {"canary": 2}})
    serving_map.add(N1, "n1")
    serving_map.remove(M1)

    labels = {"m": {"canary": 2}}
    assert published == [
        ServingSnapshot({"m": {1: "m1"}}, {}),
        ServingSnapshot({"m": {1: "m1", 2: "m2"}}, {}),
        ServingSnapshot({"m": {1: "m1", 2: "m2"}}, labels),
        ServingSnapshot({"m": {1: "m1", 2: "m2"}, "n": {1: "n1"}}, labels),
        ServingSnapshot({"m": {2: "m2"}, "n": {1: "n1"}}, labels),
    ]


def test_a_stream_without_servables_is_not_in_the_map() -> None:
    serving_map = ServingMap(lambda _: None)
    serving_map.add(M1, "m1")

    serving_map.remove(M1)

    assert serving_map.snapshot.servables == {}


def test_a_snapshot_never_changes_once_it_is_published() -> None:
    published: list[ServingSnapshot] = []
    serving_map = ServingMap(published.append)
    serving_map.add(M1, "m1")
    before = dict(published[0].servables["m"])

    serving_map.add(M2, "m2")

    assert published[0].servables["m"] == before


def test_readers_never_go_back_in_time() -> None:
    published: list[int] = []
    serving_map = ServingMap(lambda s: published.append(len(s.servables.get("m", {}))))

    def add(first: int) -> None:
        for version in range(first, first + 100):
            serving_map.add(ServableId("m", version), "servable")

    threads = [threading.Thread(target=add, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert published == list(range(1, 401))
