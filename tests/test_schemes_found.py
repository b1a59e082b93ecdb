"""Networks that were later found to be schemes: which scheme each is, and the property that it claims."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, Noise, build
from odeframe.specification import NetworkSpec
from odeframe.testing.architectures import ArchitectureConformance
from odeframe_plugins.architectures import found
from odeframe_plugins.architectures.fractalnet import column


class TestPolyNet(ArchitectureConformance):
    architecture = {"name": "polynet", "width": 4, "blocks": 2}


@pytest.mark.slow
class TestPolyNetOfThreeBlocks(ArchitectureConformance):
    architecture = {"name": "polynet", "width": 4, "blocks": 1, "form": "mpoly3"}


class TestFractalNet(ArchitectureConformance):
    architecture = {"name": "fractalnet", "width": 4, "columns": 2}


class TestRevNet(ArchitectureConformance):
    architecture = {"name": "revnet", "width": 4, "blocks": 2}


@pytest.mark.slow
class TestLMResNet(ArchitectureConformance):
    architecture = {"name": "lm_resnet", "width": 4, "blocks": 2}


class TestRKNet(ArchitectureConformance):
    architecture = {"name": "rknet", "width": 4, "blocks": 1}


@pytest.mark.slow
class TestUntiedRKNet(ArchitectureConformance):
    architecture = {"name": "rknet", "width": 4, "blocks": 1, "order": 3, "untied": True}


@pytest.mark.slow
class TestStochasticDepth(ArchitectureConformance):
    architecture = {"name": "stochastic_depth", "width": 4, "blocks": 2}


@pytest.mark.slow
class TestShakeShake(ArchitectureConformance):
    architecture = {"name": "shake_shake", "width": 4, "blocks": 1}


@pytest.mark.slow
class TestMomentumNet(ArchitectureConformance):
    architecture = {"name": "momentum", "width": 4, "blocks": 2}


class TestProjectedResNet(ArchitectureConformance):
    architecture = {"name": "projected_resnet", "width": 4, "blocks": 2}


IMAGES = NetworkSpec((1, 6, 6), (3,))
VECTORS = NetworkSpec((6,), (3,))
X = torch.randn(4, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor(0.0, dtype=torch.float64)


def flow_of(name, spec=IMAGES, words=None, **options):
    """The first flow of a network in float64, in evaluation."""
    torch.manual_seed(1)
    options = {"width": 4, "stages": 1, **options}
    return build("architecture", name, **options).build(spec, **(words or {})).double().eval().flows[0]


def blocks_of(flow):
    """The blocks of each step."""
    return [[lambda x, f=f: f(T, x) for f in piece.slots] for piece in flow.control.blocks]


def same(x, y):
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


class TestEachIsItsHandWrittenLoop:
    @pytest.mark.parametrize(
        ("form", "rule"),
        [
            ("poly2", lambda x, f: x + f(x) + f(f(x))),
            ("poly3", lambda x, f: x + f(x) + f(f(x)) + f(f(f(x)))),
            ("mpoly2", lambda x, f, g: x + f(x) + g(f(x))),
            ("mpoly3", lambda x, f, g, h: x + f(x) + g(f(x)) + h(g(f(x)))),
            ("two_way", lambda x, f, g: x + f(x) + g(x)),
            ("three_way", lambda x, f, g, h: x + f(x) + g(x) + h(x)),
            ("truncated_backward_euler", lambda x, f: x + f(x + f(x))),
        ],
    )
    def test_polynet(self, form, rule):
        flow, x = flow_of("polynet", form=form, blocks=2), X
        for fs in blocks_of(flow):
            x = rule(x, *fs)
        same(flow(X), x)

    def test_fractalnet(self):
        """Two columns: one block beside two, and the mean."""
        flow, x = flow_of("fractalnet", columns=2, blocks=2), X
        for f, g1, g2 in blocks_of(flow):
            middle = x + g1(x) / 2
            x = (x + f(x) + middle + g2(middle) / 2) / 2
        same(flow(X), x)

    def test_revnet(self):
        flow, (y, z) = flow_of("revnet", blocks=3), X.chunk(2, dim=1)
        for piece in flow.control.blocks:
            y = y + piece.slots[0].first(T, z)
            z = z + piece.slots[0].second(T, y)
        same(flow(X), torch.cat([y, z], dim=1))

    def test_lm_resnet(self):
        flow = flow_of("lm_resnet", blocks=3, words={"solver": {"name": "lm", "init": (-0.4, 0.4)}})
        before, x = None, X
        for piece, (f,) in zip(flow.control.blocks, blocks_of(flow), strict=True):
            k = piece.solver.k
            after = x + f(x) if before is None else (1 - k) * x + k * before + (1 + k) * f(x)
            before, x = x, after
        same(flow(X), x)

    def test_rknet_with_a_block_a_stage(self):
        """Heun's coefficients, trained or not, with two blocks."""
        flow, x = flow_of("rknet", untied=True, blocks=2), X
        for f, g in blocks_of(flow):
            x = x + (f(x) + g(x + f(x))) / 2
        same(flow(X), x)

    def test_stochastic_depth_in_evaluation(self):
        flow, x = flow_of("stochastic_depth", blocks=4, survival=0.6), X
        for k, (f,) in enumerate(blocks_of(flow), start=1):
            x = x + (1 - k / 4 * 0.4) * f(x)
        same(flow(X), x)

    def test_shake_shake_in_evaluation(self):
        flow, x = flow_of("shake_shake", blocks=2, branches=3), X
        for piece in flow.control.blocks:
            x = x + sum(f(T, x) for f in piece.slots[0].blocks) / 3
        same(flow(X), x)

    def test_momentum(self):
        flow, x, v = flow_of("momentum", blocks=3, gamma=0.8), X, None
        for (f,) in blocks_of(flow):
            v = f(x) if v is None else 0.8 * v + 0.2 * f(x)
            x = x + v
        same(flow(X), x)

    def test_projected_resnet(self):
        """``relu`` after the sum; not what Euler's method makes of the same blocks."""
        flow, x = flow_of("projected_resnet", blocks=3), X
        for (f,) in blocks_of(flow):
            x = (x + f(x)).relu()
        same(flow(X), x)
        euler = flow_of("projected_resnet", blocks=3, words={"solver": "euler"})
        assert float((euler(X) - x).detach().abs().max()) > 0.1


