"""Routers and adapters: who hears what, and what becomes of errors."""

from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.source_adapter import SourceAdapter
from servable.core.source_router import SourceRouter, refuse_unrouted
from servable.errors import Code, NotFound
from servable.testing import FakeSource, FakeTarget


def data(name: str, version: int, text: str) -> ServableData[str]:
    return ServableData(ServableId(name, version), text, attempt=text)


def test_a_name_goes_where_it_is_routed() -> None:
    a, b, other = FakeTarget[str](), FakeTarget[str](), FakeTarget[str]()
    router = SourceRouter({"m": a, "n": b}, other)

    router.set_aspired_versions("n", [data("n", 1, "x")])
    router.set_aspired_versions("unknown", [])

    assert (a.aspired, list(b.aspired), list(other.aspired)) == ({}, ["n"], ["unknown"])


def test_routes_can_change() -> None:
    a, b = FakeTarget[str](), FakeTarget[str]()
    router = SourceRouter({"m": a}, FakeTarget[str]())

    router.set_routes({"m": b})
    router.set_aspired_versions("m", [])

    assert (a.aspired, b.aspired) == ({}, {"m": []})


def test_what_no_platform_takes_carries_the_error() -> None:
    target = FakeTarget[object]()
    adapter: SourceAdapter[str, object] = SourceAdapter(refuse_unrouted, target)

    adapter.set_aspired_versions("m", [data("m", 1, "x")])

    (version,) = target.aspired["m"]
    assert version.error is not None
    assert version.error.status_text == "INTERNAL: No platform found for model"


def test_an_adapter_converts_and_keeps_id_and_attempt() -> None:
    target, source = FakeTarget[int](), FakeSource[str]()
    source.set_target(SourceAdapter(lambda _, text: len(text), target))

    source.aspire("m", data("m", 2, "four"))

    assert target.aspired["m"] == [ServableData(ServableId("m", 2), 4, attempt="four")]


def test_one_bad_conversion_leaves_the_others_alone() -> None:
    target, source = FakeTarget[int](), FakeSource[str]()
    source.set_target(SourceAdapter(lambda _, text: int(text), target))

    source.aspire("m", data("m", 1, "1"), data("m", 2, "two"))

    codes = [v.error.code if v.error else None for v in target.aspired["m"]]
    assert codes == [None, Code.INVALID_ARGUMENT]


def test_an_error_of_the_source_passes_through() -> None:
    target, source = FakeTarget[int](), FakeSource[str]()
    source.set_target(SourceAdapter(lambda _, text: int(text), target))
    error = NotFound("no such file")

    source.aspire("m", ServableData(ServableId("m", 1), error=error, attempt=3))

    assert target.aspired["m"] == [
        ServableData(ServableId("m", 1), error=error, attempt=3)
    ]
