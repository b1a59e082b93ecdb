"""Parameters in shards: gradient training gives what it gives with whole ones; other trainers are refused by name."""

from __future__ import annotations

import os
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import FSDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from odeframe import DataSpec, FlowModule, Incompatible, available
from odeframe.compatibility import traits_of
from odeframe.support import check_support
from odeframe.testing.trainers import SmallData
from ranks import on_ranks, quiet_trainer

SPEC = DataSpec("small", (3,), "value", None, (2,), "regression")
RESNET = {"architecture": {"name": "resnet", "width": 4, "blocks": 2}}
ODE = {"architecture": {"name": "neural_ode", "width": 4}, "solver": {"name": "rk4", "steps": 4}}
MODELS = {
    "pieces": RESNET,
    "basis": {**RESNET, "control": "galerkin"},
    "one for all times": ODE,
}


class Loss(nn.Module):
    """A module's objective as a forward pass."""

    def __init__(self, words):
        super().__init__()
        torch.manual_seed(0)
        self.module = FlowModule(SPEC.to_dict(), **words).double()

    def forward(self, batch):
        return self.module.objective(batch).loss


def trained(how, words):
    """The loss on all rows after three steps, and how many numbers a rank keeps of the weights."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, model = (x, x[:, :2].tanh()), Loss(words)
    if how == "fsdp":
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
    if how == "fully_shard":
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        loss = model(whole if how == "whole" else tuple(each[dist.get_rank() :: 2] for each in whole))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
    return float(model(whole).detach()), kept


def table(folder):
    """On each rank: all models, whole and in shards."""
    dist.init_process_group("gloo")
    found = {
        name: {how: trained(how, words) for how in ("whole", "fsdp", "fully_shard")} for name, words in MODELS.items()
    }
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_shards_give_the_steps_of_whole_parameters(tmp_path):
    assert on_ranks(2, table, tmp_path) == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in MODELS:
        expected, size = ranks[0][name]["whole"]
        for how in ("fsdp", "fully_shard"):
            kept = sum(each[name][how][1] for each in ranks)
            assert size <= kept < 1.5 * size, f"{name}, {how}: {kept} numbers on two ranks for {size}"
            for each in ranks:
                assert each[name][how][0] == pytest.approx(expected, abs=1e-12), f"{name}, {how}"


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
@pytest.mark.parametrize("trainer", available("trainer"))
def test_trainers_that_cannot_train_shards_are_refused_by_name(trainer, strategy):
    traits = traits_of("trainer", trainer)
    engine = SimpleNamespace(
        strategy=type(strategy, (), {})(), world_size=2, accumulate_grad_batches=1, gradient_clip_val=None, precision=""
    )
    if "sharded" in traits:
        check_support(trainer, "automatic" in traits, traits, engine)
        assert trainer == "gradient"
        return
    with pytest.raises(Incompatible, match=rf"{trainer} does not train shards.*strategy: ddp"):
        check_support(trainer, "automatic" in traits, traits, engine)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_gradients_that_evaluate_the_field_again_are_refused_by_name(gradient):
    engine = SimpleNamespace(strategy=type("FSDPStrategy", (), {})())
    for word, refused in ((gradient, True), ("backprop", False)):
        flows = FlowModule(SPEC.to_dict(), **{**ODE, "gradient": word}).network.flows
        with pytest.raises(Incompatible, match=f"(?i)gradient {gradient} does not train") if refused else nullcontext():
            check_support("gradient", True, ("sharded",), engine, [flow.gradient for flow in flows])


@pytest.mark.gpu
@pytest.mark.timeout(120)
def test_lightning_s_own_shards_train(tmp_path):
    torch.manual_seed(0)
    module = FlowModule(SPEC.to_dict(), **RESNET)
    batch = [each.float() for each in SmallData().set.tensors]
    before = module.objective(batch).loss.item()
    engine = quiet_trainer(1, tmp_path, accelerator="cuda", strategy=FSDPStrategy(), max_epochs=30, precision="32-true")
    engine.fit(module, [torch.utils.data.TensorDataset(*batch)[:]])
    assert float(engine.callback_metrics["train_loss"]) < before
