"""Which parts go together: needs against traits, both ways, with options, objects and packages taken into account."""

from itertools import permutations
from typing import Any

import pytest

import odeframe
from odeframe import compatibility, plugins, registry
from odeframe.compatibility import check, compatible, why
from odeframe.errors import Incompatible, InvalidOption, PluginConflict, UnknownComponent
from odeframe.hookspecs import Part
from plugin_fakes import offer


class Steps:
    """A solver that takes steps."""


class Methods:
    """One part with many methods, the first of them by default."""

    def __init__(self, method: str = "euler", per_sample: bool = False) -> None:
        self.method, self.per_sample = method, per_sample


class Exact:
    """A gradient."""


class Free:
    """A class that nobody registered."""


class Declared:
    """A class that nobody registered, which says what it is and needs."""

    traits = ("step",)
    needs = ("gradient:exact",)


WHEN = {
    "method=euler": {"traits": ("step",)},
    "method=sde": {"traits": ("stochastic",), "needs": ("gradient=backprop",)},
    "per_sample=True": {"traits": ("per_sample",), "needs": ("dynamics:!mean_field",)},
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small registry in which the answers can be seen by eye."""
    monkeypatch.setattr(plugins, "_loaded", None)
    ours = {
        "solver": {
            "rk4": Part(Steps, traits=("step",)),
            "heun": Part("no_such_module:Heun", traits=("step", "reversible")),
            "em": Part("no_such_module:EM", traits=("step", "stochastic")),
            "dopri5": Part("no_such_module:Dopri5", traits=("adaptive",)),
            "methods": Part(Methods, when=WHEN),
        },
        "gradient": {
            "backprop": Part(Exact, traits=("exact",)),
            "adjoint": Part("no_such_module:Adjoint", needs=("solver:!stochastic",)),
            "reversible": Part("no_such_module:Reversible", traits=("exact",), needs=("solver:reversible",)),
        },
        "trainer": {
            "gradient": Part("no_such_module:Gradient"),
            "emsa": Part("no_such_module:EMSA", needs=("solver:step", "gradient=backprop|other/twin")),
        },
        "dynamics": {"flock": Part("no_such_module:Flock", traits=("mean_field",))},
    }
    other = {
        "gradient": {"backprop": Part(Free, traits=("exact",)), "twin": Part(Free)},
        "trainer": {"own": Part("no_such_module:Own", needs=("gradient=backprop",))},
        "solver": {"clash": Part("no_such_module:Clash", needs=("gradient=other/backprop",))},
    }
    plugins.reload([offer("odeframe", "1.0", **ours), offer("other", "1.0", **other)])


def test_names_that_fit() -> None:
    assert compatible("solver") == odeframe.available("solver")
    assert compatible("solver", gradient="reversible") == ["heun"]
    assert compatible("solver", gradient="adjoint") == ["dopri5", "heun", "methods", "rk4"]
    assert compatible("solver", trainer="emsa") == ["em", "heun", "methods", "rk4"]
    assert compatible("solver", trainer="emsa", gradient="adjoint") == ["heun", "methods", "rk4"]
    assert compatible("gradient", solver="rk4") == ["adjoint", "backprop", "other/backprop", "twin"]
    assert compatible("gradient", solver="em", trainer="emsa") == ["backprop", "twin"]
    assert compatible("trainer", solver="dopri5") == ["gradient", "own"]
    assert compatible("data", solver="rk4") == []


def test_the_answer_is_the_same_from_both_sides() -> None:
    kinds = ("solver", "gradient", "trainer", "dynamics")
    seen = set()
    for a, b in permutations(kinds, 2):
        for first in odeframe.available(a):
            for second in odeframe.available(b):
                fits = second in compatible(b, **{a: first})
                assert fits == (first in compatible(a, **{b: second}))
                assert fits == (why(a, first, b, second) == [])
                assert sorted(why(a, first, b, second)) == sorted(why(b, second, a, first))
                seen.add(fits)
                if fits:
                    check({a: first, b: second})
                else:
                    with pytest.raises(Incompatible):
                        check({a: first, b: second})
    assert seen == {True, False}


def test_the_reasons_name_both_and_the_trait() -> None:
    assert why("gradient", "reversible", "solver", "rk4") == [
        "gradient 'reversible' needs a solver with the trait 'reversible', which solver 'rk4' lacks."
    ]
    assert why("solver", "em", "gradient", "adjoint") == [
        "gradient 'adjoint' refuses a solver with the trait 'stochastic', which solver 'em' has."
    ]
    assert why("trainer", "emsa", "gradient", "adjoint") == [
        "trainer 'emsa' needs the gradient 'backprop' or 'other/twin', got gradient 'adjoint'."
    ]
    assert why("dynamics", "flock", "solver", {"name": "methods", "per_sample": True}) == [
        "solver 'methods' with per_sample=True refuses a dynamics with the trait 'mean_field',"
        " which dynamics 'flock' has."
    ]
    assert why("gradient", "backprop", "dynamics", "flock") == []


def test_the_error_names_what_would_fit() -> None:
    check({"solver": "heun", "gradient": "reversible", "trainer": None})
    with pytest.raises(Incompatible) as caught:
        check({"solver": "rk4", "gradient": "reversible"})
    assert str(caught.value) == (
        "gradient 'reversible' needs a solver with the trait 'reversible', which solver 'rk4' lacks."
        " A solver that fits the other choices: heun."
        " A gradient that fits the other choices: adjoint, backprop, other/backprop, twin."
    )
    with pytest.raises(Incompatible) as caught:
        check({"trainer": "emsa", "solver": "dopri5", "gradient": "reversible"})
    for sentence in (
        "trainer 'emsa' needs a solver with the trait 'step', which solver 'dopri5' lacks.",
        "trainer 'emsa' needs the gradient 'backprop' or 'other/twin', got gradient 'reversible'.",
        "gradient 'reversible' needs a solver with the trait 'reversible', which solver 'dopri5' lacks.",
        # No single change settles all three, so what fits each partner is named.
        "A solver that fits trainer 'emsa': em, heun, methods, rk4.",
        "A solver that fits gradient 'reversible': heun.",
        "A gradient that fits trainer 'emsa': backprop, twin.",
    ):
        assert sentence in str(caught.value)
    assert "the other choices" not in str(caught.value)


def test_each_name_in_the_error_settles_it() -> None:
    chosen = {"trainer": "emsa", "solver": "heun", "gradient": "reversible", "dynamics": "flock"}
    with pytest.raises(Incompatible) as caught:
        check(chosen)
    text = str(caught.value)
    assert text.count(" that fits the other choices: ") == 2
    for kind in ("trainer", "gradient"):
        names = text.partition(f"A {kind} that fits the other choices: ")[2].partition(".")[0].split(", ")
        assert names != [""]
        for name in names:
            check({**chosen, kind: name})


def test_names_that_make_nothing_legal_are_left_out() -> None:
    parts = {
        "trainer": {
            "one": Part("no_such_module:One", needs=("solver:step",)),
            "two": Part("no_such_module:Two"),
            "three": Part("no_such_module:Three", traits=("free",), needs=("solver:step",)),
        },
        "solver": {
            "now": Part("no_such_module:Now"),
            "quick": Part("no_such_module:Quick", traits=("step",)),
            "slow": Part("no_such_module:Slow", traits=("step", "slow")),
        },
        "gradient": {
            "asking": Part("no_such_module:Asking", needs=("trainer:free",)),
            "odd": Part("no_such_module:Odd", needs=("solver:!step",)),
            "plain": Part("no_such_module:Plain"),
        },
        "control": {"hasty": Part("no_such_module:Hasty", needs=("solver:!slow",))},
    }
    plugins.reload([offer("odeframe", "1.0", **parts)])
    with pytest.raises(Incompatible) as caught:
        check({"trainer": "one", "solver": "now", "gradient": "asking", "control": "hasty"})
    remedies = str(caught.value).partition("lacks. A ")[2]
    for sentence in (
        "solver that fits trainer 'one': quick.",  # the control refuses slow
        "gradient that fits trainer 'one': plain.",  # odd refuses every solver that the trainer takes
        "trainer that fits solver 'now': two.",
        "trainer that fits gradient 'asking': three.",
    ):
        assert sentence in remedies, str(caught.value)


def test_options_count_with_their_value_and_their_default() -> None:
    assert why("trainer", "emsa", "solver", "methods") == []
    assert why("trainer", "emsa", "solver", {"name": "methods", "method": "euler"}) == []
    assert len(why("trainer", "emsa", "solver", {"name": "methods", "method": "bdf"})) == 1
    assert len(why("gradient", "adjoint", "solver", ("methods", {"method": "sde"}))) == 2
    assert why("gradient", "backprop", "solver", ("methods", {"method": "sde"})) == []
    assert "adjoint" not in compatible("gradient", solver={"name": "methods", "method": "sde"})
    assert compatible("dynamics", solver={"name": "methods", "per_sample": True}) == []
    assert compatible("dynamics", solver={"name": "methods", "per_sample": "True"}) == []
    assert compatible("dynamics", solver={"name": "methods", "per_sample": False}) == ["flock"]


def test_words_objects_and_classes_are_chosen_like_names() -> None:
    for chosen in (registry.word("solver", "rk4"), registry.resolve("solver", "rk4"), Steps(), Steps, ("rk4", {})):
        assert why("trainer", "emsa", "solver", chosen) == []
        assert len(why("gradient", "reversible", "solver", chosen)) == 1
    assert why("trainer", "emsa", "gradient", Exact()) == []
    assert compatible("dynamics", solver=Methods(per_sample=True)) == []
    assert compatible("dynamics", solver=Methods()) == compatible("dynamics", solver=Methods) == ["flock"]
    assert len(why("trainer", "emsa", "solver", Methods("bdf"))) == 1


def test_an_object_nobody_registered_is_what_it_declares() -> None:
    for chosen in (Declared(), Declared):
        assert why("trainer", "emsa", "solver", chosen) == []
        assert why("gradient", "adjoint", "solver", chosen) == [
            "solver Declared (an object) needs a gradient with the trait 'exact', which gradient 'adjoint' lacks."
        ]
    assert why("trainer", "emsa", "solver", object()) == [
        "trainer 'emsa' needs a solver with the trait 'step', which solver object (an object) lacks"
        " (its class may declare it: traits = ('step',))."
    ]
    assert why("gradient", "adjoint", "solver", object()) == []
    [reason] = why("trainer", "emsa", "gradient", Declared())
    assert reason.endswith("got gradient Declared (an object).")


def test_needs_mean_the_package_that_says_them() -> None:
    # Ours is meant by an unqualified name, unless the package that asks has that name itself.
    assert compatible("gradient", trainer="emsa") == ["backprop", "twin"]
    assert compatible("gradient", trainer="own") == ["backprop", "other/backprop"]
    assert compatible("gradient", solver="clash") == ["other/backprop"]


def test_a_kind_that_is_not_chosen_is_not_checked() -> None:
    check({"trainer": "emsa"})
    check({})
    check({"trainer": "emsa", "solver": None})
    assert compatible("trainer", solver=None) == ["emsa", "gradient", "own"]


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InvalidOption, match=r"unknown kind 'solvers'. Did you mean 'solver'\?"):
        compatible("solvers")
    with pytest.raises(InvalidOption, match=r"unknown kind 'gradients'. Did you mean 'gradient'\?"):
        compatible("solver", gradients="adjoint")
    with pytest.raises(InvalidOption, match="got solver='rk4' among the choices that a solver is to fit"):
        compatible("solver", solver="rk4")
    with pytest.raises(UnknownComponent, match="Did you mean 'adjoint'"):
        compatible("solver", gradient="adjont")
    with pytest.raises(InvalidOption, match="unknown kind 'x'"):
        check({"x": "rk4"})
    with pytest.raises(InvalidOption, match="got 3 as the solver"):
        why("solver", 3, "gradient", "adjoint")


def test_a_part_that_does_not_import_is_left_out_with_a_warning() -> None:
    broken: dict[str, Any] = {
        "broken": Part("no_such_module:Broken", when={"method=a": {"traits": ("step",)}}),
        "absent": Part("no_such_module:X", requires=("no_such_module",), when={"method=a": {"traits": ("step",)}}),
        "fine": Part(Steps, traits=("step",)),
    }
    plugins.reload([offer("some", solver=broken, trainer={"t": Part(Exact, needs=("solver:step",))})])
    with pytest.warns(UserWarning, match="left out: solver 'broken' of some 1.0: no_such_module:Broken does not"):
        assert compatible("solver", trainer="t") == ["fine"]
    with pytest.warns(UserWarning, match="left out"):
        assert compatible("solver") == ["absent", "fine"]
    with pytest.raises(UnknownComponent, match="no_such_module:Broken does not import"):
        check({"solver": "broken", "trainer": "t"})
    # An option that is given needs no class to ask.
    check({"solver": {"name": "broken", "method": "a"}, "trainer": "t"})


def test_conflicts_are_reported() -> None:
    plugins.reload([offer(package, solver={"a": Steps}) for package in ("one", "two")])
    with pytest.raises(PluginConflict, match="write 'one/a' or 'two/a'"):
        check({"solver": "a"})
    assert compatible("solver") == ["one/a", "two/a"]


def test_the_package_exports_it() -> None:
    assert odeframe.compatible is compatibility.compatible
