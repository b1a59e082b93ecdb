"""Wrong input: one line that names it, exit status 2, no traceback, nothing imported and nothing written."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

from odeframe.cli import main

SMALL = ("--data=two_moons", "--data.batch_size=64", "--model.architecture.width=4", "--trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments, status=2):
    """The one line on standard error."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], err
    assert "Traceback" not in out + err
    return lines[-1]


COMMANDS = [
    (["fitt"], ["'fitt'", "'fit'", "predict"]),
    (["--quiet", "fit"], ["odeframe fit --quiet"]),
    (["--quiet"], ["expected a command first"]),
    (["fit", "rk4"], ["'rk4'", "--name=value"]),
    (["fit", "--solver=rk4"], ["--model.solver=..."]),
    (["fit", "--modle.solver=rk4"], ["--modle", "'model'"]),
    (["fit", "--trainer.max_epochs"], ["--trainer.max_epochs needs a value"]),
    (["fit", "--quiet=yes"], ["--quiet takes no value"]),
    (["fit", "--output.x=3"], ["--output=..."]),
    (["fit", "--model..width=3"], ["empty name"]),
    (["demo", "--quik"], ["'--quik'", "'--quick'"]),
    (["demo", "--output"], ["--output needs a value"]),
    (["plugins", "lst"], ["'lst'", "'list'"]),
    (["plugins", "list", "solver"], ["solver", "list [--json]"]),
    (["plugins", "show"], ["show PACKAGE"]),
    (["plugins", "show", "solver"], ["For a solver, write its name too"]),
    (["plugins", "show", "solvr", "rk4"], ["'solvr'", "'solver'"]),
    (["plugins", "show", "solver", "rk5"], ["'rk5'", "'rk4'"]),
]

WORDS = [
    (["--model.solver=rk5"], ["solver 'rk5'", "'rk4'"]),
    (["--model.solvr=rk4"], ["'solvr'", "'solver'"]),
    (["--model=resnet"], ["--model.architecture=resnet"]),
    (["--model.solver=3"], ["got 3", "a name"]),
    (["--model.solver={a: 1"], ["--model.solver", "no YAML"]),
    (["--data=two_mons"], ["data 'two_mons'", "'two_moons'"]),
    (["--model.solver=rk4", "--model.solver.stepz=8"], ["solver 'rk4'", "'stepz'", "'steps'", "on_failure"]),
    (["--model.solver.steps=many"], ["solver 'euler'", "steps='many'", "int"]),
    (["--model.architecture.width=0"], ["architecture 'resnet'", "width", "got 0"]),
    (["--data.batch_size=0"], ["batch_size", "got 0"]),
    (["--model.trainer=adjoint", "--model.gradient=backprop"], ["'adjoint'", "contradicts", "'backprop'"]),
    (["--model.task=regression"], ["task 'regression'", "'two_moons'"]),
    (
        ["--model.gradient=reversible"],
        ["gradient 'reversible'", "solver 'euler'", "A solver that fits", "reversible_heun"],
    ),
    (["--model.optimizer=Adm"], ["'Adm'", "'Adam'"]),
    (["--model.learning_rate=fast"], ["lr='fast'", "float"]),
    (["--model.learning_rate=-1"], ["optimizer 'Adam'", "-1"]),
    (["--model.optimizer_options.betaz=3"], ["'betaz'", "'betas'"]),
    (["--model.schedule=linear"], ["schedule", "'linear'", "'cosine'"]),
]

