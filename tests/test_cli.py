"""The command line: words from files and arguments, what a command prints and leaves, and its exit status."""

import csv
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

import odeframe
from odeframe import plugins
from odeframe.cli import main
from odeframe.cli.sources import read_config, read_text, write_text
from odeframe.cli.words import argument_words, completed, overlaid
from odeframe.data import specification
from odeframe.errors import InvalidOption
from plugin_fakes import offer

ROOT = Path(__file__).resolve().parents[1]
BATCHES = 5
SMALL = (
    *("--data=two_moons", "--data.n=100", "--data.batch_size=14"),
    *("--model.architecture.width=4", "--model.architecture.blocks=1", "--trainer.accelerator=cpu"),
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """Runs a command that succeeds; what it printed on standard output and error."""

    def command(*arguments):
        status = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert status == 0, err
        return out, err

    return command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a fit."""
    output = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *SMALL, "--trainer.max_epochs=2", "--output", str(output), "--quiet"]) == 0
    return output


def last(folder):
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


# --- help, version, plugins


def test_help_lists_what_there_is_and_nothing_else(run, capsys):
    out, _ = run("--help")
    for command in ("fit", "validate", "test", "predict", "demo", "compare", "matrix", "solve-check", "plugins"):
        assert f"odeframe {command}" in out
    assert main([]) == 2
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_a_command_has_the_registered_names_and_examples(run, command):
    out, _ = run(command, "--help")
    assert "rk4" in out and "two_moons" in out and f"  odeframe {command} --" in out
    assert run(command, "-h")[0] == out


def test_version(run):
    assert run("--version")[0] == f"odeframe {odeframe.__version__}\n"


def test_plugins_list_and_show(run):
    out, _ = run("plugins", "list")
    assert out.startswith("odeframe ") and "rk4" in out
    found = json.loads(run("plugins", "list", "--json")[0])
    assert [each["package"] for each in found] == ["odeframe"]
    assert {"euler", "rk4", "dopri5"} <= set(found[0]["parts"]["solver"])
    assert json.loads(run("plugins", "show", "odeframe", "--json")[0]) == found[0]
    out, _ = run("plugins", "show", "solver", "rk4")
    assert "order 4" in out and "traits: step" in out and "steps: int | None, default None" in out
    assert json.loads(run("plugins", "show", "solver", "rk4", "--json")[0])["qualified"] == "odeframe/rk4"


def test_a_broken_plugin_is_listed_with_its_reason_and_the_others_work(run):
    try:
        plugins.reload(
            [offer("sound", solver={"mine": "sound.solvers:Mine"}), offer("torn", solver=ValueError("gone"))]
        )
        out, _ = run("plugins", "list")
        assert "sound 1.0  ok\n  solver        mine\n" in out
        assert "torn 1.0  quarantined: odeframe_solvers raised ValueError: gone" in out
        found = {each["package"]: each for each in json.loads(run("plugins", "list", "--json")[0])}
        assert found["torn"]["status"] == "quarantined" and "gone" in found["torn"]["reason"]
        assert found["sound"]["parts"] == {"solver": ["mine"]}
        assert "gone" in run("plugins", "show", "torn")[0]
    finally:
        plugins.reload()


def test_plugins_list_works_where_the_reader_of_the_pipe_goes_away():
    command = f"{sys.executable} -m odeframe plugins list | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


# --- words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-3", 1e-3),
            ("1E5", 1e5),
            (".5", 0.5),
            ("3", 3),
            ("-3", -3),
            ("0x1f", 31),
            ("010", 10),
            ("-.inf", -torch.inf),
        ),
        *(("true", True), ("no", "no"), ("on", "on"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("1_0", "1_0")),
        *(("null", None), ("", None), ("~", None), ("'3'", "3"), ("[1, 2e0]", [1, 2.0]), ("{a: 1e-2}", {"a": 0.01})),
    ],
)
def test_values_are_read_as_yaml_1_2(text, value):
    read = read_text(text, "value")
    assert read == value and type(read) is type(value)
    assert read_text(write_text(value), "value") == value


def words(*layers):
    """The words of layers: mappings, or lists of arguments."""

    def layer(each):
        if isinstance(each, dict):
            return each
        pairs = (text.removeprefix("--").split("=", 1) for text in each)
        return argument_words((name.split("."), value) for name, value in pairs)

    found = overlaid(map(layer, layers))
    data = odeframe.build("data", "digits")
    return completed({key: value for key, value in found.items() if key != "data"}, specification(data)), found


@pytest.mark.parametrize(
    ("layers", "kind", "expected"),
    [
        ([["--model.solver=rk4"]], "solver", {"name": "rk4"}),
        ([["--model.solver.name=rk4", "--model.solver.steps=8"]], "solver", {"name": "rk4", "steps": 8}),
        ([["--model.solver={name: rk4, steps: 8}"]], "solver", {"name": "rk4", "steps": 8}),
        ([["--model={solver: {name: rk4, steps: 8}}"]], "solver", {"name": "rk4", "steps": 8}),
        # options alone: on top of the architecture's default, in whatever order
        ([["--model.solver.steps=8"]], "solver", {"name": "euler", "steps": 8}),
        ([["--model.solver.steps=8", "--model.solver=rk4"]], "solver", {"name": "rk4", "steps": 8}),
        (
            [["--model.architecture=neural_ode", "--model.solver.rtol=1e-6"]],
            "solver",
            {"name": "dopri5", "rtol": 1e-6, "atol": 1e-3},
        ),
        ([["--model.architecture.width=32"]], "architecture", {"name": "resnet", "width": 32}),
        # layers over layers
        ([{"model": {"solver": "rk4"}}, ["--model.solver.steps=8"]], "solver", {"name": "rk4", "steps": 8}),
        (
            [{"model": {"solver": {"name": "rk4", "steps": 4}}}, ["--model.solver.steps=8"]],
            "solver",
            {"name": "rk4", "steps": 8},
        ),
        (
            [{"model": {"solver": {"name": "rk4", "steps": 4}}}, ["--model.solver=euler"]],
            "solver",
            {"name": "euler", "steps": 4},
        ),
        ([{"model": {"solver": "rk4"}}, {"model": {"solver": "euler"}}], "solver", {"name": "euler"}),
        (
            [{"model": {"solver": {"name": "rk4", "steps": 4}}}, {"model": {"solver": {"steps": 2}}}],
            "solver",
            {"name": "rk4", "steps": 2},
        ),
        ([{"model": {"solver": "odeframe/rk4"}}, ["--model.solver=rk4"]], "solver", {"name": "rk4"}),
        # a trainer's word for a gradient
        ([["--model.trainer=adjoint"]], "trainer", "gradient"),
        ([["--model.trainer=adjoint", "--model.gradient.rtol=1e-3"]], "gradient", {"name": "adjoint", "rtol": 1e-3}),
        (
            [{"model": {"trainer": "gradient", "gradient": "backprop"}}, ["--model.trainer=adjoint"]],
            "gradient",
            {"name": "adjoint"},
        ),
        # what is no word
        ([["--model.learning_rate=1e-3"]], "learning_rate", 1e-3),
        ([{"model": {"learning_rate": 1.0}}, ["--model.learning_rate=1e-3"]], "learning_rate", 1e-3),
        (
            [{"model": {"optimizer_options": {"eps": 1e-3}}}, ["--model.optimizer_options.weight_decay=1e-2"]],
            "optimizer_options",
            {"eps": 1e-3, "weight_decay": 1e-2},
        ),
    ],
)
def test_words_are_laid_over_each_other(layers, kind, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = words(*layers)
    said = found[kind]
    assert (said["name"] if isinstance(expected, str) and isinstance(said, dict) else said) == expected


def test_null_takes_the_default_again():
    found, _ = words({"model": {"solver": {"name": "rk4", "steps": 3}}}, ["--model.solver=null"])
    assert "solver" not in found


def test_options_that_the_new_part_has_not_are_dropped_with_a_warning():
    with pytest.warns(UserWarning, match="solver 'rk4' has no option 'rtol', 'atol'"):
        found, _ = words({"model": {"solver": {"name": "dopri5", "rtol": 1e-3, "atol": 1e-3}}}, ["--model.solver=rk4"])
    assert found["solver"] == {"name": "rk4"}


@pytest.mark.parametrize("text", ["0", "1e3", "true", "no"])
def test_text_stays_text_where_text_is_asked_for(text):
    from odeframe.cli.words import with_types

    found = argument_words([(["data"], "csv"), (["data", "target"], text), (["data", "seed"], "3")])["data"]
    assert with_types("data", found) == {"name": "csv", "target": text, "seed": 3}


def test_null_is_none_where_text_or_none_is_asked_for():
    from odeframe.cli.words import with_types

    found = argument_words([(["data"], "csv"), (["data", "target"], "null")])["data"]
    assert with_types("data", found) == {"name": "csv", "target": None}


def test_the_keys_of_a_config_know_their_lines():
    Path("a.yaml").write_text("model:\n  solver: rk4\ntrainer:\n\n  max_epochs: 3\n")
    source = read_config("a.yaml")
    assert source.where("trainer.max_epochs") == "config a.yaml, line 5"
    assert read_config_of("") == read_config_of("# nothing\n") == {}


def read_config_of(text):
    Path("b.yaml").write_text(text)
    return read_config("b.yaml").values


# --- fit


def test_a_fit_prints_one_header_a_line_an_epoch_and_where_things_are(run):
    out, err = run("fit", *SMALL, "--trainer.max_epochs=2", "--output=first")
    lines = out.splitlines()
    assert lines[0].startswith("resnet(width=4, blocks=1) on two_moons(n=100, batch_size=14): task classification, ")
    assert "solver euler" in lines[0] and lines[0].endswith(" parameters")
    assert [line.split()[:2] for line in lines[1:3]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert [line.split()[:2] for line in lines[3:]] == [
        ["best", "first/checkpoints/best.ckpt"],
        ["last", "first/checkpoints/last.ckpt"],
        ["metrics", "first/metrics.csv"],
        ["config", "first/config.yaml"],
    ]
    assert all(Path(line.split()[1]).is_file() for line in lines[3:])
    assert err == ""
    assert [row["epoch"] for row in rows("first/metrics.csv") if row["val_nfe"]] == ["0", "1"]


def test_quiet_leaves_the_results_alone(run):
    out, err = run("fit", *SMALL, "--trainer.max_epochs=1", "--quiet", "--output=first")
    assert [line.split()[0] for line in out.splitlines()] == ["best", "last", "metrics", "config"]
    assert err == ""


def test_the_default_folder_is_named_after_date_and_architecture(run):
    run("fit", *SMALL, "--trainer.max_epochs=1", "--quiet")
    (folder,) = Path("runs").iterdir()
    assert folder.name.endswith("-resnet") and (folder / "config.yaml").is_file()


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "extra",
    [
        [],
        [
            "--model.architecture=neural_ode",
            "--model.solver.rtol=1e-2",
            "--seed_everything=7",
            "--model.schedule=constant",
        ],
        slowly(["--optimizer=SGD", "--optimizer.lr=1e-2", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"]),
        slowly(
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss", "--model.trainer=adjoint"]
        ),
    ],
    ids=["words", "seed", "optimizer", "callbacks"],
)
def test_the_printed_config_gives_the_same_run(run, extra):
    extra = [
        *(SMALL if "--model.architecture=neural_ode" not in extra else SMALL[:3]),
        *extra,
        "--trainer.max_epochs=1",
    ]
    printed, err = run("fit", *extra, "--print_config")
    assert not list(Path.cwd().iterdir()) and "dropped" not in err
    Path("printed.yaml").write_text(printed)
    assert run("fit", "--config=printed.yaml", "--print_config")[0] == printed
    run("fit", *extra, "--output=first", "--quiet")
    run("fit", "--config=printed.yaml", "--output=second", "--quiet")
    assert Path("first/config.yaml").read_text() == Path("second/config.yaml").read_text() == printed
    first, second = last("first"), last("second")
    assert first["hyper_parameters"] == second["hyper_parameters"]
    assert all(torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"])


def test_the_printed_config_is_made_of_words(run):
    config = read_text(run("fit", *SMALL, "--model.solver=rk4", "--print_config")[0], "config")
    assert config["model"]["architecture"] == {"name": "resnet", "width": 4, "blocks": 1}
    assert config["model"]["solver"] == {"name": "rk4"} and config["model"]["task"] == {"name": "classification"}
    assert config["data"] == {"name": "two_moons", "n": 100, "batch_size": 14}
    assert config["seed_everything"] == 0 and config["trainer"]["max_epochs"] == 10


def test_the_seed_decides_the_weights(run):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("fit", *SMALL, "--trainer.max_epochs=1", f"--seed_everything={seed}", "--quiet", f"--output={name}")
    weights = {name: next(iter(last(name)["state_dict"].values())) for name in "abc"}
    assert torch.equal(weights["a"], weights["b"]) and not torch.equal(weights["a"], weights["c"])


def test_files_in_order_then_arguments(run):
    Path("a.yaml").write_text("model: {solver: rk4}\ntrainer: {max_epochs: 3, max_steps: 4}\n")
    Path("b.yaml").write_text("data: {name: two_moons, n: 100}\ntrainer: {max_epochs: 5}\noutput: there\n")
    arguments = ("--trainer.max_steps=2", "--config", "a.yaml", "--config", "b.yaml", "--model.solver.steps=2")
    config = read_text(run("fit", *arguments, "--print_config")[0], "config")
    assert config["model"]["solver"] == {"name": "rk4", "steps": 2} and config["data"]["n"] == 100
    assert config["trainer"]["max_epochs"] == 5 and config["trainer"]["max_steps"] == 2
    run("fit", *arguments, "--quiet")
    assert last("there")["global_step"] == 2


def test_lightning_s_loggers_and_callbacks_pass_through(run):
    logger = ("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=tb")
    stop = (
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=val_loss",
        "--trainer.callbacks.patience=9",
    )
    run("fit", *SMALL, *logger, *stop, "--trainer.max_epochs=1", "--output=first", "--quiet")
    assert list(Path("tb").rglob("events.out*")) and not Path("first/metrics.csv").exists()
    assert any(key.startswith("EarlyStopping") for key in last("first")["callbacks"])
    run(
        "fit",
        *SMALL,
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.max_steps=1",
        "--output=o",
    )
    assert [path.name for path in Path("o").iterdir()] == ["config.yaml"]


def test_lightning_s_optimizer_and_scheduler_replace_the_module_s(run):
    arguments = ("--optimizer=SGD", "--optimizer.lr=1e-2", "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.5")
    run("fit", *SMALL, *arguments, "--trainer.max_epochs=2", "--output=first", "--quiet")
    found = last("first")
    assert "betas" not in found["optimizer_states"][0]["param_groups"][0]
    assert found["lr_schedulers"][0]["gamma"] == 0.5
    assert found["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-2 * 0.5**2)
    _, err = run(
        "fit", "--ckpt_path=first/checkpoints/last.ckpt", "--trainer.max_epochs=3", "--output=second", "--quiet"
    )
    assert err == "" and last("second")["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-2 * 0.5**3)


def test_a_scheduler_alone_works_on_the_model_s_optimizer(run):
    arguments = ("--model.optimizer=SGD", "--model.learning_rate=1e-2", "--model.optimizer_options.momentum=0.5")
    out, _ = run("fit", *SMALL, *arguments, "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1", "--print_config")
    config = read_text(out, "config")
    assert config["optimizer"]["class_path"] == "torch.optim.SGD"
    assert config["optimizer"]["init_args"]["lr"] == 1e-2 and config["optimizer"]["init_args"]["momentum"] == 0.5
    assert "learning_rate" not in config["model"]


def test_a_class_of_an_enabled_plugin_may_be_named(run, tmp_path, monkeypatch):
    (tmp_path / "far_plugin.py").write_text(
        "import pytorch_lightning as pl\n"
        "class Shout(pl.Callback):\n"
        "    def on_fit_start(self, trainer, pl_module):\n"
        "        print('far away')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        plugins.reload([*plugins.installed(), offer("far", solver={"far": "far_plugin:Far"})])
        out, _ = run("fit", *SMALL, "--trainer.callbacks+=far_plugin.Shout", "--trainer.max_steps=1", "--output=first")
        assert "far away" in out
    finally:
        plugins.reload()
        sys.modules.pop("far_plugin", None)


@pytest.mark.parametrize("limit", ["max_epochs=0", "max_steps=0", "limit_train_batches=0"])
def test_a_fit_of_nothing_is_said(run, limit):
    _, err = run("fit", *SMALL, f"--trainer.{limit}", "--output=first", "--quiet")
    assert "warning: nothing was trained, the weights are as they were: got " in err and limit in err
    assert Path("first/config.yaml").is_file()


def test_a_folder_with_a_run_in_it_is_not_overwritten(run):
    run("fit", *SMALL, "--trainer.max_epochs=1", "--output=first", "--quiet")
    before = Path("first/metrics.csv").read_text()
    _, err = run("fit", *SMALL, "--trainer.max_epochs=1", "--seed_everything=3", "--output=first", "--quiet")
    assert err == "warning: first held an earlier run, which is now in first/earlier-1\n"
    assert Path("first/earlier-1/metrics.csv").read_text() == before
    assert Path("first/earlier-1/checkpoints/last.ckpt").is_file() and Path("first/checkpoints/last.ckpt").is_file()
    _, err = run("fit", *SMALL, "--trainer.max_epochs=1", "--output=first", "--quiet")
    assert "first/earlier-2" in err


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("--trainer.max_epochs=0", 0),
        ("--trainer.limit_train_batches=0", 0),
        ("--trainer.fast_dev_run=true", 0),
        ("--model.trainer=msa", 2),
    ],
)
def test_a_fit_that_trains_no_batch_leaves_an_earlier_run_where_it_is(run, more, status, capsys):
    run("fit", *SMALL, "--trainer.max_epochs=1", "--output=first", "--quiet")
    before = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    assert main(["fit", *SMALL, "--trainer.max_epochs=1", more, "--output=first", "--quiet"]) == status
    assert "earlier" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()} == before
    assert not list(Path("first").glob("earlier*"))


def test_where_nothing_is_left_to_do_the_configuration_stays_that_of_the_run(run):
    run("fit", *SMALL, "--trainer.max_epochs=2", "--output=first", "--quiet")
    before = Path("first/config.yaml").read_text("utf-8")
    again = ("--model.learning_rate=0.5", "--trainer.max_epochs=1", "--output=first", "--resume=auto")
    out, err = run("fit", *SMALL, *again)
    assert "nothing left to do" in out and "no effect: lr=0.5" in err
    assert Path("first/config.yaml").read_text("utf-8") == before


def test_what_a_plugin_notes_is_shown(run):
    Path("t.csv").write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(60)))
    _, err = run("fit", "--data=csv", "--data.path=t.csv", "--data.target=y", "--print_config")
    assert "note: t.csv: task classification, because" in err


def test_debug_keeps_the_libraries_own_words(capsys):
    with warnings.catch_warnings():
        assert main(["fit", *SMALL, "--trainer.max_steps=1", "--output=first", "--debug"]) == 0
    assert "error" not in capsys.readouterr().err


# --- checkpoints


def test_a_resumed_fit_continues(run, trained):
    path = trained / "checkpoints" / "last.ckpt"
    out, err = run("fit", "--ckpt_path", path, "--trainer.max_epochs=4", "--output=more")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("epoch")] == ["3/4", "4/4"]
    assert err == "" and last("more")["global_step"] == 4 * BATCHES
    assert read_config("more/config.yaml").values["model"] == read_config(str(trained / "config.yaml")).values["model"]


def test_an_option_that_a_resumed_fit_ignores_is_named(run, trained):
    arguments = ("--ckpt_path", trained / "checkpoints" / "last.ckpt", "--trainer.max_epochs=3", "--output=more")
    _, err = run("fit", *arguments, "--model.learning_rate=0.5")
    assert "no effect: lr=0.5" in err


@pytest.mark.parametrize("command", ["test", "validate"])
def test_a_checkpoint_alone_knows_its_model_and_data(run, trained, command):
    out, err = run(command, "--ckpt_path", trained / "checkpoints" / "last.ckpt")
    assert "resnet(width=4, blocks=1) on two_moons(n=100, batch_size=14)" in out and err == ""
    module = odeframe.FlowModule.load(trained / "checkpoints" / "last.ckpt")
    data = odeframe.build("data", "two_moons", n=100, batch_size=14)
    found = getattr(odeframe.Run(module, data), command)(accelerator="cpu", enable_progress_bar=False)
    stage = "val" if command == "validate" else "test"
    table = dict(line.replace("│", " ").split() for line in out.splitlines() if line.startswith("│"))
    for name in ("loss", "accuracy", "nfe"):
        assert float(table[name]) == pytest.approx(found[f"{stage}_{name}"], rel=1e-4)
    assert not list(Path.cwd().iterdir())


def test_a_checkpoint_under_another_solver(run, trained):
    path = trained / "checkpoints" / "last.ckpt"
    out, _ = run("test", "--ckpt_path", path, "--model.solver=rk4")
    assert "solver rk4" in out and " 4 " in next(line for line in out.splitlines() if "nfe" in line)


def test_predictions_of_a_checkpoint(run, trained):
    out, err = run("predict", "--ckpt_path", trained / "checkpoints" / "last.ckpt", "--output=there")
    assert out.splitlines()[-1] == "predictions there/predictions.csv" and err == ""
    found = rows("there/predictions.csv")
    assert len(found) == 20 and {"sample", "label", "probability_0"} <= found[0].keys()


def test_a_pass_without_a_checkpoint_warns(run):
    _, err = run("test", *SMALL)
    assert "warning: no --ckpt_path: test sees weights that are not trained" in err


def test_the_data_of_a_checkpoint_can_be_named_again(run, trained):
    out, _ = run("test", "--ckpt_path", trained / "checkpoints" / "last.ckpt", "--data.batch_size=3")
    assert "two_moons(n=100, batch_size=3)" in out


# --- examples


QUICK = ("neural_ode_digits", "schedule_and_stopping")
FITTED = [
    pytest.param(path, marks=[] if path.stem in QUICK else [pytest.mark.slow], id=path.stem)
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    if path.stem != "compare"  # which is compare's
]


@pytest.mark.parametrize("path", FITTED)
def test_example_configs_run(run, path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)  # their paths start there
    few = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")
    run("fit", "--config", path, *few, "--output", tmp_path / "run", "--quiet")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


# --- signals and several processes


def test_a_rank_that_was_killed_is_told(capsys):
    from lightning_fabric.strategies.launchers import subprocess_script

    from odeframe.cli.console import quiet_lightning

    dead = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    dead.wait()
    observer = subprocess_script._ChildProcessObserver(main_pid=0, child_processes=[dead])
    observer._terminate_all = lambda: None
    with quiet_lightning():
        assert observer._run()
    err = capsys.readouterr().err
    assert err.startswith("error: [rank: 1] Child process with PID") and "code -9. All ranks are stopped" in err
    assert "odeframe fit --resume auto" in err


MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
from odeframe.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


def interrupt(tmp_path, signum, *arguments):
    """Sends a signal to a fit after its first epoch; the finished process."""
    (tmp_path / "main.py").write_text(MAIN)
    command = [sys.executable, "main.py", "fit", *SMALL, "--trainer.max_epochs=100000", "--output=first", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            while not process.stdout.readline().startswith("epoch"):
                assert process.poll() is None, process.stderr.read()
            process.send_signal(signum)
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    return process.returncode, out, err


def check_interruption(status, err, signum):
    assert status == 128 + signum
    path = "first/checkpoints/interrupted.ckpt"
    line = "interrupted; go on with: odeframe fit --config first/config.yaml --output first --resume auto"
    assert err.strip().splitlines()[-1] == line
    steps = torch.load(path, weights_only=True)["global_step"]
    assert steps > 0
    before = Path("first/config.yaml").read_text("utf-8")
    command = [sys.executable, "-m", *line.partition("go on with: ")[2].split(), f"--trainer.max_steps={steps + 3}"]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=100, check=True)
    found = torch.load("first/checkpoints/last.ckpt", weights_only=True)
    assert found["global_step"] == steps + 3
    said, now = (yaml.safe_load(text)["trainer"] for text in (before, Path("first/config.yaml").read_text("utf-8")))
    assert now["max_epochs"] == said["max_epochs"], "the fit that was interrupted, and not one of 10 epochs"


@pytest.mark.slow
def test_an_interrupted_fit_leaves_a_checkpoint_that_goes_on(tmp_path):
    status, _, err = interrupt(tmp_path, signal.SIGINT)
    check_interruption(status, err, signal.SIGINT)


@pytest.mark.slow
def test_a_terminated_fit_leaves_a_checkpoint_that_goes_on(tmp_path):
    status, _, err = interrupt(tmp_path, signal.SIGTERM)
    check_interruption(status, err, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_two_processes_stop_together(tmp_path, signum):
    status, _, err = interrupt(tmp_path, signum, "--trainer.devices=2", "--trainer.strategy=ddp")
    check_interruption(status, err, signum)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_print_and_write_once(run, tmp_path):
    arguments = (*SMALL, "--trainer.max_epochs=2", "--trainer.devices=2", "--trainer.strategy=ddp")
    command = [sys.executable, "-m", "odeframe", "fit", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("epoch")]) == 2
    assert len([line for line in done.stdout.splitlines() if " on two_moons" in line]) == 1
    (folder,) = Path("runs").iterdir()
    assert last(folder)["global_step"] == 2 * 3  # 35 rows a rank, in batches of 14
    run("test", "--ckpt_path", folder / "checkpoints" / "best.ckpt")


@pytest.mark.slow
def test_wrong_input_to_a_process_is_one_line():
    command = [sys.executable, "-m", "odeframe", "fit", "--model.solver=rk5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_the_demo_gets_its_folder(run, monkeypatch):
    seen = []
    monkeypatch.setattr("odeframe.demo.demo", lambda output, quick: seen.append((output, quick)))
    run("demo", "--quick", "--output", "there")
    run("demo")
    assert seen[0] == (Path("there"), True) and Path("there").is_dir()
    assert seen[1][1] is False and seen[1][0].name.endswith("-demo")
    assert "--quick" in run("demo", "--help")[0]


def test_contradictions_within_one_source_are_refused():
    with pytest.raises(odeframe.Incompatible, match="contradicts"):
        words({"model": {"trainer": "adjoint", "gradient": "backprop"}})
    with pytest.raises(InvalidOption, match="expected a name"):
        words({"model": {"solver": 4}})
