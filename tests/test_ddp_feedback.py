"""Layer-wise feedback: its formulas by dense matrices, the optimiser it is without gain, what it refuses."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from odeframe import Flow, Incompatible, InvalidOption, Network
from odeframe.module import FlowModule
from odeframe.specification import DataSpec
from odeframe.testing import TrainerConformance
from odeframe.testing.trainers import QUIET, SmallData
from odeframe_plugins.trainers.curvature import inverse_curvature
from odeframe_plugins.trainers.ddp_feedback import DDPFeedback, in_layers


@pytest.mark.slow
class TestWithSGD(TrainerConformance):
    trainer = "ddp_feedback"
    options = {"optimizer": "SGD", "learning_rate": 0.05}
    epochs = 20


@pytest.mark.slow
class TestWithAdam(TrainerConformance):
    trainer = "ddp_feedback"
    options = {"optimizer": "Adam", "learning_rate": 0.01}


def module_of(trainer, architecture=None, **options):
    torch.manual_seed(0)
    spec = DataSpec("small", (3,), "value", None, (2,), "regression")
    settings = {"optimizer": "SGD", "learning_rate": 0.05, **options}
    architecture = architecture or {"name": "resnet", "width": 4, "blocks": 3}
    return FlowModule(spec.to_dict(), architecture, trainer=trainer, schedule="constant", **settings).double()


def fitted(module, epochs=1):
    pl.Trainer(max_epochs=epochs, devices=1, **QUIET).fit(module, datamodule=SmallData())
    return TrainerConformance.weights(module)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "SGD", "learning_rate": 0.05},
        {"optimizer": "SGD", "optimizer_options": {"momentum": 0.9, "weight_decay": 0.1}},
        {"optimizer": "RMSprop"},
        {"optimizer": "Adam"},
        {"control": "constant", "solver": "rk4"},
        {"costs": {"kinetic_energy": 0.1, "weight_decay": 0.1}},
    ],
    ids=str,
)
def test_without_gain_it_is_the_optimiser(options):
    plain = fitted(module_of("gradient", **options))
    found = fitted(module_of({"name": "ddp_feedback", "gain": 0.0}, **options))
    assert (plain - found).abs().max() < 1e-12
    assert (fitted(module_of("ddp_feedback", **options)) - found).abs().max() > 1e-6, "the gain changes nothing"


def dense_step(network, task, x, y, lr, gain):
    """The same update from explicit Jacobians, layer by layer and sample by sample; gradient descent's curvature."""
    layers = in_layers(network.steps())
    sizes = [sum(u.numel() for u in layer.parameters()) for layer in layers]

    def flat(layer):
        return nn.utils.parameters_to_vector(layer.parameters()).detach()

    def call(layer, u, x):
        named, start = {}, 0
        for name, value in layer.named_parameters():
            named[name] = u[start : start + value.numel()].reshape(value.shape)
            start += value.numel()
        return torch.func.functional_call(layer, named, ((x,),), tie_weights=False)[0]

    states = [x]
    for layer in layers:
        states.append(layer((states[-1],))[0].detach())
    size, end = len(x), states[-1]
    Vx = torch.stack([torch.func.grad(lambda z, i=i: task.cost(z[None], y[i : i + 1])[0])(end[i]) for i in range(size)])
    Vxx = torch.einsum("ia,ib->iab", Vx, Vx)
    policies = []
    for layer, z, count in zip(reversed(layers), reversed(states[:-1]), reversed(sizes), strict=True):
        u = flat(layer) if count else torch.zeros(0, dtype=x.dtype)
        fx, fu = zip(
            *(
                torch.func.jacrev(lambda a, b, layer=layer: call(layer, b, a[None])[0], argnums=(0, 1))(z[i], u)
                for i in range(size)
            ),
            strict=True,
        )
        fx, fu = torch.stack(fx), torch.stack(fu)
        Qu = torch.einsum("ias,ia->s", fu, Vx) / size
        Qux = torch.einsum("ias,iab,ibc->isc", fu, Vxx, fx) / size
        policies.insert(0, (lr * Qu, lr * gain * Qux))
        Vx = torch.einsum("ias,ia->is", fx, Vx) - gain * size * lr * torch.einsum("isc,s->ic", Qux, Qu)
        Vxx = torch.einsum("iac,iab,ibd->icd", fx, Vxx, fx)
    new, moved = x, []
    for layer, z, (k, K) in zip(layers, states[:-1], policies, strict=True):
        if not len(k):
            new = layer((new,))[0].detach()
            continue
        u = flat(layer) - k - torch.einsum("isc,ic->s", K, new - z)
        moved.append(u)
        new = call(layer, u, new).detach()
    return torch.cat(moved)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_equals_the_dense_formulas(gain):
    """V_x, V_xx, Q_u, Q_ux as matrices, with V_xx passed on as an outer product."""
    lr = 0.05
    module = module_of({"name": "ddp_feedback", "gain": gain, "limit": 1e9}, learning_rate=lr)
    x, y = (each[:8] for each in SmallData().set.tensors)
    expected = dense_step(module.network, module.task, x, y, lr, gain)
    trainer = pl.Trainer(max_steps=1, devices=1, **QUIET)
    trainer.fit(module, datamodule=SmallData())
    found = torch.cat([nn.utils.parameters_to_vector(m.parameters()) for m in in_layers(module.network.steps())])
    assert (found - expected).abs().max() < 1e-12


