"""Names become objects: lookup, options, words, provenance, and what each error teaches."""

import collections.abc
import functools
import math
import pickle
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odeframe
from odeframe import errors, options, plugins, registry
from odeframe.errors import (
    CheckpointError,
    DataError,
    InvalidOption,
    OdeframeError,
    SolveFailed,
    UnknownComponent,
)
from odeframe.hookspecs import KINDS, Part
from plugin_fakes import FakeEntry, offer


class Rule:
    """Crosses an interval.

    More words.
    """

    def __init__(
        self, order: int, steps: int | None = None, *, rtol: float = 1e-3, method: Literal["a", "b"] = "a"
    ) -> None:
        if order < 1:
            raise ValueError(f"got order={order}, expected at least 1")
        if steps == 13:
            raise DataError("thirteen")
        self.order, self.steps, self.rtol, self.method = order, steps, rtol, method


HAS = r"Its options: order: int, steps: int \| None = None, rtol: float = 0.001, method: Literal\['a', 'b'\] = 'a'\."


class Window:
    """Takes a tuple."""

    def __init__(self, horizon: tuple[float, float] = (0.0, 1.0), sizes: list[int] | None = None) -> None:
        self.horizon, self.sizes = horizon, sizes


class Open:
    """Takes anything, and says itself what is wrong."""

    def __init__(self, first: int = 1, **rest: Any) -> None:
        if rest:
            raise TypeError(f"unexpected {sorted(rest)}")
        self.first = first