LIGHTNING = [
    (["--trainer.max_epohcs=3"], ["'max_epohcs'", "'max_epochs'"]),
    (["--trainer.max_epochs=abc"], ["trainer.max_epochs", "'abc'", "int"]),
    (["--trainer.max_epochs=-5"], ["max_epochs", "-5"]),
    (["--trainer.devices=3000"], ["trainer.devices", "3000", "processes"]),
    (["--trainer.devices=foo"], ["devices"]),
    (["--trainer.accelerator=abacus"], ["abacus"]),
    (["--trainer.strategy=chess"], ["strategy", "chess"]),
    (["--trainer.precision=7"], ["trainer.precision", "'7'", "'16-mixed'"]),
    (["--seed_everything=abc"], ["seed_everything", "'abc'", "int"]),
    (["--optimizer=SDG"], ["'SDG'", "'SGD'"]),
    (["--optimizer=torch.nn.Linear"], ["'torch.nn.Linear'", "not imported"]),
    (["--optimizer=SGD", "--optimizer.lr=-1"], ["learning rate: -1"]),
    (["--optimizer=SGD", "--optimizer.lr=foo"], ["optimizer.lr", "'foo'", "float"]),
    (["--optimizer=SGD", "--optimizer.foo=3"], ["optimizer.foo", "'3'"]),
    (["--lr_scheduler=StepLRR"], ["'StepLRR'", "'StepLR'"]),
    (["--trainer.logger=CSVLoger"], ["'CSVLoger'", "'CSVLogger'"]),
    (["--trainer.callbacks+=EarlyStoping"], ["'EarlyStoping'", "'EarlyStopping'"]),
    (["--trainer.callbacks+=EarlyStopping"], ["trainer.callbacks", "required: monitor"]),
]


def named(cases):
    return pytest.mark.parametrize(("arguments", "texts"), cases, ids=[" ".join(arguments) for arguments, _ in cases])


@named(COMMANDS)
def test_wrong_command(capsys, arguments, texts):
    line = refused(capsys, *arguments)
    assert all(text in line for text in texts), line


@named(WORDS)
def test_wrong_word(capsys, tmp_path, arguments, texts):
    line = refused(capsys, "fit", *SMALL, *arguments, "--output", "run")
    assert all(text in line for text in texts), line
    assert not list(tmp_path.iterdir())


@named(LIGHTNING)
def test_wrong_option_of_lightning(capsys, tmp_path, arguments, texts):
    line = refused(capsys, "fit", *SMALL, *arguments, "--output", "run")
    assert all(text in line for text in texts), line
    assert not list(tmp_path.iterdir())


CONFIGS = [
    ("model:\n  solver: rk4\n  control: [\n", ["run.yaml, line 4", "no YAML"]),
    ("- resnet\n", ["run.yaml", "expected a mapping", "model, data"]),
    ("model: resnet\n", ["run.yaml, line 1", "'resnet' as model", "a mapping"]),
    ("modle: {solver: rk4}\n", ["run.yaml, line 1", "'modle'", "'model'"]),
    ("model:\n  architecture: resnet\n  solvr: rk4\n", ["run.yaml, line 3", "'solvr'", "'solver'"]),
    ("model:\n  solver: rk4\n  solver: euler\n", ["run.yaml, lines 2 and 3", "'solver' stands twice"]),
    ("trainer:\n  max_epochs: 2\n  max_step: 3\n", ["run.yaml, line 3", "'max_step'", "'max_steps'"]),
    ("trainer: {max_epochs: yes}\n", ["trainer.max_epochs", "'yes'", "int"]),
    ("trainer: 3\n", ["run.yaml, line 1", "as trainer", "a mapping"]),
    ("trainer: &a {callbacks: *a}\n", ["run.yaml", "alias"]),
    ("model: {solver: !!python/name:os.system ''}\n", ["run.yaml, line 1", "no YAML"]),
    ("output: 3\n", ["output", "got 3", "a path"]),
    ("1: 2\n", ["run.yaml", "no key 1"]),
]


@pytest.mark.parametrize(("text", "texts"), CONFIGS, ids=[text for text, _ in CONFIGS])
def test_wrong_config_is_named_with_its_line(capsys, text, texts):
    Path("run.yaml").write_text(text)
    line = refused(capsys, "fit", "--config", "run.yaml")
    assert all(text in line for text in texts), line


def test_a_config_that_cannot_be_read(capsys, tmp_path):
    assert "nowhere.yaml: cannot be read: No such file" in refused(capsys, "fit", "--config", "nowhere.yaml")
    assert "Is a directory" in refused(capsys, "fit", f"--config={tmp_path}")
    Path("picture.yaml").write_bytes(b"\x89PNG\xff")
    assert "not text in UTF-8" in refused(capsys, "fit", "-c", "picture.yaml")


EVIL = """
trainer:
  callbacks:
    - class_path: evil_callbacks.Evil
"""


