"""What fails on one rank stops all of them, at once and with its number; nobody waits for a message in vain."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import TensorDataset

from odeframe import ControlTrainer, DataSpec, FlowModule, SolveFailed, agreement
from odeframe.data import DataModule
from odeframe.reduction import reduce_gradients
from odeframe.replica_guard import ReplicaGuard
from odeframe.trainer import optimizer_step
from ranks import on_ranks, quiet_trainer

SPEC = DataSpec("small", (3,), "value", None, (2,), "regression")


class Small(DataModule):
    """16 rows to train on, 5 to validate."""

    def specify(self):
        return SPEC

    def load(self):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        y = x[:, :2].tanh()
        return {"train": TensorDataset(x, y), "val": TensorDataset(x[:5], y[:5]), "test": TensorDataset(x[:5], y[:5])}


class Failing(ControlTrainer):
    """Gradient descent that fails on rank 1 in the second batch, in a way of its own."""

    traits = ("ddp",)
    how = "solve"

    def fails(self, module):
        return dist.get_rank() == 1 and module.global_step == 1

    def training_step(self, module, batch):
        loss = module.objective(batch).loss
        if self.fails(module):
            if self.how == "solve":
                raise SolveFailed(status="the state became non-finite", t=0.5)
            if self.how == "error":
                raise RuntimeError("out of memory")
            if self.how == "nan":
                return loss * torch.nan
            if self.how == "hang":
                time.sleep(7)
                os._exit(0)
        return loss

    def evaluate(self, module, batch):
        if self.how == "validation" and dist.get_rank() == 1:
            raise SolveFailed(status="the limit max_steps was reached")
        return {}


class ByHand(Failing):
    """The same with gradients of its own, on rank 1 lost before they are averaged."""

    automatic_optimization = False

    def training_step(self, module, batch):
        loss = super().training_step(module, batch)
        weights = list(module.parameters())
        reduce_gradients(weights, torch.autograd.grad(loss, weights))
        optimizer_step(module)
        return loss.detach()


def module_of(how):
    torch.manual_seed(0)
    rule = (ByHand if how.startswith("by hand") else Failing)()
    rule.how = how.removeprefix("by hand ")
    if how != "backward":
        return FlowModule(SPEC.to_dict(), {"name": "resnet", "width": 4, "blocks": 2}, trainer=rule)
    module = FlowModule(SPEC.to_dict(), {"name": "neural_ode", "width": 4}, gradient="adjoint", solver="rk4")
    piece = type(module.network.flows[0].gradient).solve

    def solve(self, *arguments):
        solution = piece(self, *arguments)
        if dist.get_rank() == 1:
            solution.states.register_hook(lambda slope: slope * torch.nan)
        return solution

    module.network.flows[0].gradient.solve = solve.__get__(module.network.flows[0].gradient)
    return module


WAYS = {
    "solve": "on rank 1 of 2, the state became non-finite",
    "nan": "on rank 1 of 2, the loss of the batch is nan",
    "error": "rank 1 of 2 stopped, and with it all: RuntimeError: out of memory",
    "validation": "on rank 1 of 2, the limit max_steps was reached",
    "backward": "rank 1 of 2 stopped, and with it all: InvalidOption: x0: got non-finite values",
    "by hand solve": "on rank 1 of 2, the state became non-finite",
    "by hand error": "rank 1 of 2 stopped, and with it all: RuntimeError: out of memory",
}


def told(folder, ways, timeout=20):
    """On each rank: what each way of failing raises."""
    found = {}
    for how in ways:
        agreement.GRACE = 2.0
        engine = quiet_trainer(2, folder, timeout=timedelta(seconds=timeout), callbacks=[ReplicaGuard()])
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                engine.fit(module_of(how), datamodule=Small(4))
            found[how] = ("nothing", "", 0.0)
        except Exception as error:
            text = "\n".join([str(error), *getattr(error, "__notes__", [])])
            found[how] = (type(error).__name__, text, time.monotonic() - start)
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    assert on_ranks(2, told, folder, list(WAYS)) == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", WAYS)
def test_a_failure_of_one_rank_is_an_error_of_all_with_its_number(errors, how):
    mine, theirs = errors[0][how], errors[1][how]
    assert WAYS[how] in mine[1], mine
    if "error" in how or how == "backward":
        assert mine[0] == "OdeframeError" and mine[1].endswith(f"{theirs[0]}: {theirs[1]}")
    else:
        assert mine[0] == theirs[0] == "SolveFailed" and mine[1] == theirs[1]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_rank_that_hangs_is_named(tmp_path):
    statuses = on_ranks(2, told, tmp_path, ["hang"], 3)
    assert statuses == [0, 0]
    kind, text, seconds = torch.load(tmp_path / "0.pt")["hang"]
    assert kind == "RuntimeError" and "rank 1 of 2 does not answer" in text and "--resume auto" in text
    assert seconds < 30


def weighed(folder):
    """On each rank: the mean of 1.0 by two samples and 3.0 by six."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    share, rank = agreement.Share(), dist.get_rank()
    with agreement.together(share):
        share.put(torch.tensor([1.0, 3.0][rank], dtype=torch.float64, requires_grad=True), [2, 6][rank])
    torch.save(share.number, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(60)
def test_the_mean_that_goes_with_an_agreement_is_by_samples(tmp_path):
    assert on_ranks(2, weighed, tmp_path) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.item() == 2.5 and found.dtype == torch.float64 and not found.requires_grad


class Messages(pl.Callback):
    """The messages of the second batch, but for those of DDP's reducer and of Lightning itself."""

    def __init__(self):
        self.sent = []

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 1:
            for name in ("all_gather", "all_reduce", "barrier", "broadcast", "all_gather_object"):
                setattr(dist, name, self.counted(name, getattr(dist, name)))

    def counted(self, name, call):
        def noted(*arguments, **options):
            if "odeframe" in inspect.stack()[1].filename or name == "barrier":
                self.sent.append(name)
            return call(*arguments, **options)

        return noted

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.kept = list(self.sent)

    def on_after_backward(self, trainer, module):
        self.before_the_settling = list(self.sent)


def counted(folder, gradient):
    """On each rank: the messages of a batch, and those of them that were sent before the gradient was there."""
    watch = Messages()
    engine = quiet_trainer(2, folder, callbacks=[watch], limit_train_batches=2, limit_val_batches=0)
    model = FlowModule(SPEC.to_dict(), {"name": "neural_ode", "width": 4}, gradient=gradient, solver="rk4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.fit(model, datamodule=Small(4))
    torch.save((watch.before_the_settling, watch.kept), folder / f"{os.environ['RANK']}.pt")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("gradient", "behind_the_loss"), [("backprop", ["all_gather"]), ("adjoint", [])])
def test_a_batch_costs_one_message_beside_the_gradient(tmp_path, gradient, behind_the_loss):
    assert on_ranks(2, counted, tmp_path, gradient) == [0, 0]
    assert torch.load(tmp_path / "0.pt") == (behind_the_loss, ["all_gather"])


def test_one_process_raises_what_it_has_at_once():
    with pytest.raises(ValueError, match="mine"), agreement.together():
        raise ValueError("mine")
    with pytest.raises(ValueError, match="mine"):
        agreement.agree(ValueError("mine"))
    agreement.agree()
    with pytest.raises(ValueError, match="mine"):
        agreement.Deferred().run(int, "mine")
    assert agreement.missing_ranks(RuntimeError("Connection closed by peer")) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_an_error(value):
    with pytest.raises(SolveFailed, match=f"the loss of the batch is {value}"):
        agreement.check_finite_loss(torch.tensor(value))
    agreement.check_finite_loss(torch.tensor(1e30))
