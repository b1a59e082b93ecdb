"""Restoration against other tools, on pictures not trained on: tables and a figure of docs/parts/restoration.md.

    python -m benchmarks.restoration [--train] [--write docs/parts/restoration.md]

Measures the shipped weights, and trains the one-shot network beside them; with ``--train`` trains the weights anew
first (about seventeen minutes of one processor) and replaces the shipped file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odeframe
from benchmarks.page import put
from odeframe.registry import word
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.durr import DURR, WEIGHTS
from odeframe_plugins.data.pictures import PICTURES, picture
from odeframe_plugins.tasks.restoration import Restoration

SIGMAS, SIDE = (15, 25, 35, 45, 55, 65, 75), 256
SEED, BATCH, CROP, RATE, LOOPS = 0, 6, 48, 1.5e-3, (6, 10)
FIXED, POLICY, ALTERNATING, LAST = 8000, 150, 80, 2500
"""Batches: of the weights with given loops; of the policy alone; of both in turn; of the policy alone again."""
LARGER: dict[str, Any] = {"batch_size": 4, "crop": 96, "levels": (10.0, 80.0)}
"""What the policy sees at the end: the worth of a loop for a picture is not that for a small piece of it."""

NLM, NLM_OPTIONS = 0.8, {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
"""Non-local means as in scikit-image's own example: ``h = 0.8 sigma``."""
MARKS = ("<!-- table: python -m benchmarks.restoration --write docs/parts/restoration.md -->", "<!-- end of table -->")


def pictures(batches: int, seed: int, **options: Any) -> dict[str, Any]:
    """So many batches of crops, each crop a new one."""
    words = {"name": "pictures", "batch_size": BATCH, "crop": CROP, "seed": seed, **options}
    return {**words, "n": batches * words["batch_size"]}


def fitted(words: dict[str, Any], data: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """The network after one epoch, from the weights that are given; computed in bfloat16, kept in float32."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="trainer 'moving_endpoint'")  # the policy comes in a later fit
        torch.manual_seed(SEED)
        run = odeframe.compose(data=data, output=folder, **words)
        run.module.network.load_state_dict(state or run.module.network.state_dict())
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            run.fit(max_epochs=1, enable_checkpointing=False, limit_val_batches=0)
    return run.module.network


def unit() -> dict[str, Tensor]:
    """The weights, with given loops: no further ones are walked."""
    words = {
        "architecture": {"name": "durr", "loops": LOOPS[1]},
        "trainer": {"name": "moving_endpoint", "fixed": FIXED + 1, "loops": LOOPS},
        "learning_rate": RATE,
    }
    return fitted(words, pictures(FIXED, SEED), {}).state_dict()


def stopping(state: dict[str, Tensor]) -> nn.Module:
    """The policy, then both in turn, then the policy alone on larger crops of more levels, one loop ahead."""
    both = {"name": "moving_endpoint", "fixed": 0, "policy": POLICY}
    words = {"architecture": "durr", "trainer": both, "learning_rate": RATE / 4}
    state = fitted(words, pictures(POLICY + ALTERNATING, SEED + 1), state).state_dict()
    words = {**words, "trainer": {**both, "policy": LAST, "discount": 0.0}, "learning_rate": RATE}
    return fitted(words, pictures(LAST, SEED + 2, **LARGER), state)


def train() -> None:
    """Trains the weights by the project's own words in three fits, and writes them beside the architecture."""
    save(stopping(unit()), DURR())


def save(network: nn.Module, architecture: DURR) -> None:
    """Weights and the options of their network, as plain data."""
    options = {name: getattr(architecture, name) for name in ("width", "hidden", "loops", "substeps", "fold")}
    aside = WEIGHTS.with_suffix(".part")
    torch.save({"options": options, "state_dict": network.state_dict()}, aside)
    aside.replace(WEIGHTS)


class OneShot(nn.Module):
    """``x + g(x)`` with a chain of convolutions ``g`` on the same folded image: a residual denoiser without loops."""

    def __init__(self, width: int = 58, depth: int = 5, fold: int = 2) -> None:
        super().__init__()
        sizes = [fold**2, *[width] * (depth - 1), fold**2]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.layers, self.fold = nn.Sequential(*layers[:-1]), fold

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 1, height, width)``, to the same."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.fold, 0, -height % self.fold), mode="replicate")
        folded = F.pixel_unshuffle(x, self.fold)
        return F.pixel_shuffle(folded + self.layers(folded), self.fold)[..., :height, :width]