def test_polynet_is_the_resolvent_of_a_linear_block_up_to_the_third_order():
    """Distance to ``(I - h A)^{-1} x``: by 8 when h halves, Euler's by 4; of third order by 16."""
    x = X[:, :, 0, 0]

    def distance(name, h, **options):
        words = {"dynamics": nn.Linear(4, 4, bias=False)}
        flow = flow_of(name, VECTORS, words, blocks=1, step=h, **options)
        torch.manual_seed(3)
        with torch.no_grad():
            weight = flow.dynamics.module.weight.normal_()
        return float((flow(x).detach() - torch.linalg.solve(torch.eye(4).double() - h * weight, x.T).T).norm())

    for name, options, ratio in (
        ("polynet", {"form": "poly2"}, 8),
        ("polynet", {"form": "truncated_backward_euler"}, 8),
        ("polynet", {"form": "poly3"}, 16),
        ("resnet", {}, 4),
    ):
        errors = [distance(name, h, **options) for h in (4e-3, 2e-3, 1e-3)]
        assert errors[0] / errors[1] == pytest.approx(ratio, rel=0.03)
        assert errors[1] / errors[2] == pytest.approx(ratio, rel=0.03)


class Scaled(odeframe.Dynamics):
    """``scale tanh(A x)`` with the same ``A`` everywhere."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))
        self.scale = nn.Parameter(torch.ones(()))

    def reset_parameters(self):
        nn.init.ones_(self.scale)

    def forward(self, t, x, u=None):
        return self.scale * torch.tanh(x @ self.matrix.T)


def order_of(name, counts=(20, 40), scales=None, **options):
    """Observed order on ``x' = tanh(A x)`` over a unit interval; ``scales`` are those of the blocks of a step."""
    x, errors = X[:, :, 0, 0], []
    exact = Flow(Scaled().double(), solver={"name": "rk4", "steps": 200})(x)
    for blocks in counts:
        flow = flow_of(name, VECTORS, {"dynamics": Scaled()}, blocks=blocks, step=1 / blocks, **options)
        for piece in flow.control.blocks:
            for slot, scale in zip(piece.slots, scales or [1.0] * len(piece.slots), strict=True):
                slot.scale.data.fill_(scale)
        errors.append(float((flow(x) - exact).norm().detach()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("fractalnet", {"columns": 2}, 1),
        ("fractalnet", {"columns": 2, "scales": (0.0, 2.0, 2.0)}, 2),
        ("lm_resnet", {}, 1),
        ("rknet", {"order": 2}, 2),
        ("rknet", {"order": 3}, 3),
        ("rknet", {"order": 4, "counts": (8, 16)}, 4),
        ("rknet", {"order": 4, "trainable": False, "counts": (8, 16)}, 4),
        ("polynet", {"form": "poly2"}, 1),
        ("momentum", {"gamma": 0.5}, 1),
    ],
)
def test_orders(name, options, order):
    assert order_of(name, **options) == pytest.approx(order, abs=0.15)


