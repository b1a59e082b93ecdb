"""Networks designed from schemes for stability: the block's structure carries the property, so no norm stands in it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from odeframe import InvalidOption
from odeframe.flow import Choice
from odeframe.options import check_not_negative
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stages
from odeframe_plugins.architectures.staged import Staged


class Antisymmetric(Staged):
    """``x_{k+1} = x_k + h act((K_k - K_k^T - gamma I) x_k + b_k)``: forward Euler, order 1.

    The eigenvalues of the Jacobian have real parts of at most 0: signals neither explode nor vanish exponentially in
    the flow.  Forward Euler multiplies an eigenvalue ``i omega - gamma`` by ``|1 + h (i omega - gamma)|``, at most 1
    for ``h <= 2 gamma / (omega^2 + gamma^2)`` alone: deep networks want small ``h``, ``gamma > 0`` or ``solver: rk4``.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.
        gamma: shift of the spectrum to the left, at least 0; a word for the dynamics replaces it.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 3.
    """

    name, normed, pool = "antisymmetric", False, 2
    vector_block: ClassVar[Choice] = {"name": "antisymmetric_mlp"}
    image_block: ClassVar[Choice] = {"name": "antisymmetric_conv"}

    def __init__(
        self, width: int = 16, blocks: int = 6, stages: int | None = None, step: float = 0.5, gamma: float = 0.1
    ) -> None:
        super().__init__(width, blocks, stages, step)
        check_not_negative(self.named, gamma=gamma)
        self.gamma = gamma

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The block with this ``gamma``."""
        choice = super().default(kind, spec)
        return {**choice, "gamma": self.gamma} if kind == "dynamics" and isinstance(choice, dict) else choice


class Midpoint(Antisymmetric):
    """``x_{k+1} = x_{k-1} + 2 h act((K_k - K_k^T) x_k + b_k)``, first step Euler's: the two-step midpoint rule.

    Order 2, stable on imaginary eigenvalues for ``h |omega| < 1``, and reversible: ``gradient: reversible`` keeps no
    activation.  ``gamma`` is 0, since the rule amplifies what decays.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.

    Source: Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks, (13).
    """

    name = "midpoint"
    defaults: ClassVar[dict[str, Choice]] = {"solver": "reversible_midpoint"}

    def __init__(self, width: int = 16, blocks: int = 6, stages: int | None = None, step: float = 0.25) -> None:
        super().__init__(width, blocks, stages, step, gamma=0.0)


class Hamiltonian(Staged):
    """``y_{k+1} = y_k + h K1^T act(K1 z_k + b1)``, ``z_{k+1} = z_k - h K2^T act(K2 y_{k+1} + b2)``: symplectic Euler.

    The paper's "Verlet" is this scheme, of order 1; ``solver: verlet`` is Stoermer's and Verlet's, of order 2.  Its
    flow preserves volume, so that nothing decays, and each step is undone exactly: ``gradient: reversible``.  With
    ``layers=1``, ``y' = act(K z + b1)``, ``z' = -act(K^T y + b2)``.  ``z`` is zero at the start.

    Args:
        width: even number of channels or features of the first stage, both halves.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.
        layers: 2 or 1; a word for the dynamics replaces it.

    Source: Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks, (10); one layer:
    Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 3.
    """

    name, normed, pool, parts = "hamiltonian", False, 2, 2
    defaults: ClassVar[dict[str, Choice]] = {"solver": "symplectic_euler"}

    def __init__(
        self, width: int = 32, blocks: int = 4, stages: int | None = None, step: float = 0.5, layers: int = 2
    ) -> None:
        super().__init__(width, blocks, stages, step)
        if layers not in (1, 2):
            raise InvalidOption(f"{self.named}: option layers: got {layers}, expected 1 or 2")
        self.layers = layers

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The block of as many layers."""
        if kind == "dynamics":
            return {"name": f"hamiltonian_{'conv' if stages.is_image(spec) else 'mlp'}", "layers": self.layers}
        return super().default(kind, spec)

    def stem(self, spec: NetworkSpec) -> nn.Module:
        """``(y, 0)``."""
        half = self.width // 2
        return nn.Sequential(stages.stem(spec, half), stages.Augment(half))


class Parabolic(Staged):
    """``x_{k+1} = x_k - h K_k^T act(K_k x_k + b_k)``: forward Euler for a heat-like equation, order 1.

    The Jacobian is symmetric negative semi-definite for a monotone ``act``, so that two states come closer,
    ``|x(T) - y(T)| <= |x(0) - y(0)|``; so do the steps while ``h <= 2 / (max act' |K|^2)``, which
    ``control: {name: spectral_norm, of: piecewise_constant}`` keeps by ``|K| <= 1``.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.

    Source: Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations, (9), theorem 2.
    """

    name, normed, pool = "parabolic", False, 2
    vector_block: ClassVar[Choice] = "symmetric_mlp"
    image_block: ClassVar[Choice] = "symmetric_conv"

    def __init__(self, width: int = 16, blocks: int = 4, stages: int | None = None, step: float = 0.5) -> None:
        super().__init__(width, blocks, stages, step)


class Hyperbolic(Parabolic):
    """``x_{k+1} = 2 x_k - x_{k-1} - h^2 K_k^T act(K_k x_k + b_k)`` from rest: leapfrog for a wave equation, order 2.

    Waves keep their energy: signals pass through many layers without decay.  Stable for ``h |K| < 2``; each step is
    undone exactly.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.

    Source: Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations, (11).
    """

    name = "hyperbolic"
    defaults: ClassVar[dict[str, Choice]] = {"solver": "leapfrog"}

    def __init__(self, width: int = 16, blocks: int = 4, stages: int | None = None, step: float = 1.0) -> None:
        super().__init__(width, blocks, stages, step)


class Leapfrog(Hyperbolic):
    """``x_{k+1} = 2 x_k - x_{k-1} - h^2 K_k^T tanh(K_k x_k + b_k)`` from rest: leapfrog, order 2, reversible.

    The scheme of ``hyperbolic`` with a smooth activation, on which the order is 2 in ``h``; the published first step
    ``x_{-1} = x_0`` has order 1, this one starts with ``x_1 = x_0 + h^2 F(x_0) / 2``.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.

    Source: Haber, Ruthotto 2017, section 3; Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual
    Neural Networks, (14).
    """

    name = "leapfrog"
    image_block: ClassVar[Choice] = {"name": "symmetric_conv", "activation": "tanh"}


class IMEXNet(Staged):
    """``x_{k+1} = (I + h L)^{-1} (x_k + h L x_k + h F(x_k, theta_k))``: semi-implicit Euler, order 1.

    ``L`` is a positive semi-definite circular convolution, inverted by the fast Fourier transform: every pixel sees
    every other after one layer.  On vectors ``L`` is a matrix.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step.

    Source: Haber, Lensink, Treister, Ruthotto 2019, IMEXnet: A Forward Stable Deep Neural Network, (8).
    """

    name = "imexnet"
    defaults: ClassVar[dict[str, Choice]] = {"solver": "imex_euler"}
    vector_block: ClassVar[Choice] = {"name": "imex_mlp", "compensate": True}
    image_block: ClassVar[Choice] = {"name": "imex_conv", "compensate": True}
