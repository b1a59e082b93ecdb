"""The legal matrix: its counts against plain enumeration, its draws, and trials of what it calls legal."""

import itertools
import math
import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import odeframe
from odeframe import plugins
from odeframe.cli import main
from odeframe.compatibility import compatible
from odeframe.covering import covering, draw
from odeframe.errors import Incompatible, InvalidOption
from odeframe.hookspecs import KINDS
from odeframe.matrix import ORDER, Matrix, reasons, unbuildable
from odeframe.options import options_of
from odeframe.stated import UNKNOWN, _default, _tree, stated_default
from plugin_fakes import offer

README = Path(__file__).resolve().parents[1] / "README.md"
SEED = random.SystemRandom().randrange(2**31)


def part(**fields):
    return odeframe.Part(Thing, **fields)


class Thing:
    """Stands for any part."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Demanding:
    """Has a required option."""

    def __init__(self, size: int) -> None:
        self.size = size


@pytest.fixture
def small():
    """A registry of sixteen parts, with needs of every form, and one constraint of three parts."""
    plugins.reload(
        [
            offer(
                "odeframe",
                dynamics={"a": part(traits=("image",)), "b": part(traits=("vector",)), "c": part(traits=("odd",))},
                control={"a": part(), "b": part(needs=("dynamics:!odd",))},
                solver={"a": part(traits=("step",)), "b": part(needs=("dynamics:odd",)), "c": part()},
                gradient={"a": part(), "b": part(needs=("solver:step",))},
                architecture={"a": part(), "b": part(traits=("vector_states",))},
                trainer={"a": part(needs=("gradient=a",)), "b": part()},
                task={"a": part(needs=("data:classes",))},
                data={"a": part(traits=("classes", "image")), "b": part(traits=("values", "vector"))},
            )
        ]
    )
    yield Matrix()
    plugins.reload()


def enumerated(matrix):
    """Every whole combination that `reasons` has nothing against."""
    names = {kind: [choice.name for choice in matrix.parts[kind]] for kind in ORDER}
    for indices in itertools.product(*(range(len(names[kind])) for kind in ORDER)):
        chosen = dict(zip(ORDER, indices, strict=True))
        if not reasons({kind: names[kind][index] for kind, index in chosen.items()}):
            yield chosen


def test_count_is_that_of_the_enumeration(small):
    every = list(enumerated(small))
    assert small.count() == len(every) > 0
    assert small.count(small.chosen({"solver": 1})) == sum(each["solver"] == 1 for each in every)


def test_legal_pairs_are_those_that_occur(small):
    every = list(enumerated(small))
    for a, b in itertools.combinations(ORDER, 2):
        occurring = {(each[a], each[b]) for each in every}
        found = {(i, j) for i, row in enumerate(small.pairs[a, b]) for j in range(20) if row >> j & 1}
        assert found == occurring, (a, b)


def test_three_parts_decide_the_states(small):
    assert reasons({"architecture": "a", "data": "a", "dynamics": "b"}) == [
        "dynamics 'b' takes vector states, and the states of architecture 'a' on data 'a' are images."
    ]
    assert reasons({"architecture": "b", "data": "a", "dynamics": "b"}) == []
    assert reasons({"data": "a", "dynamics": "b"}) == [], "an architecture may have vectors of its own"
    assert compatible("dynamics", architecture="a", data="a") == ["a", "c"]
    assert compatible("architecture", dynamics="a", data="a") == ["a"]
    with pytest.raises(
        Incompatible, match=r"are images. An architecture that fits .* A dynamics that fits the other choices: a, c."
    ):
        odeframe.compatibility.check({"architecture": "a", "data": "a", "dynamics": "b"})


@pytest.mark.parametrize("seed", range(5))
def test_covering_has_every_legal_pair(small, seed):
    legal = list(enumerated(small))
    found = covering(small, seed)
    assert all(each in legal for each in found)
    for a, b in itertools.combinations(ORDER, 2):
        assert {(each[a], each[b]) for each in found} == {(each[a], each[b]) for each in legal}
    assert found == covering(small, seed) and len(found) < len(legal)


def test_draws_are_legal_and_reach_everything(small):
    legal = list(enumerated(small))
    drawn = list(draw(small, 40 * len(legal), 0))
    assert all(each in legal for each in drawn)
    counts = [drawn.count(each) for each in legal]
    assert min(counts) > 10, "each is equally likely: 40 times on average"
    assert list(draw(small, 5, 3)) == list(draw(small, 5, 3)) != list(draw(small, 5, 4))


def test_a_registry_in_which_nothing_fits_has_no_combination():
    plugins.reload([offer("odeframe", **{kind: {"a": part(needs=("data:none",))} for kind in KINDS})])
    try:
        matrix = Matrix()
        assert matrix.count() == 0 and covering(matrix, 0) == [] and list(draw(matrix, 3, 0)) == []
    finally:
        plugins.reload()


def test_what_cannot_be_built_is_named_with_its_reason():
    tables = {
        "solver": {
            "absent": odeframe.Part(Thing, requires=("no_such_module",)),
            "demanding": odeframe.Part(Demanding),
            "shown": odeframe.Part(Demanding, example={"size": 3}),
        }
    }
    plugins.reload([offer("toy", **tables)])
    try:
        found = {each.name: unbuildable(each) for each in odeframe.registry.components("solver")}
        assert found["absent"] == "needs no_such_module: pip install toy[no_such_module]"
        assert found["demanding"] == "has the required option size and no example (Part.example) for it"
        assert found["shown"] == ""
        (shown,) = (each for each in Matrix().parts["solver"] if each.name == "shown")
        assert shown.word.options == {"size": 3}
    finally:
        plugins.reload()


def test_an_example_is_a_mapping():
    with pytest.raises(InvalidOption, match="example"):
        odeframe.Part(Thing, example=("size", 3))


def test_counting_our_own_combinations_looks_at_few():
    matrix = Matrix()
    assert matrix.count() > 1_000_000
    assert len(matrix._count) < 20_000, "equal remains are counted once"
    assert not matrix.absent


def test_readme_says_what_there_is():
    text = README.read_text("utf-8")
    (legal, every) = re.search(
        r"`odeframe matrix` counts it: ([\d,.]+) million legal.*?of ([\d,.]+) million", text, re.S
    ).groups()
    matrix, possible = Matrix(), math.prod(len(parts) for parts in Matrix().parts.values())
    for said, found in ((legal, matrix.count()), (every, possible)):
        assert 0.9 < float(said.replace(",", "")) * 1e6 / found < 1.1, (
            "state what `odeframe matrix` counts, in README.md"
        )


def test_counting_loads_neither_torch_nor_lightning(tmp_path):
    heavy = "{'torch', 'pytorch_lightning'}"
    script = f"import sys; from odeframe.cli import main; main(['matrix']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whole combinations: " in done.stdout and done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_defaults_read_in_the_source_are_those_of_the_class():
    """Whether a condition of ``Part.when`` holds by default is known without importing the class."""
    checked = 0
    for kind in KINDS:
        for component in odeframe.registry.components(kind):
            for condition in component.part.when:
                name = condition.partition("=")[0]
                module, _, cls = component.part.target.partition(":")
                stated = _default(module, _tree(module), cls, name)  # whether or not the class is imported already
                (option,) = [each for each in options_of(component.load())[0] if each.name == name]
                assert stated is UNKNOWN or stated == option.default, (component.qualified, name)
                checked += stated is not UNKNOWN
    assert checked > 20


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class A:\n    def __init__(self, x=1): pass", 1),
        ("class A:\n    def __init__(self, *, x: str = 'a'): pass", "a"),
        ("class B:\n    def __init__(self, y, x=(1, 2)): pass\nclass A(B): pass", (1, 2)),
        ("class A:\n    def __init__(self, x): pass", UNKNOWN),
        ("class A:\n    def __init__(self, x=f()): pass", UNKNOWN),
        ("class A(f()): pass", UNKNOWN),
        ("from nowhere_at_all import B\nclass A(B): pass", UNKNOWN),
        ("def A(x=1): pass", UNKNOWN),
        ("class A(:", UNKNOWN),
    ],
)
def test_a_default_is_read_in_the_source_or_left_to_the_class(text, found, tmp_path, monkeypatch):
    name = f"stated_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert stated_default(f"{name}:A", "x") == found or found is UNKNOWN is stated_default(f"{name}:A", "x")
    assert name not in sys.modules


def test_command_says_why_two_parts_do_not_go_together(capsys):
    assert main(["matrix", "solver=verlet", "dynamics=mlp"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("solver verlet, dynamics mlp: no\n") and "the trait 'separable'" in out
    assert main(["matrix", "solver=verlet", "dynamics=coupled_mlp"]) == 0
    assert "yes, in " in capsys.readouterr().out
    assert main(["matrix", "solver={name: dopri5, per_sample: true}", "gradient=adjoint"]) == 0
    assert "refuses a solver with the trait 'per_sample'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solver"], "expected KIND=NAME"),
        (["solvr=rk4"], "Did you mean 'solver'"),
        (["solver=rk5"], "Did you mean 'rk4'"),
        (["solver=rk4", "solver=euler"], "two of kind solver"),
        (["--try", "x"], "expected a whole number"),
        (["--try", "1", "solver=rk4"], "stand alone"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    assert main(["matrix", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_architectures_declare_the_states_that_they_have():
    """The table tells the matrix what ``state_trait`` tells the network."""
    from odeframe.network import Architecture
    from odeframe.registry import components, word
    from odeframe.specification import NetworkSpec

    for component in components("architecture"):
        architecture = word("architecture", component).build()
        assert isinstance(architecture, Architecture)
        for shape, given in (((5,), "vector"), ((1, 8, 8), "image")):
            own = [state for state in ("image", "vector") if f"{state}_states" in component.part.traits]
            try:
                found = architecture.state_trait(NetworkSpec(shape, (3,)))
            except InvalidOption:
                needs = [need for need in component.part.needs if need.startswith("data:")]
                assert needs, f"architecture {component.name!r} takes no {given}s: declare what data it needs"
                continue
            assert [found] == (own or [given]), (
                f"architecture {component.name!r} has {found} states of {given} data: declare the trait "
                f"'{found}_states' in the plugin's table"
            )


def failures(trial, combinations, lightning=False):
    """What goes wrong, a line each; what trains with other weights only is printed."""
    from odeframe.trial import one_line

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for words in combinations:
            try:
                for reason in trial.train(words, lightning):
                    print(f"tried again: {one_line(words)}: {reason}")
            except Exception as error:
                found.append(f"{one_line(words)}: {type(error).__name__}: {' '.join(str(error).split())}")
    return found


SHARE = int(os.environ.get("ODEFRAME_MATRIX_SHARE", "120"))


@pytest.fixture(scope="module")
def ours():
    from odeframe.trial import buildable

    return buildable()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # single combinations take a minute: implicit steps under trainers that sweep, on images
def test_what_is_called_legal_trains(ours):
    """A share of a set in which every legal pair of parts occurs, another each time; the seed is printed."""
    from odeframe.trial import Trial

    matrix, left_out = ours
    every = covering(matrix, SEED)
    share = random.Random(SEED).sample(every, min(SHARE, len(every)))
    print(f"seed {SEED}, {len(share)} of {len(every)} combinations; left out: {left_out or 'nothing'}")
    found = failures(Trial(SEED), map(matrix.words, share))
    assert not found, f"seed {SEED}\n" + "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_trainer_fits_by_lightning(ours):
    from odeframe.trial import Trial

    matrix, _ = ours
    generator = random.Random(SEED)
    chosen = []
    for index in range(len(matrix.parts["trainer"])):
        one = Matrix({"trainer": matrix.parts["trainer"][index].word}, without=dict.fromkeys(left(matrix)))
        (words,) = [one.words(each) for each in draw(one, 1, generator.randrange(2**31))]
        chosen.append(words)
    found = failures(Trial(SEED), chosen, lightning=True)
    assert not found, f"seed {SEED}\n" + "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_architecture_fits_with_two_other_solvers(ours):
    """By Lightning, with other parts as they are drawn; where fewer solvers fit, with all of those."""
    from odeframe.trial import Trial

    matrix, _ = ours
    generator, chosen = random.Random(SEED), []
    for choice in matrix.parts["architecture"]:
        default = choice.word.component.load().defaults.get("solver", "")
        solvers = {default["name"] if isinstance(default, dict) else default}
        one = Matrix({"architecture": choice.word, "trainer": "gradient"}, without=dict.fromkeys(left(matrix)))
        for words in map(one.words, draw(one, 20, generator.randrange(2**31))):
            solver = words["solver"]["name"]
            if len(solvers) > 2 or solver in solvers:
                continue
            solvers.add(solver)
            chosen.append(words)
    found = failures(Trial(SEED), chosen, lightning=True)
    assert not found, f"seed {SEED}\n" + "\n".join(found)
    assert len(chosen) > len(matrix.parts["architecture"])


def left(matrix):
    """The parts that are registered and not in a matrix."""
    there = {(kind, choice.name) for kind, choices in matrix.parts.items() for choice in choices}
    return {(kind, name) for kind in KINDS for name in odeframe.available(kind)} - there