class Plain:
    """Takes nothing."""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of our own, with one plugin of each fate."""
    monkeypatch.setattr(plugins, "_loaded", None)
    solvers = {
        "rule": Part(Rule, traits=("step",), needs=("gradient:exact",), source="Euler 1768"),
        "window": Window,
        "open": Open,
        "plain": Plain,
        "lazy": "collections:OrderedDict",
        "nested": "collections:OrderedDict.fromkeys",
        "no_module": "no_such_module_anywhere:Thing",
        "no_name": "collections:NoSuchThing",
        "no_call": "math:pi",
        "absent": Part("no_such_module_anywhere:Thing", requires=("no_such_module_anywhere", "two:extra2")),
    }
    other = {
        "absent": Plain,
        "one": Part(Plain, summary="the one", when={"m=1": {"traits": ("x",)}}),
        "plain": Plain,
    }
    plugins.reload(
        [
            offer("odeframe", "0.3.1", solver=solvers),
            offer("Other.Pkg", "2.1", solver=other, control={"one": Window}),
            FakeEntry("bad", ImportError("gone"), version="0.9"),
        ]
    )


# Lookup.


def test_available_lists_without_importing() -> None:
    assert odeframe.available("control") == ["one"]
    assert odeframe.available("task") == []
    names = odeframe.available("solver")
    assert names == sorted(names)
    assert {"absent", "no_module", "other-pkg/plain", "plain", "one"} <= set(names)


def test_an_unknown_kind_is_refused_with_the_near_one() -> None:
    for ask in (odeframe.available, registry.components):
        with pytest.raises(InvalidOption, match=r"unknown kind 'solvers'. Did you mean 'solver'\? The kinds are dyn"):
            ask("solvers")
    for use in (odeframe.describe, odeframe.build, registry.resolve, registry.word):
        with pytest.raises(InvalidOption, match="unknown kind 'modle'"):
            use("modle", "rule")


def test_resolve_gives_the_whole_identity() -> None:
    component = registry.resolve("solver", "one")
    assert (component.kind, component.name, component.qualified) == ("solver", "one", "other-pkg/one")
    assert (component.package, component.version) == ("other-pkg", "2.1")
    assert component.part.summary == "the one"
    assert component.load() is Plain
    assert component == registry.resolve("solver", "Other_Pkg/one")
    with pytest.raises(FrozenInstanceError):
        component.name = "x"  # type: ignore[misc]


def test_an_unknown_name_says_what_there_is_and_what_may_have_it() -> None:
    with pytest.raises(UnknownComponent) as caught:
        registry.resolve("solver", "rul")
    text = str(caught.value)
    assert text.startswith("there is no solver 'rul'. Did you mean 'rule'? Registered: absent, ")
    assert "bad 0.9 is quarantined: bad.entry does not import: ImportError: gone" in text
    assert isinstance(caught.value, LookupError)
    assert text[0] != "'"  # a KeyError would show its repr
    with pytest.raises(UnknownComponent, match=r"there is no task 'x'\. Registered: none\."):
        registry.resolve("task", "x")
    with pytest.raises(UnknownComponent, match="there is no solver 'nobody/rule'"):
        registry.resolve("solver", "nobody/rule")
    with pytest.raises(InvalidOption, match="got 3 as the name of a solver, expected a string"):
        registry.resolve("solver", 3)  # type: ignore[arg-type]


def test_describe_reads_the_signature() -> None:
    assert odeframe.describe("solver", "rule") == {
        "name": "rule",
        "kind": "solver",
        "qualified": "odeframe/rule",
        "package": "odeframe",
        "version": "0.3.1",
        "summary": "Crosses an interval.",
        "source": "Euler 1768",
        "facts": {},
        "traits": ["step"],
        "needs": ["gradient:exact"],
        "when": {},
        "requires": [],
        "missing": "",
        "options": [
            {"name": "order", "type": "int", "default": None, "required": True},
            {"name": "steps", "type": "int | None", "default": None, "required": False},
            {"name": "rtol", "type": "float", "default": 1e-3, "required": False},
            {"name": "method", "type": "Literal['a', 'b']", "default": "a", "required": False},
        ],
    }
    assert odeframe.describe("solver", "one")["summary"] == "the one"
    assert odeframe.describe("solver", "one")["when"] == {"m=1": {"traits": ["x"], "needs": []}}


def test_lazy_targets() -> None:
    assert registry.resolve("solver", "lazy").load() is collections.OrderedDict
    assert registry.resolve("solver", "nested").load()("ab") == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_module", "does not import: ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("no_name", "collections:NoSuchThing does not import: AttributeError"),
        ("no_call", r"math:pi is 3.14\d+, expected a class or a function"),
    ],
)
def test_a_target_that_is_not_there_is_named(name: str, message: str) -> None:
    for use in (odeframe.build, odeframe.describe):
        with pytest.raises(UnknownComponent, match=f"solver '{name}' of odeframe 0.3.1: .*{message}"):
            use("solver", name)


def test_a_missing_dependency_is_listed_and_named() -> None:
    text = "needs no_such_module_anywhere, two: pip install odeframe[no_such_module_anywhere,extra2]"
    description = odeframe.describe("solver", "absent")
    assert (description["missing"], description["options"]) == (text, [])
    with pytest.raises(UnknownComponent) as caught:
        odeframe.build("solver", "absent")
    assert str(caught.value) == f"solver 'absent' of odeframe 0.3.1 {text}"


def test_what_counts_as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*requires: str) -> str:
        return registry.Component("solver", "a", "p/a", "p", "1", Part(Plain, requires=requires)).missing

    assert missing("pluggy", "collections.abc", "pytest-timeout:timeout", "Pytest_Timeout-") != ""
    assert missing("pluggy", "collections.abc", "pytest-timeout:timeout") == ""
    assert missing("no-such-distribution:x") == "needs no-such-distribution: pip install p[x]"
    monkeypatch.setitem(sys.modules, "hidden", None)
    assert missing("hidden") == "needs hidden: pip install p[hidden]"
    monkeypatch.setitem(sys.modules, "hidden", types.ModuleType("hidden"))
    assert missing("hidden") == ""


# Options.


def test_build_passes_the_options() -> None:
    rule = odeframe.build("solver", "rule", order=2, rtol=1, method="b")
    assert (rule.order, rule.steps, rule.rtol, rule.method) == (2, None, 1, "b")


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"order": 1, "step": 3}, r"solver 'rule' has no option 'step' \(got step=3\). Did you mean 'steps'\? " + HAS),
        ({"order": 1, "kind": 3}, r"solver 'rule' has no option 'kind' \(got kind=3\). Its options"),
        ({}, "solver 'rule' needs the option 'order'. Its options: order: int"),
        ({"order": True}, r"solver 'rule': got order=True \(bool\), expected int. Its options"),
        ({"order": 1.0}, r"got order=1.0 \(float\), expected int"),
        ({"order": "1"}, r"got order='1' \(str\), expected int"),
        ({"order": 1, "steps": "4"}, r"got steps='4' \(str\), expected int \| None"),
        ({"order": 1, "rtol": "1e-5"}, r"expected float. Write it as a number, 1e-05 \(YAML reads 1e-5 as text"),
        ({"order": 1, "rtol": "tight"}, r"got rtol='tight' \(str\), expected float. Its options"),
        ({"order": 1, "method": "c"}, r"got method='c' \(str\), expected Literal\['a', 'b'\]"),
        ({"order": 0}, "solver 'rule': got order=0, expected at least 1"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused(given_options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message) as caught:
        odeframe.build("solver", "rule", **given_options)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_no_number_that_is_not_finite_is_suggested(text: str) -> None:
    with pytest.raises(InvalidOption, match=rf"got rtol='{text}' \(str\), expected float\. Its options"):
        odeframe.build("solver", "rule", order=1, rtol=text)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -1.0])
def test_a_number_has_to_be_finite_and_positive(value: float) -> None:
    options.check_positive("solver 'rule'", step=None, rtol=1e-300)
    options.check_not_negative("solver 'rule'", step=None, rtol=0.0)
    text = f"solver 'rule', option rtol: got {value}, expected a finite number"
    with pytest.raises(InvalidOption, match=f"{text} > 0"):
        options.check_positive("solver 'rule'", rtol=value)
    with pytest.raises(InvalidOption, match=r"got 0\.0, expected a finite number > 0"):
        options.check_positive("solver 'rule'", rtol=0.0)
    with pytest.raises(InvalidOption, match=f"{text} >= 0"):
        options.check_not_negative("solver 'rule'", rtol=value)


def test_a_part_without_options_says_so() -> None:
    with pytest.raises(InvalidOption, match=r"solver 'plain' has no option 'a' \(got a=1\). It takes no options."):
        odeframe.build("solver", "plain", a=1)


def test_an_error_of_the_constructor_keeps_its_cause_and_ours_keeps_its_type() -> None:
    with pytest.raises(InvalidOption, match=r"solver 'open': unexpected \['other'\]") as caught:
        odeframe.build("solver", "open", other=1)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(DataError, match=r"^thirteen$"):
        odeframe.build("solver", "rule", order=1, steps=13)


def test_open_options_are_left_to_the_part_but_the_named_ones_are_checked() -> None:
    assert odeframe.build("solver", "open").first == 1
    with pytest.raises(InvalidOption, match="got first='x'"):
        odeframe.build("solver", "open", first="x")


def test_a_list_becomes_the_tuple_that_is_asked_for() -> None:
    window = odeframe.build("solver", "window", horizon=[0, 2], sizes=[1, 2])
    assert window.horizon == (0, 2)
    assert window.sizes == [1, 2]
    with pytest.raises(InvalidOption, match=r"got horizon=\[0, 1, 2\] \(list\), expected tuple\[float, float\]"):
        odeframe.build("solver", "window", horizon=[0, 1, 2])

    def nested(pairs: Annotated[tuple[tuple[int, int], ...] | None, "said"] = None, free: tuple = ()) -> Any:  # type: ignore[type-arg]
        return pairs, free

    assert options.construct("k", "n", nested, {"pairs": [[1, 2], (3, 4)], "free": [[1]]}) == (
        ((1, 2), (3, 4)),
        ([1],),
    )


def test_a_partial_check_does_not_miss_what_is_to_come() -> None:
    options.check_options("solver", "rule", Rule, {"steps": 3}, partial=True)
    with pytest.raises(InvalidOption, match="has no option 'stepps'"):
        options.check_options("solver", "rule", Rule, {"stepps": 3}, partial=True)


class Shape(typing.Protocol):
    """A protocol that cannot be checked at run time."""

    def area(self) -> float:
        """The area."""


class Labels(typing.TypedDict):
    """A dict by its keys."""

    name: str


Text = typing.NewType("Text", str)
T = typing.TypeVar("T")


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [1, -3, np.int64(2)], [True, 1.0, "1", None]),
        (float, [1.0, 1, math.inf, np.float32(2)], [True, "1", None, 1j]),
        (complex, [1j, 1.0, 1], [True, "1"]),
        (bool, [True, False], [1, 0, "yes"]),
        (str, ["", "a"], [1, b"a", None]),
        (None, [None], [0, ""]),
        (type(None), [None], [False]),
        (int | None, [1, None], [1.5, "x"]),
        (typing.Optional[int], [1, None], [1.5]),  # noqa: UP045
        (typing.Union[int, str], [1, "x"], [None]),  # noqa: UP007
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (list, [[], [1]], [(), "a"]),
        (list[int], [[], [1, 2]], [[1, "x"], [True], (1,), 1]),
        (tuple[int, str], [(1, "a"), [1, "a"]], [(1,), (1, "a", 2), ("a", 1), "ab"]),
        (tuple[int, ...], [(), (1, 2), [3]], [("a",), 3]),
        (tuple[()], [(), []], [(1,)]),
        (tuple, [(), [1]], [1, "ab"]),
        (Sequence[str], [["a"], ("a", "b")], ["ab", [1], {"a"}]),
        (Sequence[list[int]], [[[1], [2]]], [[["a"]]]),
        (Iterable[int], [[1], {1}, (1,)], [["a"], "ab", 3]),
        (set[int], [{1}, set()], [[1], {"a"}]),
        (frozenset[int], [frozenset({1})], [{1}]),
        (dict, [{}, {"a": 1}], [[], "a"]),
        (dict[str, int], [{"a": 1}], [{1: 1}, {"a": "b"}, []]),
        (Mapping[str, int | None], [{"a": None}], [{"a": "b"}]),
        (collections.Counter[str], [collections.Counter("ab")], [{"a": 1}, collections.Counter([1])]),
        (Callable[[int], int], [abs, lambda x: x, Plain], [3, None]),
        (type, [int, Plain], [3]),
        (type[Exception], [ValueError], [int, ValueError()]),
        (Plain, [Plain()], [Plain, 3]),
        (Annotated[int, "of steps"], [1], ["a"]),
        (Text, ["a"], [1]),
        (Any, [1, None, "a"], []),
        (T, [1, "a"], []),
        (Shape, [1, "a"], []),
        (Labels, [{"name": "a"}, 3], []),
        ("NotResolved", [1, "a"], []),
        ([int], [1, "a"], []),
    ],
)
def test_values_are_held_against_hints(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not options.fits(value, hint)] == []
    assert [value for value in bad if options.fits(value, hint)] == []


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_like)
def test_every_plain_value_fits_one_plain_hint(value: Any) -> None:
    hints = [None, bool, int, float, str, list, dict]
    fitting = [hint for hint in hints if options.fits(value, hint)]
    assert fitting == ([int, float] if type(value) is int else [type(value) if value is not None else None])
    assert options.fits(value, None | bool | float | str | list | dict)


def test_hints_that_do_not_resolve_are_not_judged() -> None:
    def target(a: "OnlyTheTypeCheckerKnows" = 1, b: "int | OnlyTheTypeCheckerKnows" = 2, c: "int" = 3) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return a, b, c

    assert options.construct("k", "n", target, {"a": "x", "b": "y", "c": 4}) == ("x", "y", 4)
    with pytest.raises(InvalidOption, match=r"got c='z' \(str\), expected int. Its options: a = 1, b = 2, c: int = 3"):
        options.construct("k", "n", target, {"c": "z"})


@dataclass
class Record:
    """A dataclass."""

    width: int
    name: str = "n"


class Called:
    """An object that is called."""

    scale: int = 1

    def __call__(self, scale: "float") -> float:
        return scale * self.scale


class Made:
    """A class whose options stand at __new__."""

    def __new__(cls, size: int) -> "Made":
        return super().__new__(cls)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Record, "width: int, name: str = 'n'"),
        (functools.partial(Record, name="m"), "width: int, name: str = 'm'"),
        (Called(), "scale: float"),
        (Made, "size: int"),
        (Plain, ""),
        (lambda a, /, b=Plain, *c, d: None, "b = Plain, d"),
    ],
)
def test_signatures_are_read(target: Any, expected: str) -> None:
    known, open_ended = options.options_of(target)
    assert ", ".join(map(str, known)) == expected
    assert not open_ended


def test_a_target_without_a_signature_speaks_for_itself() -> None:
    assert options.options_of(type) == ([], True)
    with pytest.raises(InvalidOption, match="k 'n': "):
        options.construct("k", "n", type, {"a": 1})


def test_a_default_is_always_legal() -> None:
    def target(steps: int = None) -> Any:  # type: ignore[assignment]  # noqa: RUF013
        return steps

    assert options.construct("k", "n", target, {"steps": None}) is None


# Words.


def test_words() -> None:
    named = registry.word("solver", "plain")
    assert (named.kind, named.options, named.object, str(named)) == ("solver", {}, None, "solver 'plain'")
    assert isinstance(named.build(), Plain)
    given_mapping = {"name": "rule", "order": 3}
    mapped = registry.word("solver", given_mapping)
    assert given_mapping == {"name": "rule", "order": 3}
    assert mapped.component is not None
    assert (mapped.component.qualified, mapped.options) == ("odeframe/rule", {"order": 3})
    built = mapped.build(order=1, steps=5)
    assert (built.order, built.steps) == (3, 5)
    thing = Plain()
    own = registry.word("solver", thing)
    assert (own.component, own.object, str(own)) == (None, thing, "solver Plain (an object)")
    assert own.build(steps=3) is thing
    assert registry.word("solver", Rule).build(order=4).order == 4
    assert str(registry.word("dynamics", test_words)) == "dynamics test_words (an object)"
    assert registry.word("solver", own) is own
    component = registry.resolve("solver", "other-pkg/plain")
    assert registry.word("solver", component) == registry.Word("solver", component)
    assert str(registry.word("solver", component)) == "solver 'other-pkg/plain'"


def test_words_check_their_options_before_they_are_built() -> None:
    registry.word("solver", {"name": "rule", "steps": 3}).check()
    registry.word("solver", Plain()).check()
    with pytest.raises(InvalidOption, match="solver 'rule' has no option 'steeps'"):
        registry.word("solver", {"name": "rule", "steeps": 3}).check()


@pytest.mark.parametrize("value", [None, 3, 2.5, True, b"rk4", ["rk4"], ("rk4", {}), {1}])
def test_what_is_no_word_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match="as the solver, expected a name, a mapping"):
        registry.word("solver", value)


def test_a_mapping_has_a_name() -> None:
    for value in ({"order": 3}, {"name": 3, "order": 3}, {}):
        with pytest.raises(InvalidOption, match=r"as the solver, expected a name in it, as \{'name': 'absent'"):
            registry.word("solver", value)
    with pytest.raises(InvalidOption, match="got solver 'plain', expected a control"):
        registry.word("control", registry.word("solver", "plain"))
    with pytest.raises(InvalidOption, match="got solver 'plain', expected a control"):
        registry.word("control", registry.resolve("solver", "plain"))


def test_the_component_of_an_object_is_found_by_its_class() -> None:
    rule = registry.resolve("solver", "rule")
    assert registry.registered("solver", Rule(1)) == registry.registered("solver", Rule) == rule
    assert registry.registered("control", Rule) is None
    assert registry.registered("solver", collections.OrderedDict()) == registry.resolve("solver", "lazy")
    assert registry.registered("solver", Plain()) is None  # three names lead to it
    assert "no_such_module_anywhere" not in sys.modules


# Provenance.


def test_provenance_is_plain_and_round_trips() -> None:
    record = registry.provenance(
        "solver", "window", {"horizon": (0, np.float64(2.5)), "sizes": [np.int64(3)], "m": {"a": None, "b": True}}
    )
    assert record == {
        "kind": "solver",
        "name": "odeframe/window",
        "package": "odeframe",
        "version": "0.3.1",
        "options": {"horizon": [0, 2.5], "sizes": [3], "m": {"a": None, "b": True}},
    }
    assert {type(each) for each in (*record["options"]["horizon"], *record["options"]["sizes"])} == {int, float}
    rebuilt = odeframe.build("solver", record["name"], horizon=record["options"]["horizon"])
    assert rebuilt.horizon == (0, 2.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.check_provenance([record, registry.provenance("control", "other_pkg/one", {})])
        registry.check_provenance([registry.provenance("solver", "other-pkg/absent", {})])
    with pytest.raises(InvalidOption, match=r"solver 'open': first = <.*Plain.*> \(Plain\) cannot be kept"):
        registry.provenance("solver", "open", {"first": Plain()})


def record_of(**changes: Any) -> dict[str, Any]:
    """A good record with changes."""
    return {"kind": "solver", "name": "odeframe/rule", "package": "odeframe", "version": "0.3.1", **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "gone", "name": "gone/x", "version": "3.0"}, "gone 3.0 is not installed: pip install gone==3.0"),
        ({"package": "bad", "name": "bad/x"}, "bad 0.3.1 is not in use, bad 0.9 is quarantined: bad.entry does not"),
        ({"name": "odeframe/old"}, "gone from odeframe 0.3.1, which is installed: pip install odeframe==0.3.1"),
        ({"kind": "control"}, "control 'odeframe/rule' of odeframe 0.3.1 is gone"),
        ({"name": "odeframe/absent"}, "needs no_such_module_anywhere, two: pip install"),
    ],
)  # fmt: skip
def test_a_checkpoint_whose_component_is_not_to_be_had(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownComponent) as caught:
        registry.check_provenance([record_of(), record_of(**changes)])
    assert message in str(caught.value)


def test_a_checkpoint_names_all_that_is_lacking() -> None:
    lacking = [record_of(package="gone", name=f"gone/{name}") for name in "ab"]
    with pytest.raises(UnknownComponent, match=r"'gone/a' of gone.*'gone/b' of gone"):
        registry.check_provenance(lacking)


def test_versions_may_differ_but_in_their_first_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.check_provenance([record_of(version="0.1")])
    with pytest.warns(UserWarning, match="solver 'odeframe/rule' of odeframe 1.0, installed is 0.3.1"):
        registry.check_provenance([record_of(version="1.0")])


@pytest.mark.parametrize(
    "changes", [{"kind": "solvers"}, {"name": None}, {"package": 3}, {"version": None}, {"kind": []}]
)
def test_a_malformed_record_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="expected the kind, name, package and version"):
        registry.check_provenance([record_of(**changes)])


# Errors.


def test_every_error_is_ours() -> None:
    for name in set(errors.__all__) - {"suggestion"}:
        assert issubclass(getattr(errors, name), OdeframeError)
        assert getattr(odeframe, name) is getattr(errors, name)
    assert issubclass(InvalidOption, ValueError)
    assert issubclass(UnknownComponent, LookupError)
    assert not issubclass(UnknownComponent, KeyError)


def test_suggestions() -> None:
    assert errors.suggestion("rk5", ["rk4", "euler"]) == " Did you mean 'rk4'?"
    assert errors.suggestion("zzz", ["rk4", "euler"]) == ""
    assert errors.suggestion(["rk4"], []) == ""


def test_a_failed_solve_says_where_and_what_helps() -> None:
    class Status:
        name = "UNDERFLOW"
        message = "the step became too small."

    failure = SolveFailed(status=Status(), t=0.123456789, dt=1e-9, nfe=42, worst_sample=3)
    assert str(failure).startswith(
        "the solve failed: the step became too small"
        " (t = 0.123457, dt = 1e-09, 42 evaluations of the field, worst sample 3). What usually helps: looser"
    )
    for remedy in ("rtol", "max_steps", "implicit", "stiff", "bounded weights", "float64"):
        assert remedy in str(failure)
    assert str(SolveFailed("no end in sight", status="max_steps", t=0)).startswith(
        "the solve failed: no end in sight (t = 0). What"
    )
    assert str(SolveFailed(status="max_steps")).startswith("the solve failed: max_steps. What")


def test_a_failed_solve_crosses_processes() -> None:
    failure = SolveFailed("stuck", status="max_steps", t=0.5, dt=0.1, nfe=7, worst_sample=2)
    again = pickle.loads(pickle.dumps(failure))
    assert type(again) is SolveFailed
    assert str(again) == str(failure)
    assert vars(again) == vars(failure)


def test_the_package_exports_the_registry() -> None:
    for name in ("available", "describe", "build"):
        assert getattr(odeframe, name) is getattr(registry, name)
    assert odeframe.Part is registry.Part
    assert registry.KINDS is KINDS
