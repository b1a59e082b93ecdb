"""Plugins are found, loaded, quarantined and told apart: in memory, and installed for real beside a fresh Python."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import odeframe
from odeframe import discovery, hookspecs, plugins, registry
from odeframe.errors import InvalidOption, OdeframeError, PluginConflict, UnknownComponent
from odeframe.hookspecs import HOOKS, KINDS, Need, Part
from plugin_fakes import FakeEntry, module, offer

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = Path(__file__).resolve().parent / "packages"


class Thing:
    """A part."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin is loaded yet, no variable is set; what was loaded before comes back afterwards."""
    monkeypatch.setattr(plugins, "_loaded", None)
    for name in ("ODEFRAME_BLOCK_PLUGINS", "ODEFRAME_PLUGINS", "ODEFRAME_STRICT_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


# The contract.


def marked() -> set[str]:
    """The names in hookspecs that are marked as specifications."""
    return {name for name, value in vars(hookspecs).items() if hasattr(value, "odeframe_spec")}


def test_the_hooks_are_those_of_the_kinds() -> None:
    assert marked() == set(HOOKS.values())
    assert KINDS == ("dynamics", "control", "solver", "gradient", "architecture", "trainer", "task", "data")


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_is_documented_and_works(kind: str) -> None:
    document = getattr(hookspecs, HOOKS[kind]).__doc__
    assert document is not None
    assert "Targets build an ``odeframe." in document
    plugins.reload([offer("some", **{kind: {"thing": Thing}})])
    assert odeframe.available(kind) == ["thing"]
    assert [odeframe.available(other) for other in KINDS if other != kind] == [[]] * (len(KINDS) - 1)
    assert isinstance(odeframe.build(kind, "thing"), Thing)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "no_colon"}, "expected 'package.module:Class'"),
        ({"target": "two:colons:here"}, "expected 'package.module:Class'"),
        ({"target": 3}, "got target 3"),
        ({"traits": "step"}, r"expected a tuple of strings, as \('step',\)"),
        ({"traits": ("two words",)}, "got 'two words' in traits"),
        ({"traits": (3,)}, "got 3 in traits"),
        ({"needs": ("solver",)}, "got need 'solver'"),
        ({"needs": ("solvr:step",)}, "unknown kind 'solvr'. Did you mean 'solver'?"),
        ({"needs": ("gradient=",)}, "got need 'gradient='"),
        ({"needs": (3,)}, "got 3 in needs"),
        ({"requires": "torchode"}, "got requires 'torchode'"),
        ({"requires": ("a:b:c",)}, "got 'a:b:c' in requires"),
        ({"summary": None}, "got summary None"),
        ({"source": 3}, "got source 3"),
        ({"when": ("method=a",)}, "got when"),
        ({"when": {"method": {}}}, "got condition 'method' in when"),
        ({"when": {"method=a": {"trait": ()}}}, "expected a mapping of 'traits' and 'needs'"),
        ({"when": {"method=a": {"traits": "step"}}}, "got traits of when 'method=a' 'step'"),
        ({"when": {"method=a": {"needs": ("x:y",)}}}, "unknown kind 'x'"),
    ],
)
def test_a_malformed_part_is_refused_and_quarantines_its_plugin(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Part(**{"target": Thing, **fields})
    if "target" in fields:
        [status] = plugins.reload([offer("bad", solver={"thing": fields["target"]})])
        assert status.status == "quarantined"
        assert "odeframe_solvers, 'thing': got target" in status.reason


def test_parts_are_values() -> None:
    part = Part("a.b:C", traits=["x", "y"], needs=["solver:step"], when={"m=1": {"traits": ["z"]}})  # type: ignore[arg-type]
    assert part.traits == ("x", "y")
    assert part.when == {"m=1": {"traits": ("z",), "needs": ()}}
    assert part == Part("a.b:C", ("x", "y"), ("solver:step",), when={"m=1": {"traits": ("z",)}})
    assert hash(part) == hash(Part("a.b:C", ("x", "y"), ("solver:step",)))


def test_needs_are_read() -> None:
    assert Need.parse("solver:step") == Need("solver", "step")
    assert Need.parse("solver:!step") == Need("solver", "step", refused=True)
    assert Need.parse("gradient=backprop|other-pkg/check") == Need("gradient", names=("backprop", "other-pkg/check"))


# Loading, in memory.


def hookless() -> Any:
    return module("bad", unrelated=3)


def unmarked() -> Any:
    def odeframe_solvers() -> dict[str, Any]:
        return {}

    return module("bad", odeframe_solvers=odeframe_solvers)


def misspelt() -> Any:
    return module("bad", odeframe_solver=odeframe.hookimpl(lambda: {}))


def with_argument() -> Any:
    return module("bad", odeframe_solvers=odeframe.hookimpl(lambda kind: {}))


def with_keyword_argument() -> Any:
    def odeframe_solvers(*, kind: str) -> dict[str, Any]:
        return {}

    return module("bad", odeframe_solvers=odeframe.hookimpl(odeframe_solvers))


def wrapper() -> Any:
    def odeframe_solvers() -> Any:
        yield

    return module("bad", odeframe_solvers=odeframe.hookimpl(wrapper=True)(odeframe_solvers))


def impatient() -> Any:
    def odeframe_solvers() -> Any:
        return {name: Thing for name in odeframe.available("solver")}

    return module("bad", odeframe_solvers=odeframe.hookimpl(odeframe_solvers))


def twice() -> Any:
    first, second = odeframe.hookimpl(lambda: {"a": Thing}), odeframe.hookimpl(specname="odeframe_solvers")
    return module("bad", odeframe_solvers=first, more=second(lambda: {"a": Thing}))


def table(value: Any) -> Any:
    return offer("bad", solver=value).content


def made_for(version: Any) -> Any:
    return module("bad", ODEFRAME_API=version, odeframe_solvers=odeframe.hookimpl(lambda: {}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ImportError("no such thing\nat all"), "bad.entry does not import: ImportError: no such thing at all"),
        (SystemExit(3), "does not import: SystemExit: 3"),
        (SyntaxError("invalid"), "does not import: SyntaxError"),
        (Thing(), "is a Thing, expected a module"),
        (hookless(), "bad.entry defines no hook"),
        (unmarked(), "odeframe_solvers is not marked: write @odeframe.hookimpl above it"),
        (misspelt(), "there is no hook 'odeframe_solver'. Did you mean 'odeframe_solvers'?"),
        (with_argument(), "wrong signature, expected one without arguments"),
        (with_keyword_argument(), "odeframe_solvers raised TypeError"),
        (wrapper(), "odeframe_solvers is a wrapper"),
        (impatient(), "an entry module cannot ask for components"),
        (twice(), "provides the solver 'a' twice"),
        (table(KeyError("x")), "odeframe_solvers raised KeyError: 'x'"),
        (table(SystemExit("bye")), "odeframe_solvers raised SystemExit: bye"),
        (table(None), "odeframe_solvers returned None, expected a mapping"),
        (table([("a", Thing)]), "expected a mapping from names to parts"),
        (table({"Upper": Thing}), "has the name 'Upper', expected a lower-case letter"),
        (table({"a/b": Thing}), "has the name 'a/b'"),
        (table({3: Thing}), "has the name 3"),
        (table({"a": None}), "odeframe_solvers, 'a': got target None"),
        (table({"a": Part(Thing, needs=("solver:step",))}), "a solver has a need of its own kind"),
        (table({"a": Part(Thing, when={"m=1": {"needs": ("solver:x",)}})}), "a need of its own kind"),
        (made_for(2), "it is too new: made for ODEFRAME_API 2, this odeframe has 1"),
        (made_for("1"), "got ODEFRAME_API = '1'"),
        (made_for(True), "got ODEFRAME_API = True"),
        (made_for(0), "got ODEFRAME_API = 0"),
    ],
)
def test_a_faulty_plugin_is_quarantined_alone(content: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [offer("good", solver={"thing": Thing}), FakeEntry("bad", content, version="0.3")]
    bad, good = plugins.reload(entries)
    assert (bad.package, bad.version, bad.status, bad.parts) == ("bad", "0.3", "quarantined", {})
    assert reason in bad.reason
    assert "\n" not in bad.reason
    assert (good.status, good.reason, good.counts) == ("ok", "", {"solver": 1})
    assert isinstance(odeframe.build("solver", "thing"), Thing)
    with pytest.raises(UnknownComponent) as unknown:
        odeframe.build("solver", "other")
    assert f"bad 0.3 is quarantined: {bad.reason}" in str(unknown.value)
    monkeypatch.setenv("ODEFRAME_STRICT_PLUGINS", "1")
    with pytest.raises(OdeframeError) as strict:
        plugins.reload(entries)
    assert f"plugin bad 0.3: {bad.reason}" in str(strict.value)


def test_interrupts_are_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        plugins.reload([FakeEntry("bad", KeyboardInterrupt())])
    assert plugins.reload([]) == ()


def test_the_reason_keeps_its_cause_in_strict_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODEFRAME_STRICT_PLUGINS", "1")
    with pytest.raises(OdeframeError) as caught:
        plugins.reload([FakeEntry("bad", ImportError("deep"))])
    assert isinstance(caught.value.__cause__, ImportError)


def test_equal_entry_point_names_are_told_apart_by_distribution() -> None:
    found = plugins.reload([offer("one", solver={"a": Thing}), offer("two", solver={"b": Thing})])
    assert [plugin.package for plugin in found] == ["one", "two"]
    assert odeframe.available("solver") == ["a", "b"]


def test_one_distribution_listed_twice_is_loaded_once() -> None:
    first, second = offer("My_Pkg", solver={"a": Thing}), offer("my-pkg", solver={"a": Thing})
    second.value = first.value
    [plugin] = plugins.reload([first, second])
    assert (plugin.package, plugin.status) == ("my-pkg", "ok")
    assert odeframe.available("solver") == ["a"]


def test_a_package_has_one_entry_point() -> None:
    second = offer("some", solver={"b": Thing})
    second.value = "some.other"
    [plugin] = plugins.reload([offer("some", solver={"a": Thing}), second])
    assert plugin.status == "quarantined"
    assert "it has 2 entry points in the group 'odeframe' (some.entry, some.other)" in plugin.reason


@given(st.permutations(["a", "b", "odeframe", "d"]))
def test_no_result_depends_on_the_order_of_plugins(order: list[str]) -> None:
    entries = {
        "a": offer("a", solver={"x": Thing, "y": Thing}),
        "b": offer("b", solver={"x": Thing, "z": Thing}),
        "odeframe": offer("odeframe", solver={"z": Thing}),
        "d": FakeEntry("d", ImportError("d")),
    }
    saved = plugins._loaded
    try:
        found = plugins.reload(entries[name] for name in order)
        assert [plugin.package for plugin in found] == ["a", "b", "d", "odeframe"]
        assert odeframe.available("solver") == ["a/x", "b/x", "b/z", "y", "z"]
    finally:
        plugins._loaded = saved


# Conflicts.


def test_two_providers_conflict_when_the_name_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [offer("one", "1.5", solver={"a": Thing, "mine": Thing}), offer("Two_", "2.5", solver={"a": Thing})]
    one, two = plugins.reload(entries)
    assert one.status == two.status == "ok"
    assert one.notes == ("solver one/a is reached by that spelling only: two- has the name too",)
    assert odeframe.available("solver") == ["mine", "one/a", "two-/a"]
    with pytest.raises(
        PluginConflict, match=r"solver 'a' is provided by one 1.5 and two- 2.5: write 'one/a' or 'two-/a'"
    ):
        odeframe.build("solver", "a")
    assert registry.resolve("solver", "ONE/a").package == "one"
    assert registry.resolve("solver", "two_/a").package == "two-"
    monkeypatch.setenv("ODEFRAME_STRICT_PLUGINS", "true")
    with pytest.raises(PluginConflict, match="several providers: one/a, two-/a"):
        plugins.reload(entries)


def test_our_names_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODEFRAME_STRICT_PLUGINS", "1")  # a clash with ours is settled, so it is no error
    entries = [offer("other", solver={"a": Thing}), offer("odeframe", solver={"a": "odeframe.errors:DataError"})]
    ours, other = plugins.reload(entries)
    assert ours.notes == ()
    assert other.notes == ("solver other/a is reached by that spelling only: odeframe has the name too",)
    assert odeframe.available("solver") == ["a", "other/a"]
    assert registry.resolve("solver", "a").package == "odeframe"
    assert registry.resolve("solver", "odeframe/a").package == "odeframe"
    assert isinstance(odeframe.build("solver", "other/a"), Thing)


# What the environment lets in.


def three() -> list[FakeEntry]:
    return [
        offer("odeframe", solver={"o": Thing}),
        offer("one", solver={"a": Thing}),
        offer("two", solver={"b": Thing}),
    ]


def test_blocked_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODEFRAME_BLOCK_PLUGINS", " ONE ,,")
    found = plugins.reload([*three()[:1], FakeEntry("one", RuntimeError("never imported")), three()[2]])
    assert [(plugin.package, plugin.status) for plugin in found] == [
        ("odeframe", "ok"),
        ("one", "blocked"),
        ("two", "ok"),
    ]
    assert odeframe.available("solver") == ["b", "o"]
    with pytest.raises(UnknownComponent, match=r"one 1\.0 is blocked: named in ODEFRAME_BLOCK_PLUGINS"):
        odeframe.build("solver", "a")


def test_allowed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODEFRAME_PLUGINS", "two")
    plugins.reload(three())
    assert odeframe.available("solver") == ["b", "o"]
    with pytest.raises(UnknownComponent, match=r"one 1\.0 is blocked: not named in ODEFRAME_PLUGINS"):
        odeframe.build("solver", "a")
    monkeypatch.setenv("ODEFRAME_PLUGINS", "odeframe")
    plugins.reload(three())
    assert odeframe.available("solver") == ["o"]
    monkeypatch.setenv("ODEFRAME_PLUGINS", "one,two")
    monkeypatch.setenv("ODEFRAME_BLOCK_PLUGINS", "two")
    plugins.reload(three())
    assert odeframe.available("solver") == ["a", "o"]


def test_a_list_that_has_no_effect_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODEFRAME_BLOCK_PLUGINS", "onne")
    with pytest.warns(UserWarning, match=r"names onne, which is no installed plugin. Did you mean 'one'\?"):
        plugins.reload(three())
    assert odeframe.available("solver") == ["a", "b", "o"]
    monkeypatch.delenv("ODEFRAME_BLOCK_PLUGINS")
    monkeypatch.setenv("ODEFRAME_PLUGINS", "onne")
    with pytest.warns(UserWarning, match="ODEFRAME_PLUGINS names onne"):
        plugins.reload(three())
    assert odeframe.available("solver") == ["o"]  # a misspelt list lets in nobody, rather than everybody


def test_strict_is_one_or_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODEFRAME_STRICT_PLUGINS", "perhaps")
    with pytest.raises(InvalidOption, match="got ODEFRAME_STRICT_PLUGINS=perhaps, expected 1 or 0"):
        plugins.reload([])
    monkeypatch.setenv("ODEFRAME_STRICT_PLUGINS", "0")
    assert len(plugins.reload([FakeEntry("bad", ImportError("x"))])) == 1


@given(st.text("aB-_.1", min_size=1))
def test_normalised_names(name: str) -> None:
    normal = discovery.normalise(name)
    assert discovery.normalise(normal) == normal
    assert discovery.normalise(name.upper().replace("_", ".")) == normal
    assert not {"_", ".", "--"} & {normal[at : at + size] for at in range(len(normal)) for size in (1, 2)}


# Metadata on disk.


def metadata(folder: Path, package: str, points: str, suffix: str = "1.0.dist-info", version: str = "1.0") -> None:
    """Write the metadata of a package without its code."""
    where = folder / f"{package}-{suffix}"
    where.mkdir(parents=True)
    name = "PKG-INFO" if "egg" in suffix else "METADATA"
    (where / name).write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (where / "entry_points.txt").write_text(points)


def test_metadata_is_found_once_and_the_first_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata(tmp_path / "a", "some_pkg", "[odeframe]\nx = no_such_module_a\n", "2.0.egg-info", "2.0")
    metadata(tmp_path / "b", "some_pkg", "[odeframe]\nx = no_such_module_b\n")
    metadata(tmp_path / "b", "unconcerned", "[console_scripts]\nthis line is malformed\n")
    metadata(tmp_path / "b", "malformed", "[odeframe]\nthis line is malformed\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
    found = {plugin.package: plugin for plugin in plugins.reload()}
    assert sorted(found) == ["malformed", "some-pkg"]
    assert found["some-pkg"].version == "2.0"
    assert "no_such_module_a does not import: ModuleNotFoundError" in found["some-pkg"].reason
    assert "entry_points.txt does not import" in found["malformed"].reason


def test_loading_is_lazy_and_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(plugins, "installed", lambda: calls.append(1) or three())
    assert odeframe.available("solver") == ["a", "b", "o"]
    assert plugins.status() == plugins.status() == list(plugins.loaded())
    assert calls == [1]


# Installed for real.


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the toy packages, to be put on a fresh Python's path."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = shutil.copytree(PACKAGES, folder / "sources")  # pip leaves its build folders beside the source
    packages = sorted(path.parent for path in sources.glob("*/pyproject.toml"))
    assert len(packages) == 6
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), *map(str, packages)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def fresh_python(code: str, *path: Path, **variables: str) -> Any:
    """What the code prints, as JSON, in a Python of its own with these folders on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ODEFRAME_")}
    kept["PYTHONPATH"] = os.pathsep.join(map(str, (*path, ROOT)))
    program = f"import json, sys, odeframe, odeframe.plugins, odeframe.registry\n{textwrap.dedent(code)}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**kept, **variables}, cwd=os.sep
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_installed_plugins_are_listed_without_importing_their_parts(site: Path) -> None:
    shown = fresh_python(
        """
        names = {kind: odeframe.available(kind) for kind in ("solver", "control")}
        status = {each.package: [each.version, each.status, each.reason] for each in odeframe.plugins.status()}
        heavy = [name for name in sys.modules if name.split(".")[0] in ("torch", "pytorch_lightning")]
        heavy += [name for name in sys.modules if name.startswith("odeframe_toy.")]
        print(json.dumps({"names": names, "status": status, "heavy": heavy}))
        """,
        site,
    )
    assert {"rk4", "odeframe-clash/rk4", "toy_absent", "odeframe-toy/toy_leap", "odeframe-conflict/toy_leap"} <= set(
        shown["names"]["solver"]
    )
    assert "toy_leap" not in shown["names"]["solver"]
    assert "toy_ramp" in shown["names"]["control"]
    assert shown["heavy"] == []
    status = shown["status"]
    assert status["odeframe"][1:] == ["ok", ""]
    assert status["odeframe-toy"] == ["1.2.0", "ok", ""]
    assert status["odeframe-conflict"] == ["2.0.0", "ok", ""]
    assert status["odeframe-clash"] == ["0.1.0", "ok", ""]
    assert status["odeframe-broken"][1:] == [
        "quarantined",
        "odeframe_broken does not import: RuntimeError: the toy is broken on purpose",
    ]
    assert status["odeframe-misspelt"][1] == "quarantined"
    assert "Did you mean 'odeframe_solvers'?" in status["odeframe-misspelt"][2]
    assert status["odeframe-too-new"][1] == "quarantined"
    assert "made for ODEFRAME_API 999" in status["odeframe-too-new"][2]


@pytest.mark.slow
def test_installed_plugins_are_built(site: Path) -> None:
    shown = fresh_python(
        """
        def told(work):
            try:
                return repr(work())
            except odeframe.OdeframeError as error:
                return f"{type(error).__name__}: {error}"

        leap = odeframe.build("solver", "odeframe-toy/toy_leap", steps=7)
        print(json.dumps({
            "leap": [type(leap).__module__, type(leap).__name__, leap.steps, leap.method],
            "ramp": odeframe.build("control", "toy_ramp").slope,
            "conflict": told(lambda: odeframe.build("solver", "toy_leap")),
            "clash": type(odeframe.build("solver", "odeframe-clash/rk4")).__module__,
            "ours": odeframe.registry.resolve("solver", "rk4").package,
            "option": told(lambda: odeframe.build("solver", "odeframe_toy/toy_leap", step=7)),
            "value": told(lambda: odeframe.build("solver", "odeframe-toy/toy_leap", steps=0)),
            "absent": told(lambda: odeframe.build("solver", "toy_absent")),
            "lost": told(lambda: odeframe.build("solver", "toy_lost")),
        }))
        """,
        site,
    )
    assert shown["leap"] == ["odeframe_toy.solvers", "Leap", 7, "long"]
    assert shown["ramp"] == 1.0
    assert shown["clash"] == "odeframe_clash"
    assert shown["ours"] == "odeframe"
    assert shown["conflict"] == (
        "PluginConflict: solver 'toy_leap' is provided by odeframe-conflict 2.0.0 and odeframe-toy 1.2.0:"
        " write 'odeframe-conflict/toy_leap' or 'odeframe-toy/toy_leap'"
    )
    assert shown["option"].startswith("InvalidOption: solver 'odeframe-toy/toy_leap' has no option 'step'")
    assert "Did you mean 'steps'? Its options: steps: int = 4, method: str = 'long'." in shown["option"]
    assert shown["value"] == "InvalidOption: solver 'odeframe-toy/toy_leap': got steps=0, expected at least 1"
    assert shown["absent"].endswith("needs odeframe_toy_lacks_this: pip install odeframe-toy[odeframe_toy_lacks_this]")
    for package in ("odeframe-broken 0.1.0", "odeframe-misspelt 0.1.0", "odeframe-too-new 9.0.0"):
        assert f"{package} is quarantined" in shown["lost"]


def test_installed_plugins_are_chosen_by_the_environment(site: Path) -> None:
    code = """
        found = {each.package: each.status for each in odeframe.plugins.status()}
        modules = [name for name in sys.modules if name.startswith("odeframe_b")]
        print(json.dumps([found, odeframe.available("solver"), modules]))
    """
    found, names, modules = fresh_python(code, site, ODEFRAME_PLUGINS="odeframe.toy")
    assert {package for package, status in found.items() if status == "ok"} == {"odeframe", "odeframe-toy"}
    assert "toy_leap" in names
    assert modules == []
    found, names, _ = fresh_python(code, site, ODEFRAME_BLOCK_PLUGINS="Odeframe_Conflict,odeframe-clash")
    assert found["odeframe-conflict"] == found["odeframe-clash"] == "blocked"
    assert "toy_leap" in names
    assert "odeframe-clash/rk4" not in names


def test_strict_mode_stops_at_the_first_fault(site: Path) -> None:
    code = """
        try:
            odeframe.available("solver")
        except odeframe.OdeframeError as error:
            print(json.dumps(str(error)))
    """
    message = fresh_python(code, site, ODEFRAME_STRICT_PLUGINS="1")
    assert message.startswith("plugin odeframe-broken 0.1.0: odeframe_broken does not import: RuntimeError")


def test_importing_the_plugin_system_imports_nothing_heavy() -> None:
    heavy = fresh_python(
        """
        import odeframe.compatibility
        odeframe.plugins.status()
        odeframe.available("solver")
        heavy = {"torch", "pytorch_lightning", "numpy", "sklearn", "matplotlib"}
        print(json.dumps(sorted(heavy & set(sys.modules))))
        """
    )
    assert heavy == []