class TestFractalColumns:
    def test_any_column_can_be_taken_out(self):
        """As a plain network of 1, 2 or 4 Euler steps for each fractal, with its blocks alone."""
        torch.manual_seed(0)
        network = build("architecture", "fractalnet", width=4, blocks=2).build(IMAGES).double().eval()
        x, sizes = torch.randn(3, 1, 6, 6, dtype=torch.float64), []
        for index in range(3):
            alone = column(network, index)
            assert [flow.solver.steps for flow in alone.flows] == [2 * 2**index] * 2
            for flow in network.flows:
                flow.solver.column = index
            same(alone(x), network(x))
            sizes.append(sum(p.numel() for flow in alone.flows for p in flow.parameters()))
        assert sizes == [sizes[0], 2 * sizes[0], 4 * sizes[0]]
        for flow in network.flows:
            flow.solver.column = None
        assert sum(sizes) == sum(p.numel() for flow in network.flows for p in flow.parameters())

    def test_of_a_tied_network_too(self):
        network = build("architecture", "fractalnet", width=4, blocks=2).build(VECTORS, control="constant").eval()
        alone = column(network, 1)
        network.flows[0].solver.column = 1
        torch.testing.assert_close(alone(torch.ones(2, 6)), network(torch.ones(2, 6)))

    def test_what_has_no_columns_is_refused(self):
        plain = build("architecture", "resnet", width=4).build(VECTORS)
        with pytest.raises(Incompatible, match="no columns"):
            column(plain, 0)
        fractal = build("architecture", "fractalnet", width=4)
        with pytest.raises(InvalidOption, match="0 to 2"):
            column(fractal.build(VECTORS), 3)
        with pytest.raises(Incompatible, match="piecewise_constant"):
            column(fractal.build(VECTORS, control={"name": "galerkin", "degree": 1}), 0)

    @pytest.mark.slow
    def test_each_is_trained_along_by_drop_path(self, tmp_path):
        """After a fit with drop-path every column alone is well above chance (0.1)."""
        torch.manual_seed(0)
        run = odeframe.compose(architecture="fractalnet", data="digits", output=tmp_path)
        run.fit(max_epochs=6, enable_progress_bar=False, logger=False, enable_checkpointing=False)
        network, accuracies = run.module.eval().network, []
        x, y = (torch.cat(part) for part in zip(*run.data.test_dataloader(), strict=True))
        for index in range(3):
            accuracies.append(float((column(network, index)(x).argmax(1) == y).float().mean()))
        assert min(accuracies) > 0.8, accuracies


