"""Second derivatives, torch.func over a flow, complex and other states: each works, or is refused in one line."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, SolveFailed

TIGHT = {"rtol": 1e-9, "atol": 1e-10}
EXPLICIT = [
    {"name": "rk4", "steps": 10},
    {"name": "ab2", "steps": 10},
    {"name": "dopri5", **TIGHT},
    {"name": "dop853", **TIGHT},
    {"name": "dopri5", "per_sample": True, **TIGHT},
]
GRIDS = EXPLICIT[:2]
OWN_BACKWARD = {
    "adjoint": "dopri5",
    "interpolated_adjoint": "dopri5",
    "checkpoint": "dopri5",
    "reversible": {"name": "reversible_heun", "steps": 4},
}


@pytest.fixture(autouse=True)
def double_precision():
    """Derivatives are compared with differences."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def short(word):
    return word["name"] + (" per sample" if "per_sample" in word else "") if isinstance(word, dict) else str(word)


@pytest.mark.parametrize("solver", EXPLICIT, ids=short)
class TestBackprop:
    def test_second_derivatives(self, solver):
        """The derivative of ``|dJ/dx0|^2`` along a direction, against central differences of it."""
        flow, x0, along = Flow(net(), solver=solver), torch.randn(2, 3), torch.randn(2, 3)

        def squared_slope(x, create_graph):
            (slope,) = torch.autograd.grad(flow(x).square().sum(), x, create_graph=create_graph)
            return slope.square().sum()

        leaf = x0.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(squared_slope(leaf, True), leaf)
        ends = [squared_slope((x0 + sign * 1e-5 * along).requires_grad_(True), False) for sign in (1, -1)]
        assert float((found * along).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7)

    def test_vjp_jvp_and_jacobians(self, solver):
        flow, x0, v = Flow(net(), solver=solver), torch.randn(2, 3), torch.randn(2, 3)
        jacobian = jacrev(flow)(x0)
        torch.testing.assert_close(jacfwd(flow)(x0), jacobian, rtol=0, atol=1e-9)
        torch.testing.assert_close(vjp(flow, x0)[1](v)[0], torch.einsum("ij,ijkl->kl", v, jacobian), rtol=0, atol=1e-9)
        torch.testing.assert_close(
            jvp(flow, (x0,), (v,))[1], torch.einsum("ijkl,kl->ij", jacobian, v), rtol=0, atol=1e-9
        )
        leaf = x0.clone().requires_grad_(True)
        (plain,) = torch.autograd.grad((flow(leaf) * v).sum(), leaf)
        torch.testing.assert_close(vjp(flow, x0)[1](v)[0], plain, rtol=0, atol=1e-12)

    def test_a_gradient_of_parameters_that_are_given(self, solver):
        flow, x0 = Flow(net(), solver=solver), torch.randn(2, 3)
        found = grad(lambda given: functional_call(flow, given, (x0,)).square().sum())(dict(flow.named_parameters()))
        flow(x0).square().sum().backward()
        for name, parameter in flow.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-12)


class TestVmap:
    @pytest.mark.parametrize("solver", GRIDS, ids=short)
    def test_over_states_and_over_an_ensemble(self, solver):
        flow, many = Flow(net(), solver=solver), torch.randn(4, 2, 3)
        torch.testing.assert_close(vmap(flow)(many), torch.stack([flow(x) for x in many]), rtol=0, atol=1e-12)
        flows = [Flow(net(), solver=solver) for _ in range(3)]
        parameters, buffers = stack_module_state(flows)
        together = vmap(lambda p, b: functional_call(flows[0], (p, b), (many[0],)))(parameters, buffers)
        torch.testing.assert_close(together, torch.stack([f(many[0]) for f in flows]), rtol=0, atol=1e-12)

    def test_a_failure_in_one_call_is_a_failure(self):
        flow = Flow(
            odeframe.dynamics.as_dynamics(_Square()), solver={"name": "euler", "steps": 200}, horizon=(0.0, 50.0)
        )
        with pytest.raises(SolveFailed, match="non-finite"):
            vmap(flow)(torch.tensor([[[-1.0]], [[1.0]]]))

    @pytest.mark.parametrize("solver", EXPLICIT[2:], ids=short)
    def test_adaptive_steps_are_refused(self, solver):
        with pytest.raises(Incompatible, match=r"vmap.*per_sample=True.*'rk4'"):
            vmap(Flow(net(), solver=solver))(torch.randn(4, 2, 3))
        flows = [Flow(net(), solver=solver) for _ in range(3)]
        parameters, buffers = stack_module_state(flows)
        with pytest.raises(Incompatible, match="vmap"):
            vmap(lambda p, b: functional_call(flows[0], (p, b), (torch.ones(2, 3),)))(parameters, buffers)


class _Turn(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))

    def forward(self, t, x):
        return 1j * torch.tanh(x @ self.w)


class _Square(nn.Module):
    def forward(self, x):
        return x * x


def transforms(flow, x0):
    """Every transform of a flow, to be called."""
    return (
        lambda: grad(lambda x: flow(x).sum())(x0),
        lambda: vjp(flow, x0),
        lambda: jvp(flow, (x0,), (x0,)),
        lambda: jacrev(flow)(x0),
        lambda: jacfwd(flow)(x0),
        lambda: vmap(flow)(x0[None]),
    )


