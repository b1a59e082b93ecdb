"""Weights of two and three values: the flip rules entry by entry, what a fit keeps, packing and back."""

import copy
import itertools
import math
import os

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import odeframe
from benchmarks.discrete import measure
from odeframe import CheckpointError, Incompatible, InvalidOption, SolveFailed, packing
from odeframe.module import FlowModule
from odeframe.specification import DataSpec
from odeframe.testing import TrainerConformance
from odeframe.testing.trainers import QUIET, SmallData
from odeframe_plugins.trainers.discrete_msa import DiscreteMSA
from odeframe_plugins.trainers.flip import binary_flip, collapses, nearest, ternary_flip

WIDE = {"name": "resnet", "width": 16, "blocks": 2}


class TestBinary(TrainerConformance):
    trainer = "discrete_msa"
    architecture = WIDE
    epochs = 30


@pytest.mark.slow
class TestTernary(TrainerConformance):
    trainer = {"name": "discrete_msa", "levels": "ternary", "sparsity": 0.2}
    architecture = WIDE


def module_of(architecture=None, trainer="discrete_msa", **options):
    torch.manual_seed(0)
    spec = DataSpec("small", (3,), "value", None, (2,), "regression")
    return FlowModule(spec.to_dict(), architecture or WIDE, trainer=trainer, **options).double()


def fit(module, **options):
    trainer = pl.Trainer(**{"max_epochs": 2, "devices": 1, **QUIET, **options})
    trainer.fit(module, datamodule=SmallData())
    return module


def matrices(module):
    return {n: p.detach() for n, p in module.network.named_parameters() if p.dim() > 1}


def levels(value):
    return sorted({round(float(x) * value[0].numel() ** 0.5, 9) for x in value.flatten()})


def test_binary_flip_by_hand():
    w = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    M = torch.tensor([-4.0, -1.9, 2.1, -9.0, 0.0])  # wrong: the first three; the largest of them 4
    assert binary_flip(w, M, 0.5).tolist() == [-1, 1, 1, -1, 1]
    assert binary_flip(w, M, 0.0).tolist() == [-1, -1, 1, -1, 1]
    assert torch.equal(binary_flip(w, torch.zeros(5), 0.0), w)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 0.9])
def test_ternary_flip_is_the_argmax(rho):
    """Against the three values of the objective, entry by entry."""
    torch.manual_seed(0)
    w, M = torch.randint(-1, 2, (6, 7)).double(), torch.randn(6, 7).double()
    sparsity = 0.8
    r = rho * M[w != M.sign()].abs().max()
    cost = sparsity * M.abs().mean()
    values = torch.stack([M * v - cost * abs(v) - r * (v - w) ** 2 for v in (-1.0, 0.0, 1.0)])
    assert torch.equal(ternary_flip(w, M, rho, sparsity), values.argmax(0).double() - 1)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_flips_do_not_see_the_scale_of_the_average(scale):
    torch.manual_seed(1)
    w, M = torch.randint(-1, 2, (5, 4)).double(), torch.randn(5, 4).double()
    assert torch.equal(ternary_flip(w, M, 0.25, 0.5), ternary_flip(w, scale * M, 0.25, 0.5))
    assert torch.equal(binary_flip(w.sign() + (w == 0), M, 0.5), binary_flip(w.sign() + (w == 0), scale * M, 0.5))


def test_without_collapse_an_all_zero_tensor_comes_back():
    M = torch.tensor([[1.0, -3.0], [0.5, 0.1]])  # the largest is 2.6 times the mean
    zero = torch.zeros(2, 2)
    for rho, sparsity in itertools.product((0.1, 0.5, 0.9), (0.1, 1.0, 2.0, 3.0)):
        assert collapses(M, rho, sparsity) == (not ternary_flip(zero, M, rho, sparsity).any())


