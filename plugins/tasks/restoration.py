"""A clean image from a degraded one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio

from odeframe import DataError, Incompatible
from odeframe.network import Network, Outcome
from odeframe.specification import DataSpec
from odeframe.task import Task

__all__ = ["MeanStop", "Restoration"]

FLOOR = 1e-8
"""Added to a mean squared error, so that a perfect image costs -80 dB rather than nothing finite."""
SHOWN = 4
"""Images of a batch in a picture."""
MEAN, FAR = 1.5, 10.0
"""An image in [0, 1] with noise has its mean within MEAN, and its numbers within FAR, of 0."""


class Restoration(Task):
    """``Phi(x, y) = 10 log10 mean (x - y)^2``: the loss in decibels, minus the peak signal-to-noise ratio.

    Images are in [0, 1].  In decibels a mildly and a strongly degraded image count alike, for the weights and for a
    policy that stops.

    ``module.restore(images)`` gives restored images, cut to [0, 1].

    Metrics: ``psnr``, the mean over images in decibels, of outputs cut to [0, 1]; ``stop``, the mean number of loops
    (time) after which images were stopped.

    Raises:
        DataError: targets of another shape than the outputs (``cost``).
    """

    monitor = "psnr"
    monitor_mode = "max"
    offers: ClassVar[tuple[str, ...]] = ("restore",)

    def __init__(self) -> None:
        self._channels = 1

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """That of an image."""
        if spec.target != "value" or spec.target_shape != spec.input_shape or len(spec.input_shape) != 3:
            raise Incompatible(
                f"task 'restoration' has clean images as targets of degraded ones: data {spec.name!r} has inputs "
                f"{spec.input_shape} and targets {spec.target!r} {spec.target_shape}; write data.name: pictures"
            )
        self._channels = spec.input_shape[0]
        return tuple(spec.input_shape)

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """``Phi`` in decibels, ``(batch,)``."""
        if not isinstance(target, Tensor) or target.shape != output.shape:
            got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
            raise DataError(f"restoration: got targets {got}, expected clean images {tuple(output.shape)}")
        return 10 * torch.log10((output - target).square().flatten(1).mean(1) + FLOOR)

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """``psnr`` and ``stop``."""
        ratio = PeakSignalNoiseRatio(data_range=(0.0, 1.0), reduction="elementwise_mean", dim=(1, 2, 3))
        return MetricCollection({"psnr": ratio, "stop": MeanStop()}, compute_groups=False)

    def score(self, metrics: MetricCollection, outcome: Outcome, target: Any) -> None:
        """Outputs, targets and stop times of a batch."""
        solution = outcome.solutions[0]
        stop = torch.full((len(outcome.output),), float(solution.times[-1]))
        if solution.stop_times is not None:
            stop = solution.stop_times.detach().float()
        metrics.update(outcome.output.detach(), target, stop=stop.to(outcome.output.device) - float(solution.times[0]))

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """``image``, 8 bits a number."""
        return {"image": (output.clamp(0, 1) * 255).round().to(torch.uint8)}

    def restore(self, network: Network, images: Any) -> Tensor:
        """Restored images, in [0, 1].

        Args:
            network: the network (given by the module).
            images: ``(batch, channels, height, width)``, about [0, 1] (noise may reach beyond), of any size.

        Returns:
            the same shape, dtype and device, without a gradient.

        Raises:
            DataError: the images have another shape, are no floating-point numbers, or are not finite.
        """
        _check(images, self._channels)
        like, training = next(network.parameters()), network.training
        try:
            with torch.no_grad():
                restored = network.eval()(images.to(like))
        finally:
            network.train(training)
        return restored.clamp(0, 1).to(images)

    def write(self, predictions: Sequence[Mapping[str, Tensor]], folder: Path, names: Sequence[str]) -> Path:
        """One PNG an image in ``restored/``, or ``restored-2/`` where that is taken: all of them, or none.

        An image keeps the name of its file, with ``.png`` behind it where it was none.
        """
        from PIL import Image

        images = [image for batch in predictions for image in batch["image"]]
        names = names or [f"{index:05d}.png" for index in range(len(images))]
        files = [name if name.lower().endswith(".png") else f"{name}.png" for name in names]
        for file, count in Counter(files).items():
            if count > 1:
                raise DataError(f"restoration: {count} images would be written to {file}; rename one of them")
        aside, target, count = folder / "restored.part", folder / "restored", 1
        while target.exists():
            count += 1
            target = folder / f"restored-{count}"
        shutil.rmtree(aside, ignore_errors=True)  # of a command that was interrupted
        aside.mkdir(parents=True)
        for image, file in zip(images, files, strict=True):
            pixels = image.permute(1, 2, 0).cpu().numpy()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(aside / file, "PNG")
        aside.rename(target)
        return target

    def draw(self, network: Network, batch: Any, folder: Path) -> list[Path]:
        """``restoration.png``: degraded, restored and clean images of a batch."""
        from odeframe import plots

        x, target = self.split(batch)
        shown = [each[:SHOWN].detach().cpu().clamp(0, 1) for each in (x, self.restore(network, x[:SHOWN]), target)]
        figure, panels = plots.panel_grid(3, 3.2, rows=len(shown[0]))
        for row, images in enumerate(zip(*shown, strict=True)):
            for panel, image, title in zip(panels[3 * row :], images, ("degraded", "restored", "clean"), strict=False):
                panel.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
                panel.set_axis_off()
                if not row:
                    panel.set_title(title)
        return [plots.save(figure, folder / "restoration.png")]


class MeanStop(Metric):
    """The mean of stop times ``(batch,)``; 0 where none has been seen."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Any, stop: Tensor | None = None) -> None:
        """Takes stop times."""
        if stop is not None:
            self.total += stop.sum()
            self.count += len(stop)

    def compute(self) -> Tensor:
        """0-d."""
        return self.total / self.count.clamp(min=1)


def _check(images: Any, channels: int) -> None:
    """Refuses what are no images of a number of channels."""
    if not isinstance(images, Tensor):
        raise DataError(f"restore: got {type(images).__name__}, expected a tensor; write torch.from_numpy(...)")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise DataError(
            f"restore: got images of shape {tuple(images.shape)}, expected (batch, {channels}, height, width)"
        )
    if images.shape[1] != channels:
        raise DataError(
            f"restore: got images of {images.shape[1]} channels, and the model is for {channels}; restore the channels "
            "of a colour image one by one, as gray images: images.flatten(0, 1)[:, None]"
        )
    if not images.is_floating_point():
        raise DataError(f"restore: got numbers of {images.dtype}, expected floating-point ones in [0, 1]")
    flat = images.detach().flatten(1)
    for said, bad in (
        ("numbers that are not finite", ~torch.isfinite(flat).all(1)),
        (
            "numbers far outside [0, 1]; images of 8 bits are divided by 255",
            (flat.mean(1).abs() > MEAN) | (flat.abs() > FAR).any(1),
        ),
    ):
        if bool(bad.any()):
            raise DataError(f"restore: image {int(bad.nonzero()[0])} has {said}")
