"""Two sets with curved borders, for stable networks: how well a net parts them, and how far neighbours come apart."""

import tempfile

import torch

import odeframe

NETWORKS = {
    "resnet": {"name": "resnet", "blocks": 8},
    "antisymmetric": {"name": "antisymmetric", "blocks": 8},
}


def rows(loader):
    """All samples of a loader."""
    x, y = zip(*loader, strict=True)
    return torch.cat(x), torch.cat(y)


for data in ("swiss_roll", "peaks"):
    for title, architecture in NETWORKS.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            run = odeframe.compose({**architecture, "step": 0.5}, {"name": data, "n": 1000}, output=folder)
        run.data.setup("fit")
        run.data.setup("test")
        batch, network = rows(run.data.train_dataloader()), run.module.network
        optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
        for _ in range(120):
            optimizer.zero_grad()
            run.module.objective(batch).loss.backward()
            optimizer.step()
        x, y = rows(run.data.test_dataloader())
        network.double().eval()
        with torch.no_grad():
            accuracy = float((network(x.double()).argmax(1) == y).double().mean())
            start = network.stages["stem"](x.double())
            apart = 1e-6 * torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
            moved = network.flows[0](start + apart) - network.flows[0](start)
        grown = float((moved.norm(dim=1) / apart.norm(dim=1)).max())
        print(f"{data:10} {title:13} test accuracy {accuracy:.3f}, neighbours come apart {grown:.1f} times at most")
