"""Checkpointing: exact, of the square root's memory, and as few steps again as the binomial bound says."""

import functools
import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, InvalidOption, Noise, StepSolver
from odeframe.costs import RunningCost
from odeframe.field import FunctionField
from odeframe.testing import GradientConformance
from odeframe.testing.accuracy import largest
from odeframe.testing.problems import Coupled
from odeframe_plugins.gradients import checkpoint, store
from odeframe_plugins.gradients.revolve import capacity, chain, least_steps, split


class TestCheckpoint(GradientConformance):
    gradient = "checkpoint"


@pytest.mark.slow
class TestThreeSlots(GradientConformance):
    gradient = {"name": "checkpoint", "slots": 3}
    solvers = ({"name": "ab4", "steps": 32}, {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12})


class NoisyEuler(StepSolver):
    """x + dt f (1 + n / 2) with noise keyed by the step."""

    traits = ("step", "stochastic")

    def step(self, field, t, dt, x, memory):
        return x + dt * (1 + 0.5 * field.noise.normal(x, tuple(x.shape[1:]))) * field(t, x), ()


@functools.cache
def fewest(length, slots):
    """The least number of advances, by trying every place for the next state to keep."""
    if slots == 1 or length <= 1:
        return length * (length - 1) // 2
    return min(k + fewest(length - k, slots - 1) + fewest(k, slots) for k in range(1, length))


def planned(length, slots):
    """The advances that :func:`split` leads to."""
    if slots == 1 or length <= 1:
        return length * (length - 1) // 2
    k = split(length, slots)
    return k + planned(length - k, slots - 1) + planned(k, slots)


class TestRevolve:
    def test_splits_are_optimal_and_the_closed_form_is_their_count(self):
        for length in range(1, 41):
            for slots in range(1, 9):
                assert fewest(length, slots) == planned(length, slots) == least_steps(length, slots)

    def test_the_first_sweep_keeps_at_most_the_slots(self):
        for length in (1, 2, 7, 100):
            for slots in (1, 2, 5, 200):
                kept = chain(length, slots)
                assert kept[0] == 0 and kept == sorted(set(kept)) and len(kept) <= slots and kept[-1] < length
        assert capacity(10, 3) == 286  # 286 steps from 10 states, each run at most 3 times again


SOLVERS = (
    {"name": "euler", "steps": 23},
    {"name": "rk4", "steps": 23},
    {"name": "ab3", "steps": 24},
    {"name": "lm", "steps": 24, "init": 0.4},
    {"name": "verlet", "steps": 23},
    {"name": "alf", "steps": 23},
    {"name": "dopri5", "rtol": 1e-8},
)


def differentiated(solver, gradient, control="constant", times=(0.0, 0.3, 1.0), dynamics=None, noise=None):
    """Gradients of a loss at several times with a running cost; bytes saved for them; counts."""
    torch.manual_seed(1)
    cost = RunningCost(lambda t, x: (1 + t) * x.square().sum(1))
    flow = Flow(dynamics or Coupled(), control, solver, gradient, quadratures=[cost]).double()
    x0, saved = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v.nbytes) or v, lambda v: v):
        solution = flow.solve(x0, times, noise=noise)
    loss = (solution.states[1].sin() + solution.final.square()).sum() + flow.running_cost(solution).sum()
    leaves = [x0, *flow.parameters(), *([times] if torch.is_tensor(times) else [])]
    return torch.autograd.grad(loss, leaves), sum(saved), flow.stats


def assert_same(found, exact, tolerance=1e-12):
    for a, b in zip(found, exact, strict=True):
        assert largest(a - b) <= tolerance * max(1.0, largest(b))


@pytest.mark.slow
class TestExact:
    @pytest.mark.parametrize("slots", [None, 1, 2, 5, 100])
    @pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s["name"])
    def test_equals_backprop(self, solver, slots):
        control = {"name": "piecewise_constant", "pieces": 4} if solver.get("steps", 4) % 4 == 0 else "constant"
        exact, *_ = differentiated(solver, "backprop", control)
        assert_same(differentiated(solver, {"name": "checkpoint", "slots": slots}, control)[0], exact)

    @pytest.mark.parametrize("solver", [SOLVERS[1], SOLVERS[-1]], ids=lambda s: s["name"])
    @pytest.mark.parametrize("times", [(0.1, 0.3, 0.9), (0.9, 0.3, 0.1)])
    def test_gradients_of_times_equal_backprop(self, solver, times):
        grads = []
        for gradient in ("checkpoint", "backprop"):
            leaf = torch.tensor(times, dtype=torch.float64, requires_grad=True)
            grads.append(differentiated(solver, gradient, times=leaf)[0])
        assert_same(*grads)
        assert float(grads[0][-1].abs().min()) > 1e-3

    def test_noise_and_dropout_are_repeated(self):
        noisy = [
            differentiated(NoisyEuler(steps=12), g, noise=Noise(3))[0]
            for g in ({"name": "checkpoint", "slots": 2}, "backprop")
        ]
        assert_same(*noisy)
        for slots in (None, 2):
            dropped = []
            for gradient in ({"name": "checkpoint", "slots": slots}, "backprop"):
                torch.manual_seed(1)
                block = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))
                dropped.append(differentiated({"name": "rk4", "steps": 9}, gradient, dynamics=block)[0])
            assert_same(*dropped)

    def test_torchs_generator_goes_on_as_if_nothing_was_repeated(self):
        after = []
        for gradient in ("checkpoint", "backprop"):
            block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
            differentiated({"name": "euler", "steps": 9}, gradient, dynamics=block)
            after.append(torch.rand(3))
        assert torch.equal(*after)

    def test_dropout_in_an_adaptive_solve_is_refused(self):
        with pytest.raises(odeframe.Incompatible, match="random"):
            solver = {"name": "dopri5", "max_steps": 9, "on_failure": "return"}
            differentiated(solver, "checkpoint", dynamics=nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)))

    def test_one_time_and_one_step(self):
        x0 = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
        flow = Flow(Coupled(), solver={"name": "euler", "steps": 1}, gradient="checkpoint")
        (gradient,) = torch.autograd.grad(flow.solve(x0, (0.5,)).states.sum(), x0)
        assert torch.equal(gradient, torch.ones_like(x0))
        assert differentiated({"name": "euler", "steps": 1}, "checkpoint", times=(0.0, 1.0))[2].nfe > 0