def test_nearest_keeps_what_is_discrete_already():
    value = torch.tensor([[0.3, -0.1, 0.0], [-0.7, 0.2, 0.9]])
    assert nearest(value, "binary").tolist() == [[1, -1, 1], [-1, 1, 1]]
    ternary = nearest(value, "ternary")
    assert ternary.tolist() == [[1, 0, 0], [-1, 1, 1]]
    assert torch.equal(nearest(0.25 * ternary, "ternary"), ternary)


@pytest.mark.parametrize(
    ("options", "discrete"),
    [
        ({}, ["flow1"]),
        ({"stages": "all"}, ["stem", "flow1", "head"]),
        ({"stages": ["stem", "flow1"]}, ["stem", "flow1"]),
        ({"stages": "head"}, ["head"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_chosen_matrices_are_discrete_after_every_batch_and_the_rest_is_not(options, discrete, kind):
    module = fit(module_of(trainer={"name": "discrete_msa", "levels": kind, **options}))
    allowed = [-1, 1] if kind == "binary" else [-1, 0, 1]
    for name, value in matrices(module).items():
        assert (levels(value) == allowed) == (name.split(".")[1] in discrete), name
    assert all(p.grad is None for p in module.parameters())
    states = pl.utilities.move_data_to_device(module.trainer.optimizers[0].state, "cpu")
    held = {id(p) for p in states}
    assert all((id(p) in held) != (n in module.rule.state_dict()["M"]) for n, p in module.network.named_parameters())


def test_it_moves_the_discrete_and_the_other_parameters():
    module = module_of()
    module.rule.setup(module)
    before = {n: p.detach().clone() for n, p in module.network.named_parameters()}
    fit(module, max_epochs=4)
    assert all(not torch.equal(before[n], p) for n, p in module.network.named_parameters())


def test_average_and_its_decay():
    """M after one batch an epoch, with the gradients of fixed weights: rho near 1 and momentum by hand."""
    module = module_of(trainer={"name": "discrete_msa", "momentum": 0.9, "decay": 0.5})
    module.rule.setup(module)
    x, y = SmallData().set.tensors
    name = next(n for n in matrices(module) if "lift" in n)
    found = module.objective((x[:8], y[:8])).loss
    gradient = torch.autograd.grad(found, dict(module.network.named_parameters())[name])[0]
    fit(module, max_epochs=1, limit_train_batches=1)
    assert torch.allclose(module.rule.state_dict()["M"][name], -0.1 * gradient, atol=1e-15)
    kept = dict(module.rule.state_dict()["M"])
    module.rule._averaged = lambda name, gradient, share: torch.full_like(gradient, share)
    fit(module, max_epochs=3, limit_train_batches=1)
    assert module.rule.state_dict()["M"][name][0, 0] == pytest.approx(0.1 * 0.5**2)
    assert kept[name][0, 0] != 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "quaternary"}, "levels.*'quaternary'"),
        ({"rho": 1.0}, "rho.*1.0"),
        ({"rho": -0.1}, "rho"),
        ({"momentum": 1.0}, "momentum"),
        ({"decay": 0.0}, "decay"),
        ({"scale": 0.0}, "scale"),
        ({"sparsity": 1.0}, "levels: ternary"),
        ({"levels": "ternary", "sparsity": -1.0}, "sparsity"),
        ({"levels": "ternary", "sparsity": float("nan")}, "sparsity"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(InvalidOption, match=message):
        DiscreteMSA(**options)


def test_an_unknown_stage_is_refused_with_the_known_ones():
    with pytest.raises(InvalidOption, match=r"'tail'.*stem, flow1, head"):
        fit(module_of(trainer={"name": "discrete_msa", "stages": ["tail"]}))


@pytest.mark.parametrize("control", ["galerkin", "binary", "feedback", "piecewise_linear"])
def test_controls_that_compute_weights_are_refused(control):
    with pytest.raises(Incompatible, match=control):
        module_of(control=control)


def test_a_control_of_ones_own_that_computes_weights_is_refused_before_a_step():
    module = module_of()
    module.network.stages["flow1"] = odeframe.Flow(nn.Linear(16, 16), "galerkin", "euler").double()
    with pytest.raises(Incompatible, match=r"Galerkin.*piecewise_constant"):
        fit(module)


def test_the_collapse_to_zero_is_refused_and_the_weights_stay():
    module = module_of(trainer={"name": "discrete_msa", "levels": "ternary", "sparsity": 50.0})
    module.rule.setup(module)
    before = TrainerConformance.weights(module)
    with pytest.raises(InvalidOption, match=r"sparsity.*zero for good"):
        fit(module)
    assert torch.equal(TrainerConformance.weights(module), before)


def test_a_gradient_that_is_not_finite_is_refused():
    module = module_of()
    with torch.no_grad():
        module.network.stages["head"][0].bias.fill_(float("nan"))
    with pytest.raises(SolveFailed, match="not finite"):
        fit(module)


def test_any_network_adaptive_solver_and_adjoint():
    module = module_of("neural_ode", gradient="adjoint")
    fit(module)
    flow = {n: v for n, v in matrices(module).items() if "flow" in n}
    assert flow and all(levels(value) == [-1, 1] for value in flow.values())


def test_the_state_of_other_tensors_is_refused():
    module = fit(module_of())
    with pytest.raises(CheckpointError, match="lift"):
        module.rule.load_state_dict({"M": {"other": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="M of"):
        module.rule.load_state_dict({"average": torch.zeros(1)})


@pytest.mark.parametrize("kind", ["binary", "ternary"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 2, 3, 3), (7, 9)])
def test_packed_signs_come_back_in_few_bytes(kind, shape):
    torch.manual_seed(0)
    value = torch.randint(0, 2, shape) * 2 - 1 if kind == "binary" else torch.randint(-1, 2, shape)
    packed = packing.pack(0.3 * value, kind)
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-value.numel() // (8 if kind == "binary" else 4))
    assert torch.equal(packing.unpack(packed, kind, shape), value.to(torch.int8))


@pytest.mark.parametrize(("kind", "precision"), [("binary", "float32"), ("ternary", "float64")])
def test_an_exported_network_predicts_the_same_and_is_small(kind, precision, tmp_path):
    torch.manual_seed(0)
    spec = DataSpec("digits", (64,), "class", 10, (), "classification")
    rule = {"name": "discrete_msa", "levels": kind, "stages": "all"}
    module = FlowModule(spec.to_dict(), {"name": "resnet", "width": 256, "blocks": 3}, trainer=rule)
    module.to(getattr(torch, precision)).rule.setup(module)
    path = packing.export(module, tmp_path / "small.pt")
    x = torch.randn(5, 64, dtype=getattr(torch, precision))
    loaded = packing.load(path)
    assert torch.equal(loaded(x), module.eval()(x))
    assert not loaded.training
    assert torch.load(path, weights_only=True)["format"].startswith("odeframe")
    whole = 4 * sum(p.numel() for p in module.parameters())
    assert os.path.getsize(path) <= whole / (16 if kind == "binary" else 12)


def test_a_damaged_file_is_refused(tmp_path):
    path = packing.export(fit(module_of()), tmp_path / "whole.pt")
    content, data = torch.load(path, weights_only=True), path.read_bytes()
    place = data.index(content["bits"].numpy().tobytes()) + content["bits"].numel() // 2
    (tmp_path / "flipped.pt").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        packing.load(tmp_path / "flipped.pt")
    for key in ("bits", "values", "packed"):
        torch.save({name: value for name, value in content.items() if name != key}, tmp_path / "short.pt")
        with pytest.raises(CheckpointError, match="not in it"):
            packing.load(tmp_path / "short.pt")


def changed(content, key, value):
    return {**content, key: value(copy.deepcopy(content[key]))}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bits", lambda bits: torch.cat([bits, bits]), "bytes of weights"),
        ("values", lambda values: {dtype: torch.cat([v, v]) for dtype, v in values.items()}, "values of float"),
        ("packed", lambda rows: [[*row[:3], math.nan, row[4]] for row in rows], "has the size nan"),
        ("packed", lambda rows: [], "bytes of weights"),
        ("hyper_parameters", lambda _: [1], "make no network"),
        ("hyper_parameters", lambda words: {**words, "colour": "red"}, "make no network.*colour"),
        ("hyper_parameters", lambda words: {**words, "data_spec": 5}, "make no network"),
        ("components", lambda _: [3], "make no network"),
    ],
)
def test_a_file_that_says_other_things_than_it_holds_is_refused(key, value, message, tmp_path):
    path = packing.export(fit(module_of()), tmp_path / "whole.pt")
    torch.save(changed(torch.load(path, weights_only=True), key, value), path)
    with pytest.raises(CheckpointError, match=message):
        packing.load(path)


def test_an_export_makes_its_folder_and_refuses_what_is_none_of_its_files(tmp_path):
    module = fit(module_of())
    assert packing.export(module, tmp_path / "new" / "folder" / "small.pt").is_file()
    with pytest.raises(InvalidOption, match="is a folder"):
        packing.export(module, tmp_path)
    with pytest.raises(InvalidOption, match=r"got a Linear, expected an odeframe\.FlowModule"):
        packing.export(torch.nn.Linear(2, 2), tmp_path / "small.pt")


def test_a_network_of_real_weights_is_not_exported(tmp_path):
    with pytest.raises(InvalidOption, match="discrete_msa"):
        packing.export(module_of(trainer="gradient"), tmp_path / "no.pt")
    assert not (tmp_path / "no.pt").exists()


def test_buffers_are_no_weights(tmp_path):
    module = module_of(trainer="gradient")
    module.network.register_buffer("signs", torch.ones(4, 4, dtype=next(module.parameters()).dtype))
    with pytest.raises(InvalidOption, match="discrete_msa"):
        packing.export(module, tmp_path / "no.pt")


def test_a_file_that_is_none_of_ours_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"a": 1}, tmp_path / "other.pt")
    for name, message in (("none.pt", "no such file"), ("text.pt", "damaged"), ("other.pt", "not written")):
        with pytest.raises(CheckpointError, match=message):
            packing.load(tmp_path / name)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "accuracy", "nonzero"), [("binary", 0.97, 1.0), ("ternary", 0.98, 0.3)])