def test_a_class_from_anywhere_else_is_refused_before_it_is_imported(capsys, tmp_path, monkeypatch):
    (tmp_path / "evil_callbacks.py").write_text("open('written', 'w').close()\nclass Evil: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    Path("run.yaml").write_text(EVIL)
    for arguments in (
        ["--config", "run.yaml"],
        ["--trainer.callbacks=evil_callbacks.Evil"],
        ["--trainer.callbacks+=evil_callbacks.Evil"],
        ["--trainer.callbacks+=LambdaCallback", "--trainer.callbacks.on_fit_start=evil_callbacks.Evil"],
        ["--optimizer=evil_callbacks.Evil"],
        ["--trainer.logger=evil_callbacks.Evil"],
    ):
        line = refused(capsys, "fit", *SMALL, *arguments)
        assert "'evil_callbacks.Evil' is not imported" in line
    assert "strategy" in refused(capsys, "fit", *SMALL, "--trainer.strategy=evil_callbacks.Evil")
    assert not Path("written").exists()
    assert "evil_callbacks" not in sys.modules
    assert "'os.system' is not imported" in refused(
        capsys, "fit", "--trainer.callbacks+=LambdaCallback", "--trainer.callbacks.on_fit_start=os.system"
    )


def test_lightnings_other_name_is_told_the_one_to_write(capsys):
    line = refused(capsys, "fit", *SMALL, "--trainer.logger=lightning.pytorch.loggers.CSVLogger")
    assert "write 'pytorch_lightning.loggers.CSVLogger'" in line


def test_lightnings_own_folder_is_refused_for_output(capsys):
    assert "--output=DIR" in refused(capsys, "fit", *SMALL, "--trainer.default_root_dir=elsewhere")


CSV = "a,b,y\n" + "".join(f"{i},{i * i},{3 * i}\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "arguments", "texts"),
    [
        (CSV, ["--data.target=z"], ["'z'", "'a', 'b', 'y'"]),
        (CSV, ["--data.target=y", "--data.columns=[a, c]"], ["'c'"]),
        (CSV.replace("4,16,12", "4,nan,12"), ["--data.target=y"], ["line 6", "'b'", "nan"]),
        (CSV.replace("4,16,12", "4,,12"), ["--data.target=y"], ["line 6", "'b'"]),
        (CSV.replace("4,16,12", "4,x,12"), ["--data.target=y"], ["line 6", "'b'", "'x'"]),
        (CSV, ["--data.target=y", "--data.path=absent.csv"], ["absent.csv", "no such file"]),
        (CSV, [], ["data 'csv' needs the option 'target'"]),
    ],
)
def test_wrong_table(capsys, text, arguments, texts):
    Path("table.csv").write_text(text)
    line = refused(capsys, "fit", "--data=csv", "--data.path=table.csv", *arguments)
    assert all(text in line for text in texts), line


def test_an_output_folder_that_cannot_be_made(capsys):
    Path("taken").write_text("a file")
    line = refused(capsys, "fit", *SMALL, "--output=taken/run")
    assert "output folder taken/run: cannot be made" in line
    assert "cannot be made" in refused(capsys, "fit", *SMALL, "--output", "taken")


def test_a_metric_that_is_not_there_is_the_input_s_fault(capsys):
    stop = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_los")
    line = refused(capsys, "fit", *SMALL, *stop, "--trainer.max_epochs=1", "--output=run")
    assert "`val_los`" in line and "`val_loss`" in line


def test_a_failed_solve_is_not_the_input_s_fault(capsys):
    limits = ("--model.architecture=neural_ode", "--model.solver=dopri5", "--model.solver.max_steps=1")
    line = refused(capsys, "fit", *SMALL, *limits, "--model.solver.rtol=1e-9", "--output=run", status=1)
    assert "the solve failed" in line
    assert Path("run/config.yaml").is_file()  # it had begun


@pytest.mark.parametrize("rate", [".inf", ".nan", "-1.0"])
def test_a_learning_rate_is_a_finite_number(capsys, rate):
    line = refused(capsys, "fit", *SMALL, f"--model.learning_rate={rate}")
    assert "learning rate" in line.replace("_", " ") and rate.strip(".") in line


def test_a_fit_that_is_refused_leaves_nothing(capsys):
    line = refused(capsys, "fit", *SMALL, "--model.trainer=emsa", "--trainer.precision=bf16-mixed", "--output=runs/a")
    assert "outside Lightning's scaling" in line and not list(Path.cwd().iterdir())
    Path("runs/earlier").mkdir(parents=True)
    refused(capsys, "fit", *SMALL, "--model.trainer=emsa", "--trainer.precision=bf16-mixed", "--output=runs/a/b")
    assert [path.name for path in Path("runs").iterdir()] == ["earlier"]


def test_a_fit_that_is_refused_leaves_an_earlier_run_where_it_is(capsys):
    assert main(["fit", *SMALL, "--trainer.max_steps=1", "--output=run", "--quiet"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    line = refused(capsys, "fit", *SMALL, "--model.trainer=emsa", "--trainer.precision=bf16-mixed", "--output=run")
    assert "earlier" not in line
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in Path("run").iterdir()) == sorted({path.parts[1] for path in before})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A trained model's last checkpoint."""
    output = tmp_path_factory.mktemp("run")
    assert main(["fit", *SMALL, "--trainer.max_epochs=1", "--output", str(output), "--quiet"]) == 0
    return output / "checkpoints" / "last.ckpt"


def changed(path, **values):
    """The checkpoint with other values, beside the working folder's files."""
    content = torch.load(path, weights_only=True)
    for key, value in values.items():
        content[key] = value(content[key])
    torch.save(content, "changed.ckpt")
    return "changed.ckpt"


def test_no_checkpoint(capsys, checkpoint):
    assert "no such file" in refused(capsys, "test", "--ckpt_path=absent.ckpt")
    assert "is a folder; a run's lie in its folder checkpoints/" in refused(capsys, "test", "--ckpt_path=.")
    Path("text.ckpt").write_text("weights")
    assert "text.ckpt: is no checkpoint" in refused(capsys, "test", "--ckpt_path=text.ckpt")
    content = checkpoint.read_bytes()
    Path("half.ckpt").write_bytes(content[: len(content) // 2])
    assert "half.ckpt: is no checkpoint" in refused(capsys, "fit", "--ckpt_path=half.ckpt")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    assert "foreign.ckpt: was not written by odeframe" in refused(capsys, "predict", "--ckpt_path=foreign.ckpt")


def test_a_checkpoint_of_a_missing_plugin_says_what_to_install(capsys, checkpoint):
    record = {"kind": "solver", "name": "far/rk9", "package": "far", "version": "2.0", "options": {}}
    path = changed(checkpoint, odeframe=lambda had: {**had, "components": [*had["components"], record]})
    assert "pip install far==2.0" in refused(capsys, "test", "--ckpt_path", path)


def test_a_checkpoint_of_other_shapes(capsys, checkpoint):
    line = refused(capsys, "test", "--ckpt_path", str(checkpoint), "--model.architecture.width=8")
    assert "its weights do not fit" in line and "has the shape (4, 2) in it, (8, 2) in the model, and " in line
    line = refused(capsys, "test", "--ckpt_path", str(checkpoint), "--model.architecture.blocks=5")
    assert "is missing from it" in line
    line = refused(capsys, "test", "--ckpt_path", str(checkpoint), "--data=digits", "--data.flat=true")
    assert "input_shape (2,)" in line and "'digits' has (64,)" in line


def test_what_a_resumed_fit_cannot_do(capsys, checkpoint):
    path = str(checkpoint)
    assert "was trained by Adam, got SGD" in refused(capsys, "fit", "--ckpt_path", path, "--model.optimizer=SGD")
    line = refused(capsys, "fit", "--ckpt_path", path, "--trainer.max_epochs=1", "--output=more")
    assert "leave nothing to do" in line and "max_epochs=1" in line and not Path("more").exists()


def test_predict_runs_in_one_process(capsys, checkpoint):
    line = refused(capsys, "predict", "--ckpt_path", str(checkpoint), "--trainer.devices=2")
    assert "got 2 processes, expected one" in line


def test_an_error_of_ours_is_one_line_and_its_traceback_an_option(capsys, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a\nb")

    monkeypatch.setattr("odeframe.cli.plugins.run_plugins", broken)
    assert refused(capsys, "plugins", "list", status=1) == "error: RuntimeError: a b (--debug shows the traceback)"
    with warnings.catch_warnings():
        assert main(["plugins", "list", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("error: RuntimeError: a b\n")
