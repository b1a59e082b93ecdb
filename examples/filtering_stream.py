"""One learned operator, applied to a stream of ten observations, beside the exact posterior of each sequence."""

import torch

import odeframe
from odeframe.particle_filters import moments

torch.manual_seed(0)
run = odeframe.compose(
    {"name": "particle_flow", "hidden": 16},
    {"name": "gaussian_stream", "n": 1600},
    dynamics={"name": "affine_particle_field", "hidden": 32},
    learning_rate=0.01,
)
run.fit(max_epochs=10, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
flow = run.module.eval()

sequences = run.data.sequences(50, seed=1000)  # none of them trained on
particles = torch.randn(50, 256, 2)  # from the prior N(0, I)
for m, observation in enumerate(sequences.observations.float().unbind(1)[:10]):
    particles = flow.assimilate(particles, observation)
    if m in (0, 4, 9):
        mean, covariance = moments(particles.double())
        error = (mean - sequences.mean[:, m]).square().mean().sqrt()
        spread = (covariance - sequences.covariance[:, m]).square().mean().sqrt()
        print(f"after {m + 1:2d} observations: error of the mean {error:.3f}, of the covariance {spread:.3f}")