def test_digits_are_read_with_discrete_weights(kind, accuracy, nonzero, tmp_path):
    """Twenty epochs, the mean of three seeds; a binary file is 1/16 of the float32 weights, and reads the same."""
    found = []
    for seed in range(3):
        pl.seed_everything(seed)
        run = odeframe.compose(
            {"name": "resnet", "width": 32, "blocks": 1},
            data="digits",
            trainer={"name": "discrete_msa", "levels": kind, "stages": ["flow1", "transition1", "flow2"]},
            output=tmp_path / str(seed),
        )
        run.fit(max_epochs=20, **QUIET)
        found.append(run.test(**QUIET))
    mean = {name: sum(each.get(name, 1.0) for each in found) / 3 for name in ("test_accuracy", "test_nonzero")}
    assert mean["test_accuracy"] >= accuracy and mean["test_nonzero"] <= nonzero, found
    path = packing.export(run.module, tmp_path / "packed.pt")
    whole = 4 * sum(p.numel() for p in run.module.parameters())
    assert path.stat().st_size <= whole / (16 if kind == "binary" else 11)
    x = next(iter(run.data.test_dataloader()))[0]
    assert torch.equal(packing.load(path)(x), run.module.eval()(x))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "nonzero"), [("binary", 1.0), ("ternary", 0.3)])
def test_few_pictures_of_mnist_are_read_with_discrete_weights(kind, nonzero):
    """One fit of the benchmark: images that move, and real parameters at a step length of their own."""
    found = measure("mnist_5k", kind, 0)
    assert found["accuracy"] >= 0.95 and found["nonzero"] <= nonzero, found
    assert found["file"] <= found["float32"] / (16 if kind == "binary" else 11) and found["same"], found