def one_shot() -> OneShot:
    """Trained on the same crops, batches, loss, optimiser and schedule."""
    from odeframe.schedule import warm_cosine

    torch.manual_seed(SEED)
    network, task = OneShot(), Restoration()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    data: Any = word("data", pictures(FIXED + POLICY + ALTERNATING, SEED)).build()
    data.setup("fit")
    torch.manual_seed(SEED)
    for number, (x, y, _) in enumerate(data.train_dataloader()):
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm_cosine(number, FIXED + POLICY + ALTERNATING)
        optimizer.zero_grad()
        task.cost(network(x), y).mean().backward()
        optimizer.step()
    return network.eval()


def noisy(name: str, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a held-out picture, and with noise of a seed of its own."""
    whole = picture(name).astype(np.float64)
    top, left = ((length - SIDE) // 2 for length in whole.shape)
    clean = whole[top : top + SIDE, left : left + SIDE]
    draw = np.random.default_rng((1, PICTURES["test"].index(name), int(sigma)))
    return clean, clean + sigma / 255 * draw.standard_normal(clean.shape)


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """In decibels, of an image cut to [0, 1]."""
    return float(-10 * np.log10(((np.clip(image, 0, 1) - clean) ** 2).mean()))


def tensor(image: np.ndarray) -> Tensor:
    """As a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]


def loops_of(network: Any, image: np.ndarray, clean: np.ndarray) -> tuple[list[float], int]:
    """PSNR after each loop from 1 on, and the loop after which the policy stops."""
    height, width = image.shape
    x = F.pad(tensor(image), (0, width % 2, 0, height % 2), mode="replicate")
    with torch.no_grad():
        states = network.trajectory(x).states
        stop = int(network.stops(states))
        images = [network.leave(state)[0, 0, :height, :width].numpy() for state in states[1:]]
    return [psnr(each, clean) for each in images], stop


