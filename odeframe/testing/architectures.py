"""What every architecture must do, as a base class for pytest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from odeframe.compatibility import why
from odeframe.errors import Incompatible, InvalidOption
from odeframe.network import Architecture, Network
from odeframe.registry import word
from odeframe.solver import StepSolver
from odeframe.specification import NetworkSpec
from odeframe.testing.conformance import Conformance, refused, said


class ArchitectureConformance(Conformance):
    """Set ``architecture`` to a word; ``input_shapes`` to the shapes of one sample that it takes.

    Attributes:
        architecture: a name, or a mapping with options (small ones make the tests quick).
        input_shapes: shapes of one sample.
        solvers: further solvers that it must work with.
        output_shape: that is asked for.
        spec: what else it must be told of the data, fields of ``odeframe.NetworkSpec``.
    """

    kind = "architecture"
    interface = Architecture
    architecture: ClassVar[Any] = None
    input_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((6,), (1, 8, 8))
    solvers: ClassVar[tuple[Any, ...]] = ({"name": "rk4", "steps": 4}, "dopri5")
    output_shape: ClassVar[tuple[int, ...]] = (3,)
    spec: ClassVar[Mapping[str, Any]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each input shape in turn, for the tests that take ``shape``."""
        if "shape" in metafunc.fixturenames:
            metafunc.parametrize("shape", self.input_shapes)

    def build(self, shape: tuple[int, ...], **words: Any) -> Network:
        """The network in float64, with seeded weights."""
        torch.manual_seed(0)
        architecture: Architecture = word("architecture", self.architecture).build()
        return architecture.build(self.asked(shape), **words).double()

    def asked(self, shape: tuple[int, ...]) -> NetworkSpec:
        """What the network is built from."""
        return NetworkSpec(shape, self.output_shape, **self.spec)

    @staticmethod
    def batch(shape: tuple[int, ...], size: int) -> Tensor:
        """A seeded batch."""
        return torch.randn(size, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("size", [0, 1, 5])
    def test_output_shape_and_dtype(self, shape: tuple[int, ...], size: int) -> None:
        """Outputs have the shape asked for, in float64 and float32, for empty batches too."""
        network = self.build(shape).eval()
        x = self.batch(shape, size)
        with said(f"a batch of {size} samples of shape {shape}"):
            output = network(x)
        assert output.shape == (size, *self.output_shape), (
            f"outputs are {tuple(output.shape)}, the specification says {(size, *self.output_shape)}: the head ends in "
            "spec.output_shape, and reshape(len(x), ...) rather than reshape(-1, ...) keeps an empty batch"
        )
        assert output.dtype == torch.float64, f"a float64 network gives {output.dtype}: a constant has its own dtype"
        assert network.float()(x.float()).dtype == torch.float32, "a constant in the network has its own dtype"

    def test_every_parameter_gets_a_gradient(self, shape: tuple[int, ...]) -> None:
        """DDP hangs or raises on parameters that take no part."""
        network = self.build(shape)
        network(self.batch(shape, 4)).square().sum().backward()
        without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert not without, f"these parameters take no part in the output: {without}"

    def test_samples_do_not_influence_each_other(self, shape: tuple[int, ...]) -> None:
        """In evaluation, an output does not depend on the rest of the batch (up to an adaptive solver's tolerance)."""
        network = self.build(shape).eval()
        x = self.batch(shape, 4)
        exact = all(isinstance(flow.solver, StepSolver) for flow in network.flows)
        difference = float((network(x)[1:2] - network(x[1:2])).detach().abs().max())
        assert difference <= (1e-12 if exact else 1e-2), (
            f"a sample's output changes by {difference:.1e} with the rest of its batch: no statistics over dimension 0 "
            "in evaluation"
        )

    def test_step_maps_compose_to_the_network(self, shape: tuple[int, ...]) -> None:
        """Stem, every step, transitions and head, one after the other, are the network."""
        fits = not why("architecture", self.architecture, "solver", "euler")
        network = self.build(shape, **({"solver": "euler"} if fits else {})).eval()
        x = self.batch(shape, 3)
        z: tuple[Tensor, ...] = (x,)
        for step in network.steps(x):
            z = step.step(z)
        difference = float((z[0] - network(x)).detach().abs().max())
        assert difference <= 1e-12, (
            f"the step maps end {difference:.1e} away from the network: every module and flow is a stage of Network, "
            "in order, and nothing happens between them"
        )

    def test_works_with_other_solvers(self, shape: tuple[int, ...]) -> None:
        """The solver is one word away, an adaptive one too; one that its needs refuse is refused."""
        for solver in self.solvers:
            if why("architecture", self.architecture, "solver", solver):
                with pytest.raises(Incompatible):
                    self.build(shape, solver=solver)
                continue
            with said(f"with solver={solver!r} the network"):
                output = self.build(shape, solver=solver)(self.batch(shape, 2))
            assert bool(torch.isfinite(output).all()), f"non-finite output with {solver!r}"

    def test_copies_are_independent(self, shape: tuple[int, ...]) -> None:
        """A deep copy has weights of its own, and a state dict carries all of them over."""
        network, x = self.build(shape).eval(), self.batch(shape, 2)
        before, twin = network(x), copy.deepcopy(network)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1)
        assert torch.equal(network(x), before), "a deep copy shares weights with its original"
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin(x), before), "something that the output depends on is not in the state dict"

    def test_unknown_words_are_refused(self) -> None:
        """A word for a kind that an architecture does not have is named."""
        architecture: Architecture = word("architecture", self.architecture).build()
        hint = "pass unknown words on to Architecture.build, which names them: override assemble and default alone"
        with refused(InvalidOption, "task", hint):
            architecture.build(self.asked(self.input_shapes[0]), task="classification")