def test_steps_that_share_weights_are_one_layer():
    tied = Network({"stem": nn.Linear(2, 3), "flow": Flow(nn.Linear(3, 3), "constant"), "head": nn.Linear(3, 1)})
    assert [type(each).__name__ for each in in_layers(tied.steps())] == ["ModuleStep", "Layer", "ModuleStep"]
    free = Network({"flow": Flow(nn.Linear(3, 3), "piecewise_constant", {"name": "euler", "steps": 4})})
    layers = in_layers(free.steps())
    assert [len(list(each.parameters())) for each in layers] == [2, 2, 2, 2]


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_curvature_is_how_far_the_next_step_goes(name):
    """Without momentum, Q_uu^{-1} g is the step itself, at the first and at later ones."""
    u = nn.Parameter(torch.randn(5, dtype=torch.float64))
    extra = {"betas": (0.0, 0.99)} if "Adam" in name else {}
    extra |= {"weight_decay": 0.0} if name == "AdamW" else {}
    optimizer = getattr(torch.optim, name)([u], lr=0.1, **extra)
    for _ in range(3):
        g = torch.randn(5, dtype=torch.float64)
        expected, before = inverse_curvature(optimizer)(u, g), u.detach().clone()
        u.grad = g
        optimizer.step()
        assert torch.allclose(before - u, expected, atol=1e-14)


@pytest.mark.parametrize("options", [{"gain": -1.0}, {"limit": 0.0}, {"gain": float("nan")}])
def test_options_are_checked(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        DDPFeedback(**options)


def test_an_optimiser_without_known_curvature_is_refused_and_weights_stay():
    module = module_of("ddp_feedback", optimizer="Adagrad")
    before = TrainerConformance.weights(module)
    with pytest.raises(InvalidOption, match=r"SGD.*got Adagrad"):
        fitted(module)
    assert torch.equal(TrainerConformance.weights(module), before)


def test_batch_norm_and_adaptive_solvers_are_refused():
    module = module_of("ddp_feedback")
    module.network.stages["norm"] = nn.BatchNorm1d(2)
    with pytest.raises(Incompatible, match="batch norm"):
        fitted(module)
    with pytest.raises(Incompatible, match="step"):
        module_of("ddp_feedback", architecture="neural_ode")


def test_the_weights_of_samples_are_bounded():
    rule = DDPFeedback(limit=0.5)
    assert torch.equal(rule.bounded(torch.tensor([-3.0, 1.2, 7.0])), torch.tensor([0.5, 1.2, 1.5]))