def other_tools() -> dict[str, Callable[[np.ndarray, np.ndarray, float], float]]:
    """PSNR by scikit-image's denoisers, each told more than ours: sigma, or the clean picture to choose a weight."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    def means(image: np.ndarray, clean: np.ndarray, sigma: float) -> float:
        return psnr(denoise_nl_means(image, h=NLM * sigma / 255, sigma=sigma / 255, **NLM_OPTIONS), clean)

    def variation(image: np.ndarray, clean: np.ndarray, sigma: float) -> float:
        weights = [share * sigma / 255 for share in (0.5, 0.7, 0.9, 1.1, 1.3)]
        return max(psnr(denoise_tv_chambolle(image, weight=weight), clean) for weight in weights)

    def wavelet(image: np.ndarray, clean: np.ndarray, sigma: float) -> float:
        methods = ("BayesShrink", "VisuShrink")
        return max(psnr(denoise_wavelet(image, sigma=sigma / 255, method=each), clean) for each in methods)

    return {"non-local means": means, "total variation": variation, "wavelets": wavelet}


def over(by: Callable[[np.ndarray, np.ndarray, float], Any]) -> np.ndarray:
    """What a method has for every level of noise and held-out picture, ``(sigmas, pictures, ...)``."""
    found = []
    for sigma in SIGMAS:
        pairs = [noisy(name, sigma) for name in PICTURES["test"]]
        found.append([by(image, clean, sigma) for clean, image in pairs])
    return np.array(found)


def ours(network: Any) -> dict[str, np.ndarray]:
    """PSNR after each loop (``loops``), where the policy stops (``learned``) and at the best (``oracle``); ``stop``."""
    found = over(lambda image, clean, sigma: [*(values := loops_of(network, image, clean))[0], values[1]])
    loops, stop = found[..., :-1], found[..., -1].astype(int)
    learned = np.take_along_axis(loops, stop[..., None] - 1, axis=-1)[..., 0]
    return {"loops": loops, "stop": stop, "learned": learned, "oracle": loops.max(-1)}


def theirs() -> dict[str, np.ndarray]:
    """PSNR of the other tools, and of the one-shot network."""
    plain = one_shot()

    def shot(image: np.ndarray, clean: np.ndarray, sigma: float) -> float:
        with torch.no_grad():
            return psnr(plain(tensor(image))[0, 0].numpy(), clean)

    tools = {"one convolutional network without loops": shot, **other_tools()}
    return {name: over(by) for name, by in tools.items()}


def table(found: dict[str, np.ndarray]) -> str:
    """As Markdown: rows are methods, columns the levels of noise; means over pictures."""
    fixed = found["loops"].mean((0, 1))
    best = int(fixed.argmax())
    rows = {
        "stop, in loops": found["stop"].mean(1),
        "learned stop": found["learned"].mean(1),
        "oracle stop": found["oracle"].mean(1),
        f"best fixed number of loops ({best + 1})": found["loops"][..., best].mean(1),
    }
    rows |= {key: found[key].mean(1) for key in found if key not in ("loops", "stop", "learned", "oracle")}
    lines = ["| | " + " | ".join(f"σ = {sigma}" for sigma in SIGMAS) + " | mean |", "|---" * (len(SIGMAS) + 2) + "|"]
    for key, values in rows.items():
        lines.append(f"| {key} | " + " | ".join(f"{value:.2f}" for value in [*values, values.mean()]) + " |")
    return "\n".join(lines)


def figure(network: Any, folder: Path) -> None:
    """``restoration.png``: crops of held-out pictures, noisy, by non-local means, by ours, and clean."""
    from matplotlib.figure import Figure
    from skimage.restoration import denoise_nl_means

    shown = (("camera.png", 25, 0, 40), ("chelsea.png", 45, 30, 40), ("coins.png", 75, 60, 60))
    titles = ("noisy", "non-local means", "DURR", "clean")
    canvas = Figure(figsize=(10, 7.9), layout="constrained")
    axes = canvas.subplots(len(shown), 4)
    for row, (name, sigma, top, left) in zip(axes, shown, strict=True):
        clean, image = noisy(name, sigma)
        means = denoise_nl_means(image, h=NLM * sigma / 255, sigma=sigma / 255, **NLM_OPTIONS)
        with torch.no_grad():
            outcome = network.run(tensor(image))
        ours = outcome.output[0, 0].numpy()
        labels = [f"σ = {sigma}", *(f"{psnr(each, clean):.1f} dB" for each in (means, ours)), name.partition(".")[0]]
        labels[2] += f", {float(outcome.solutions[0].stop_times):.0f} loops"
        for panel, each, label, title in zip(row, (image, means, ours, clean), labels, titles, strict=True):
            panel.imshow(each[top : top + 160, left : left + 160], cmap="gray", vmin=0, vmax=1)
            panel.set_title(f"{title}\n{label}", fontsize=9)
            panel.set_axis_off()
    canvas.savefig(folder / "restoration.png", dpi=64)


def main() -> None:
    """Trains where asked to, measures, prints, and writes where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="train the shipped weights anew")
    parser.add_argument("--alone", action="store_true", help="our own rows alone")
    parser.add_argument("--write", type=Path, help="the page that has the table; the figure goes to figures/ beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    if given.train:
        train()
        print(f"trained in {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    network = DURR(pretrained=True).build(NetworkSpec((1, 64, 64), (1, 64, 64))).eval()
    text = table({**ours(network), **({} if given.alone else theirs())})
    print(text)
    if given.write:
        put(given.write, MARKS, text)
        figure(network, given.write.parent / "figures")


if __name__ == "__main__":
    main()
