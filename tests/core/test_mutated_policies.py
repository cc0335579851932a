"""
The promises of the version policies, and that no changed policy keeps them.

Every set of up to three versions in every state is shown to a policy, and its answer
checked against promises that are written without looking at how it decides.  Then each
operator, call and constant of the policies is changed, one at a time: the checker has
to reject every one of these mutants.
"""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest

from servable.core import version_policy
from servable.core.lifecycle import FINAL, State
from servable.core.servable_id import ServableId
from servable.core.version_policy import (
    Action,
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
    Load,
    ResourcePreservingPolicy,
    Unload,
    VersionSnapshot,
    is_possible,
)

Versions = Sequence[VersionSnapshot]
Promise = Callable[[Versions, Action | None], bool]

STATES = (State.NEW, State.LOADING, State.READY, State.UNLOADING, State.ERROR)


def worlds() -> Iterator[Versions]:
    """Yield every way in which up to three versions can be."""
    ways = list(itertools.product(STATES, (True, False)))
    for count in range(4):
        for world in itertools.product(ways, repeat=count):
            yield [
                VersionSnapshot(ServableId("m", number), state, is_aspired)
                for number, (state, is_aspired) in enumerate(world, 1)
            ]


def surplus(versions: Versions) -> list[ServableId]:
    return [v.id for v in versions if v.state is State.READY and not v.is_aspired]


def new(versions: Versions) -> list[ServableId]:
    return [v.id for v in versions if v.state is State.NEW and v.is_aspired]


def has_aspired(versions: Versions) -> bool:
    return any(v.is_aspired for v in versions)


def has_aspired_ready(versions: Versions) -> bool:
    return any(v.is_aspired and v.state is State.READY for v in versions)


def names_what_is_possible(versions: Versions, action: Action | None) -> bool:
    return action is None or is_possible(action, versions)


def takes_the_lowest_away_and_the_highest_up(
    versions: Versions, action: Action | None
) -> bool:
    match action:
        case Load(servable_id):
            return servable_id == max(new(versions))
        case Unload(servable_id):
            return servable_id == min(surplus(versions))
        case None:
            return True


def never_leaves_nothing(versions: Versions, action: Action | None) -> bool:
    if not isinstance(action, Unload) or not has_aspired(versions):
        return True
    return has_aspired_ready(versions) or len(surplus(versions)) > 1


def frees_what_it_may_first(versions: Versions, action: Action | None) -> bool:
    may_free = surplus(versions) and (
        not has_aspired(versions)
        or has_aspired_ready(versions)
        or len(surplus(versions)) > 1
    )
    return not may_free or isinstance(action, Unload)


def is_idle_only_when_done(versions: Versions, action: Action | None) -> bool:
    return action is not None or not new(versions)


def never_holds_two(versions: Versions, action: Action | None) -> bool:
    old = [v for v in versions if not v.is_aspired and v.state not in FINAL]
    return not isinstance(action, Load) or not old


def frees_at_once(versions: Versions, action: Action | None) -> bool:
    return not surplus(versions) or isinstance(action, Unload)


def waits_only_for_the_old(versions: Versions, action: Action | None) -> bool:
    old = [v for v in versions if not v.is_aspired and v.state not in FINAL]
    return action is not None or bool(old) or not new(versions)


def takes_any_away_and_the_highest_up(
    versions: Versions, action: Action | None
) -> bool:
    return not isinstance(action, Load) or action.id == max(new(versions))


PROMISES: dict[type[AspiredVersionPolicy], tuple[Promise, ...]] = {
    AvailabilityPreservingPolicy: (
        names_what_is_possible,
        takes_the_lowest_away_and_the_highest_up,
        never_leaves_nothing,
        frees_what_it_may_first,
        is_idle_only_when_done,
    ),
    ResourcePreservingPolicy: (
        names_what_is_possible,
        takes_any_away_and_the_highest_up,
        never_holds_two,
        frees_at_once,
        waits_only_for_the_old,
    ),
}


def broken_promise(
    policy: AspiredVersionPolicy, promises: Sequence[Promise]
) -> str | None:
    """Return a promise that *policy* does not keep, and where; None if it keeps all."""
    for versions in worlds():
        try:
            action = policy.next_action(versions)
        except (ValueError, TypeError, AttributeError) as error:
            return f"{error!r} on {versions}"
        for promise in promises:
            if not promise(versions, action):
                return f"{promise.__name__}: {action} on {versions}"
    return None


OTHER: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Gt: ast.GtE,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
CALLS: Final = {"min": "max", "max": "min", "any": "all"}


class Change(ast.NodeTransformer):
    """Makes the change number *wanted* of those that can be made to a module."""

    def __init__(self, wanted: int) -> None:
        self.left = wanted
        self.what = ""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        replaced = self._other(node)
        if replaced is None:
            return node
        self.left -= 1
        if self.left != -1:
            return node
        place = f"line {getattr(node, 'lineno', '?')}"
        self.what = f"{ast.unparse(node) or type(node).__name__} at {place}"
        return replaced

    def _other(self, node: ast.AST) -> ast.AST | None:
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return operand
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return ast.Constant(number + 1)
            case ast.Name(id=name, ctx=ctx) if name in CALLS:
                return ast.Name(CALLS[name], ctx)
            case ast.Return(value=ast.Call()):
                return ast.Return(ast.Constant(None))
            case _:
                other = OTHER.get(type(node))
                return other() if other else None


def mutants(policy: type[AspiredVersionPolicy]) -> Iterator[object]:
    """Yield every policy that differs from *policy* in one place."""
    helper = inspect.getsource(version_policy._load_highest_new)
    source = textwrap.dedent(inspect.getsource(policy)) + "\n" + helper
    for number in itertools.count():
        change = Change(number)
        tree = ast.fix_missing_locations(change.visit(ast.parse(source)))
        if change.left >= 0:
            return
        module = dict(vars(version_policy))
        exec(compile(tree, policy.__name__, "exec"), module)  # noqa: S102 - our own
        mutant = module[policy.__name__]()
        yield pytest.param(policy, mutant, id=f"{policy.__name__}: {change.what}")


@pytest.mark.parametrize("policy", PROMISES, ids=lambda policy: policy.__name__)
def test_a_policy_keeps_its_promises(policy: type[AspiredVersionPolicy]) -> None:
    assert broken_promise(policy(), PROMISES[policy]) is None


@pytest.mark.parametrize(
    ("policy", "mutant"), [m for policy in PROMISES for m in mutants(policy)]
)
def test_a_changed_policy_is_caught(
    policy: type[AspiredVersionPolicy], mutant: AspiredVersionPolicy
) -> None:
    assert broken_promise(mutant, PROMISES[policy]) is not None


def test_there_is_something_to_change() -> None:
    counts = [len(list(mutants(policy))) for policy in PROMISES]

    assert min(counts) >= 8
