"""A noisy picture restored by the weights that come with odeframe, told nothing of the noise."""

import torch
from skimage import data

import odeframe
from odeframe.specification import NetworkSpec

clean = torch.tensor(data.camera()[100:292, 150:342] / 255.0, dtype=torch.float32)[None, None]
restorer = odeframe.build("architecture", "durr", pretrained=True)
network = restorer.build(NetworkSpec((1, 192, 192), (1, 192, 192))).eval()


def psnr(image):
    return float(-10 * torch.log10((image - clean).square().mean()))


torch.manual_seed(0)
for sigma in (15, 35, 55, 75):
    noisy = clean + sigma / 255 * torch.randn_like(clean)
    with torch.no_grad():
        loops = float(network.run(noisy).solutions[0].stop_times)
    print(f"sigma {sigma}: {psnr(noisy):.1f} dB, restored {psnr(restorer.restore(noisy)):.1f} dB in {loops:.0f} loops")