class Away(store.Store):
    """Copies states as it would from a GPU."""

    def __init__(self, device, offload):
        super().__init__(device, offload)
        self.away = offload


class TestOffload:
    @pytest.mark.parametrize("slots", [None, 3])
    @pytest.mark.parametrize("solver", [SOLVERS[1], SOLVERS[2], SOLVERS[-1]], ids=lambda s: s["name"])
    def test_copies_give_the_same_gradient(self, solver, slots, monkeypatch):
        """With states that are copied away and back, also those that are kept on the way back."""
        puts, here = [], Away.put
        monkeypatch.setattr(Away, "put", lambda self, state: puts.append(here(self, state)) or puts[-1])
        monkeypatch.setattr(checkpoint, "Store", Away)
        exact, saved, _ = differentiated(solver, {"name": "checkpoint", "slots": slots})
        assert not any(float(x.sum()) != float(x.sum()) for x, _ in puts)
        count = len(puts)
        found, same, _ = differentiated(solver, {"name": "checkpoint", "slots": slots, "offload": True})
        assert_same(found, exact, 0.0)
        assert same == saved and len(puts) == 2 * count > 0
        for before, after in zip(puts[:count], puts[count:], strict=True):
            assert torch.equal(before[0], after[0]) and after[0].device.type == "cpu"

    def test_a_copy_is_one_and_a_state_on_the_host_stays_where_it_is(self):
        state = (torch.randn(3, 2, dtype=torch.float64).t(), (torch.zeros(0),))
        kept = Away(torch.device("cpu"), True).put(state)
        assert torch.equal(kept[0], state[0]) and kept[0].data_ptr() != state[0].data_ptr()
        assert kept[0].device.type == "cpu" and kept[0].dtype == torch.float64 and kept[1][0].shape == (0,)
        assert store.Store(torch.device("cpu"), True).put(state) is state
        assert store.Store(torch.device("meta"), True).put((state[0], ()))[0].device.type == "cpu"

    def test_on_the_host_values_and_devices(self):
        solver, devices = {"name": "rk4", "steps": 16}, set()
        exact, *_ = differentiated(solver, "backprop")
        with torch.autograd.graph.saved_tensors_hooks(lambda v: devices.add(v.device.type) or v, lambda v: v):
            assert_same(differentiated(solver, {"name": "checkpoint", "offload": True})[0], exact)
        assert devices == {"cpu"}

    @pytest.mark.gpu
    def test_on_a_gpu_states_wait_on_the_host(self):
        """1,024 kept states of 4 MB would be 4 GB; what is left is a graph of one step and the loss."""
        peaks, grads = {}, {}
        for offload in (False, True):
            torch.manual_seed(0)
            gradient = {"name": "checkpoint", "slots": 1024, "offload": offload}
            flow = Flow(Coupled(), solver={"name": "euler", "steps": 1024}, gradient=gradient).cuda()
            x0 = torch.randn(2**18, 4, device="cuda", requires_grad=True)
            torch.cuda.reset_peak_memory_stats()
            flow(x0).square().mean().backward()
            peaks[offload], grads[offload] = torch.cuda.max_memory_allocated(), x0.grad
        assert torch.equal(grads[True], grads[False])
        assert peaks[True] < 0.1 * peaks[False]


