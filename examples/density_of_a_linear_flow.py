"""The density of x where z = exp(A) x is standard normal, by the flow of A, against its closed form."""

import math

import torch
from torch import nn

import odeframe

torch.manual_seed(0)
A = torch.tensor([[0.3, -0.8], [0.5, -0.1]])
field = nn.Linear(2, 2, bias=False)
field.weight.data = A
model = odeframe.compose("cnf", {"name": "eight_gaussians", "n": 100}, dynamics=field).module

x = torch.randn(5, 2)
z = x @ torch.linalg.matrix_exp(A).t()
exact = -0.5 * z.square().sum(1) - math.log(2 * math.pi) + torch.trace(A)
with torch.no_grad():
    print(f"largest error of log p: {(model.log_prob(x) - exact).abs().max():.1e}")
    print(f"samples: {tuple(model.sample(1000).shape)}, covariance {model.sample(20000).T.cov().tolist()}")