class TestRefusals:
    @pytest.mark.parametrize("gradient", OWN_BACKWARD)
    def test_a_backward_pass_of_ones_own(self, gradient):
        flow, x0 = Flow(net(), solver=OWN_BACKWARD[gradient], gradient=gradient), torch.randn(2, 3)
        for transform in transforms(flow, x0):
            with pytest.raises(Incompatible, match=f"{gradient}.*torch.func.*gradient='backprop'"):
                transform()
        leaf = x0.requires_grad_(True)
        with pytest.raises(Incompatible, match="cannot be differentiated twice"):
            torch.autograd.grad(flow(leaf).sum(), leaf, create_graph=True)

    @pytest.mark.parametrize(
        ("solver", "instead"),
        [("radau", "rk4"), ("sdirk4", "rk4"), ("implicit_euler", "rk4"), ("torchdiffeq", "dopri5")],
    )
    def test_implicit_and_foreign_solvers(self, solver, instead):
        for transform in transforms(Flow(net(), solver=solver), torch.randn(2, 3)):
            with pytest.raises(Incompatible, match=rf"torch.func.*'{instead}'"):
                transform()


class TestStates:
    @pytest.mark.parametrize("solver", ["rk4", "dopri5", "dop853", "tsit5"])
    def test_complex_ones(self, solver):
        """x' = w x: x(1) = exp(w) x0; autograd's gradient of Re x(1) by x0 is exp(w) conjugated."""
        w = torch.tensor([1j, -0.3 + 2j])
        x0 = torch.ones(2, 2, dtype=torch.complex128, requires_grad=True)
        options = {"steps": 100} if solver == "rk4" else {"rtol": 1e-9}
        final = odeframe.solve(lambda t, x: w * x, x0, (0.0, 1.0), solver=solver, **options).final
        torch.testing.assert_close(final, w.exp().expand(2, 2), rtol=0, atol=1e-7)
        (found,) = torch.autograd.grad(final.real.sum(), x0)
        torch.testing.assert_close(found, w.exp().conj().expand(2, 2).resolve_conj(), rtol=0, atol=1e-7)

    @pytest.mark.parametrize(
        ("gradient", "solver"),
        [
            ("checkpoint", {"name": "rk4", "steps": 7}),
            ("checkpoint", "dopri5"),
            ("reversible", {"name": "reversible_heun", "steps": 7}),
        ],
        ids=short,
    )
    def test_complex_ones_and_steps_taken_again(self, gradient, solver):
        """The gradient of a real loss by a complex start and a complex weight is that of backprop."""
        found, start = [], torch.randn(2, 3, dtype=torch.complex128)
        for name in ("backprop", gradient):
            torch.manual_seed(1)
            flow, x0 = Flow(_Turn(), solver=solver, gradient=name), start.clone().requires_grad_(True)
            flow(x0).abs().square().sum().backward()
            found.append((x0.grad, flow.dynamics.w.grad))
        for mine, theirs in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("gradient", ["adjoint", "interpolated_adjoint"])
    def test_complex_ones_and_the_adjoint_equation(self, gradient):
        with pytest.raises(Incompatible, match=r"complex state.*gradient='backprop'"):
            Flow(_Turn(), solver="dopri5", gradient=gradient)(torch.ones(2, 3, dtype=torch.complex128))

    def test_a_complex_one_that_is_refused(self):
        x0 = torch.ones(2, 2, dtype=torch.complex128)
        with pytest.raises(Incompatible, match=r"torch.view_as_real"):
            odeframe.solve(lambda t, x: 1j * x, x0, (0.0, 1.0), solver="radau")

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_several_tensors_are_refused(self, kind):
        parts = kind([torch.ones(2, 1), torch.zeros(2, 1)])
        with pytest.raises(InvalidOption, match=r"write torch.cat\(x0, dim=1\)"):
            odeframe.solve(lambda t, x: x, parts, (0.0, 1.0))
        with pytest.raises(InvalidOption, match=r"write torch.cat\(x0, dim=1\)"):
            Flow(net())(parts)

    @pytest.mark.parametrize("solver", ["rk4", "dopri5"])
    def test_another_device_or_dtype_than_the_parameters(self, solver):
        """The meta device stands for one that is not here."""
        flow = Flow(net(), solver=solver)
        with pytest.raises(InvalidOption, match=r"a state on meta, and a parameter or drive on cpu; write x0.to"):
            flow(torch.ones(2, 3, device="meta"))
        with pytest.raises(InvalidOption, match=r"got torch.float32, and a parameter or drive of torch.float64"):
            flow(torch.ones(2, 3, dtype=torch.float32))
        with pytest.raises(InvalidOption, match="the field returned a tensor on meta for a state on cpu"):
            odeframe.solve(lambda t, x: torch.ones(2, 3, device="meta"), torch.ones(2, 3), (0.0, 1.0), solver=solver)

    def test_a_failure_of_the_users_own_stays_as_it_is(self):
        class Broken(nn.Module):
            def forward(self, x):
                raise RuntimeError("of my own")

        with pytest.raises(RuntimeError, match="of my own"):
            Flow(Broken())(torch.ones(1, 2))