class TestMemoryAndWork:
    def test_saved_bytes_grow_like_the_square_root_of_depth(self):
        saved = {n: differentiated({"name": "rk4", "steps": n}, "checkpoint")[1] for n in (16, 64, 256)}
        state = 5 * (4 + 1) * 8
        for n, size in saved.items():
            assert size <= math.isqrt(n) * state + 3 * 8
        assert differentiated({"name": "rk4", "steps": 64}, "backprop")[1] > 50 * saved[64]

    def test_kept_states_of_an_adaptive_solve_are_at_most_twice_the_root(self):
        for rtol in (1e-4, 1e-8, 1e-12):
            _, saved, stats = differentiated({"name": "dopri5", "rtol": rtol}, "checkpoint")
            assert saved <= 2 * (math.sqrt(2 * stats.accepted) + 1) * 2 * 5 * 5 * 8 + 3 * 8  # a state and its slope
            _, saved, _ = differentiated({"name": "dopri5", "rtol": rtol}, {"name": "checkpoint", "slots": 3})
            assert saved <= 3 * 2 * 5 * 5 * 8 + 3 * 8

    def test_by_default_every_step_is_evaluated_exactly_twice(self):
        """The bound (2 forward + backward) / (forward + backward), in evaluations and derivatives."""
        for steps in (10, 37):
            _, _, stats = differentiated({"name": "rk4", "steps": steps}, "checkpoint", times=(0.0, 1.0))
            assert stats.nfe == 4 * steps and stats.nfe_backward == 2 * 4 * steps  # again, and a derivative of each

    @pytest.mark.parametrize(("steps", "slots"), [(10, 1), (10, 3), (37, 4), (60, 60), (61, 2)])
    def test_slots_repeat_as_little_as_the_binomial_optimum(self, steps, slots):
        gradient = {"name": "checkpoint", "slots": slots}
        _, saved, stats = differentiated({"name": "euler", "steps": steps}, gradient, times=(0.0, 1.0))
        again = least_steps(steps, slots) - (steps - 1)  # the first sweep is the solve itself
        assert stats.nfe_backward == again + 2 * steps
        assert saved <= (slots + 1) * 5 * 5 * 8 + 2 * 8

    def test_rejected_steps_are_not_repeated(self):
        solver = {"name": "dopri5", "rtol": 1e-6, "first_step": 0.9}
        _, _, stats = differentiated(solver, "checkpoint", times=(0.0, 1.0))
        assert stats.rejected > 0 and stats.nfe_backward == 2 * (6 * stats.accepted + 1)


class TestRefusals:
    def test_options_are_checked(self):
        with pytest.raises(InvalidOption, match="slots"):
            odeframe.build("gradient", "checkpoint", slots=0)

    def test_solvers_without_steps_are_refused(self):
        words = {"solver": {"name": "torchdiffeq", "method": "rk4"}, "gradient": "checkpoint"}
        with pytest.raises(odeframe.Incompatible, match="checkpoint"):
            Flow(nn.Linear(4, 4), **words)
        solver, chosen = odeframe.build("solver", "torchdiffeq", method="rk4"), odeframe.build("gradient", "checkpoint")
        with pytest.raises(odeframe.Incompatible, match="'step' or 'adaptive'"):
            chosen.solve(solver, FunctionField(lambda t, x: -x), torch.randn(2, 4, requires_grad=True), (0.0, 1.0))

    def test_samples_with_their_own_steps_are_refused(self):
        with pytest.raises(odeframe.Incompatible, match="per_sample"):
            flow = Flow(nn.Linear(4, 4), solver={"name": "dopri5", "per_sample": True}, gradient="checkpoint")
            flow(torch.randn(2, 4))

    def test_stop_rules_are_refused(self):
        flow = Flow(nn.Linear(4, 4), gradient="checkpoint")
        with pytest.raises(InvalidOption, match="stop"):
            flow(torch.randn(2, 4), stop=lambda t, x, memory: x[:, 0] > 0)

    def test_parameters_changed_before_the_backward_pass_are_an_error(self):
        flow = Flow(nn.Linear(4, 4), gradient="checkpoint")
        loss = flow(torch.randn(2, 4)).sum()
        with torch.no_grad():
            flow.dynamics.module.weight.add_(1)
        with pytest.raises(odeframe.OdeframeError, match="in place"):
            loss.backward()

    def test_a_failed_solve_has_no_gradient(self):
        flow = Flow(
            nn.Linear(4, 4), solver={"name": "dopri5", "max_steps": 2, "on_failure": "return"}, gradient="checkpoint"
        )
        with pytest.raises(odeframe.Incompatible, match="failed"):
            flow.solve(torch.randn(2, 4)).states.sum().backward()


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ("checkpoint", {}),
        ({"name": "checkpoint", "slots": 2}, {}),
        ("reversible", {"solver": "reversible_heun"}),
        ("adjoint", {"solver": "rk4", "control": "constant"}),
    ],
    ids=str,
)
def test_the_trainer_word_stands_for_the_gradient(trainer, words, tmp_path):
    run = odeframe.compose("neural_ode", "two_moons", trainer=trainer, output=tmp_path, **words)
    name = trainer if isinstance(trainer, str) else trainer["name"]
    flow = run.module.network.flows[0]
    assert type(flow.gradient).__name__.lower() == name
    batch = (torch.randn(6, 2), torch.randint(2, (6,)))
    run.module.objective(batch).loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in flow.parameters())
    with pytest.raises(odeframe.Incompatible, match="contradicts"):
        odeframe.compose("neural_ode", "two_moons", trainer=trainer, gradient="backprop", output=tmp_path)