def reversed_state(flow, x):
    """The state at the flow's start, from that at its end and the memory there; and both."""
    field, solver = flow.field(), flow.solver
    nodes = torch.linspace(*flow.horizon, flow.control.pieces + 1, dtype=torch.float64)
    laws = [field.on(nodes[k], nodes[k + 1], k) for k in range(flow.control.pieces)]
    dt = float(nodes[1] - nodes[0])
    memory = solver.init(laws[0], nodes[0], x)
    for law in laws:
        x, memory = solver.step(law, law.t, dt, x, memory)
    end = x
    for law in reversed(laws):
        x, memory = solver.reverse_step(law, law.t, dt, x, memory)
    return end, x


class TestReversible:
    @pytest.mark.parametrize(
        ("blocks", "dtype", "bound"),
        [(100, torch.float32, 1e-5), pytest.param(1000, torch.float64, 1e-10, marks=pytest.mark.slow)],
    )
    def test_revnet_is_undone(self, blocks, dtype, bound):
        """Weights bounded by the fresh draw and steps of 0.1."""
        torch.manual_seed(0)
        recipe = build("architecture", "revnet", width=16, blocks=blocks, step=0.1)
        flow = recipe.build(VECTORS).to(dtype).flows[0]
        x = torch.randn(8, 16, dtype=dtype, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            end, back = reversed_state(flow, x)
        torch.testing.assert_close(end, flow(x).detach())
        assert float((end - x).abs().max()) > 0.5, "nothing happened that could be undone"
        assert float((back - x).abs().max()) <= bound

    def test_momentum_loses_round_off_like_the_power_of_gamma(self):
        """100 steps back divide by ``gamma^100 = 2.7e-5``: far from 1e-5 in float32, fine in float64."""
        torch.manual_seed(0)
        recipe = build("architecture", "momentum", width=16, blocks=100, step=0.1)
        x = torch.randn(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        errors = {}
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(0)
            with torch.no_grad():
                _, back = reversed_state(recipe.build(VECTORS).to(dtype).flows[0], x.to(dtype))
            errors[dtype] = float((back - x.to(dtype)).abs().max())
        assert errors[torch.float64] < 1e-10 < 1e-5 < errors[torch.float32]

    @pytest.mark.parametrize("name", ["revnet", "momentum"])
    def test_both_train_without_keeping_states(self, name):
        """Two stages with a strided transition, which is not inverted: the gradients are those of backprop."""
        x = torch.randn(3, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        found = []
        for gradient in ("backprop", "reversible"):
            torch.manual_seed(0)
            network = build("architecture", name, width=8, blocks=3).build(IMAGES, gradient=gradient).double()
            network(x).square().sum().backward()
            found.append([parameter.grad for parameter in network.parameters()])
        for plain, undone in zip(*found, strict=True):
            torch.testing.assert_close(undone, plain, rtol=1e-8, atol=1e-10)

    def test_batch_norm_within_the_coupling_is_refused(self):
        """Its statistics would be updated twice."""
        with pytest.raises(Incompatible, match="batch_norm"):
            build("architecture", "revnet", width=8).build(
                IMAGES, dynamics={"name": "coupled_conv", "norm": "batch"}, gradient="reversible"
            )


def test_lm_coefficients_are_one_a_block_and_stay_zero_stable():
    network = build("architecture", "lm_resnet", width=4, blocks=3).build(IMAGES)
    solvers = [piece.solver for flow in network.flows for piece in flow.control.blocks]
    assert len({float(solver.k.detach()) for solver in solvers}) == 6, "one for each of 3 blocks in 2 stages"
    assert all(-0.1 <= float(solver.k.detach()) <= 0 for solver in solvers)
    for raw in (-1e3, 1e3):
        for solver in solvers:
            solver.raw.data.fill_(raw)
            assert abs(float(solver.k.detach())) <= 0.95 + 1e-6


@pytest.mark.parametrize("name", ["stochastic_depth", "shake_shake"])
def test_steps_have_the_mean_and_the_variance_of_the_theory(name):
    """Over 1e5 draws of one step: within three standard errors of the mean, and of the variance."""
    options = {"blocks": 2, "survival": 0.6} if name == "stochastic_depth" else {"blocks": 1}
    flow, count = flow_of(name, VECTORS, **options), 100_000
    x = X[:1, :, 0, 0].expand(count, 4)
    with torch.no_grad():
        if name == "stochastic_depth":  # the last of two blocks
            f = blocks_of(flow)[1][0](x[:1])[0]
            law = flow.field(noise=Noise(3)).on(T + 1, T + 2, 1)
            final, _ = flow.solver.step(law, T + 1, 1.0, x, ())
            mean, variance, kurtosis = 0.6 * f, 0.6 * 0.4 * f**2, (1 - 3 * 0.6 * 0.4) / (0.6 * 0.4)
        else:
            f, g = (block(T, x[:1])[0] for block in flow.control.blocks[0].slots[0].blocks)
            final = flow(x, noise=Noise(3))
            mean, variance, kurtosis = (f + g) / 2, (f - g) ** 2 / 12, 9 / 5
    moves = final - x
    assert bool(((moves.mean(0) - mean).abs() <= 3 * (variance / count).sqrt()).all())
    assert bool(((moves.var(0) - variance).abs() <= 3 * variance * ((kurtosis - 1) / count) ** 0.5).all())


def test_projected_states_are_not_negative():
    states = flow_of("projected_resnet", blocks=3).solve(X, (0.0, 1.0, 2.0, 3.0)).states.detach()
    assert float(states[0].min()) < 0 <= float(states[1:].min())


@pytest.mark.parametrize("name", found.PARTS)
def test_each_says_what_it_is(name):
    described = odeframe.describe("architecture", name)
    assert set(described["facts"]) == {"scheme", "order", "property"}
    assert described["source"]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("polynet", {"form": "poly4"}, "'poly4'"),
        ("fractalnet", {"columns": 0}, "option columns"),
        ("fractalnet", {"drop": 1.0}, "option drop"),
        ("fractalnet", {"drop_path": "all"}, "'all'"),
        ("revnet", {"width": 5}, "multiple of 2"),
        ("rknet", {"order": 1}, "resnet"),
        ("rknet", {"order": 5}, "2, 3 or 4"),
        ("stochastic_depth", {"survival": 0.0}, "option survival"),
        ("shake_shake", {"branches": 1}, "option branches"),
        ("momentum", {"gamma": 1.0}, "option gamma"),
        ("lm_resnet", {"blocks": 0}, "option blocks"),
        ("projected_resnet", {"columns": 3}, "no option 'columns'"),
    ],
)
def test_wrong_options_are_named(name, options, text):
    with pytest.raises(InvalidOption, match=text):
        build("architecture", name, **options)


@pytest.mark.parametrize(("name", "width"), [("coupled_conv", 3), ("coupled_conv", 0)])
def test_odd_widths_have_no_halves(name, width):
    with pytest.raises(InvalidOption, match="even"):
        build("dynamics", name, width=width)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["projected_resnet", "rknet"])
def test_the_cheapest_train_on_digits_from_the_command_line(name, tmp_path, capsys):
    """The others' figures are in docs/parts/architectures_found.md."""
    from odeframe.cli import main

    words = [f"--model.architecture={name}", "--data.name=digits", "--trainer.max_epochs=10", "--quiet"]
    assert main(["fit", *words, f"--output={tmp_path}"]) == 0
    run = odeframe.compose(architecture=name, data="digits", output=tmp_path / "test")
    run.restore(tmp_path / "checkpoints" / "last.ckpt")
    assert run.test(enable_progress_bar=False, logger=False)["test_accuracy"] >= 0.95
