"""Every trainer on several ranks takes the steps that it takes on one: all trainers, all numbers of ranks."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset, Subset

from odeframe import DataSpec, FlowModule, InvalidOption, OdeframeError, available
from odeframe.compatibility import traits_of
from odeframe.component import resolve
from odeframe.data import DataModule, specification
from odeframe.matrix import ORDER, Matrix
from odeframe.options import options_of
from odeframe.registry import word
from odeframe.sampler import ShuffledShare, WholeShare, batch_size_of_shares
from ranks import on_ranks, quiet_trainer

BATCH, ROWS, VALIDATED = 8, 20, 7
"""Over all ranks: two batches of 8 and one of 4; seven rows to validate, which no number of ranks divides."""

TRAINERS = [name for name in available("trainer") if "ddp" in traits_of("trainer", name)]
RANKS = (2, 4)
TOLERANCE = 1e-6

SMALL = {
    "architecture": {"width": 4, "blocks": 2, "hidden": 8},
    "trainer": {"iterations": 2, "m": 2, "n": 1, "steps": 2},
    "data": {"n": 60, "limit": 40, "size": 16},
}
"""Options that make a part small, where it takes them."""

PROBLEMS: tuple[dict[str, Any], ...] = (
    {"data": "two_moons", "architecture": "resnet"},
    {"data": "eight_gaussians", "architecture": "cnf", "task": "density", "solver": {"name": "rk4", "steps": 4}},
    {"data": "linear_quadratic", "architecture": "controlled_system", "task": "control"},
)
"""What a trainer is tried on, the first that fits; the legal matrix has the others."""

WORDS = {"msa": {"inner": "adam"}}
"""Options of a trainer here: where the maximum lies on the box's corners, the line search of L-BFGS hangs on round-off.

On one process, too: with the rows of a batch in another order it ends elsewhere.
"""


class Few(DataModule):
    """The first rows of other data."""

    def __init__(self, whole: pl.LightningDataModule, ranks: int, rows: int = ROWS) -> None:
        super().__init__(BATCH // ranks)
        self.whole, self.rows = whole, rows

    def specify(self) -> DataSpec:
        return specification(self.whole)

    def load(self) -> dict[str, Dataset]:
        self.whole.prepare_data()
        self.whole.setup("fit")
        sets = {split: self.whole.dataset(split) for split in ("train", "val", "test")}
        return {
            "train": Subset(sets["train"], range(self.rows)),
            "val": Subset(sets["train"], range(VALIDATED)),
            "test": Subset(sets["train"], range(VALIDATED)),
        }


def small(kind: str, choice: Any) -> dict[str, Any]:
    """The word with the options that make it small, under its own."""
    made = {"name": choice} if isinstance(choice, str) else dict(choice)
    component = resolve(kind, made["name"])
    known = {option.name for option in options_of(component.load())[0]}
    taken = {name: value for name, value in SMALL.get(kind, {}).items() if name in known}
    return {**dict(component.part.example), **taken, **made}


def problems(trainer: str) -> Any:
    """Words that may go with a trainer: the given ones, then a combination of the legal matrix."""
    yield from PROBLEMS
    matrix = Matrix()
    chosen = {"trainer": next(i for i, each in enumerate(matrix.parts["trainer"]) if each.name == trainer)}
    sets = matrix.chosen(chosen)
    for kind in ORDER:
        for index in range(len(matrix.parts[kind])):
            left = matrix.narrow(sets, kind, index)
            if (
                kind not in chosen
                and not matrix.parts[kind][index].word.component.part.example
                and matrix.feasible(left)
            ):
                sets, chosen[kind] = left, index
    words = matrix.words(chosen)
    yield {kind: words[kind] for kind in ("data", "architecture", "task")}


def composed(trainer: str, given: Mapping[str, Any] | None = None) -> tuple[FlowModule, pl.LightningDataModule]:
    """A small model that the trainer takes, with its data."""
    refused = []
    for words in problems(trainer) if given is None else [given]:
        data = word("data", small("data", words["data"])).build()
        parts = {kind: small(kind, choice) for kind, choice in words.items() if kind not in ("data", "task")}
        torch.manual_seed(0)
        try:
            module = FlowModule(
                specification(data).to_dict(),
                task=words.get("task"),
                trainer=small("trainer", {"name": trainer, **WORDS.get(trainer, {})}),
                **parts,
            )
        except OdeframeError as error:
            refused.append(str(error))
            continue
        return module, data
    raise AssertionError(f"no problem for trainer {trainer!r}: " + "; ".join(refused))


class Weights(pl.Callback):
    """The parameters after each batch."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module):
        self.after = [self.flat(pl_module)]

    def on_train_batch_end(self, trainer, pl_module, *rest):
        self.after.append(self.flat(pl_module))

    @staticmethod
    def flat(module: FlowModule) -> torch.Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def row(
    trainer: str, ranks: int, folder: Any, rows: int = ROWS, words: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What one epoch of a trainer comes to."""
    module, whole = composed(trainer, words)
    watch = Weights()
    os.environ.pop("PL_GLOBAL_SEED", None)  # of a command line before: ranks would be seeded anew, one process not
    torch.manual_seed(1)
    engine = quiet_trainer(ranks, folder, precision="64-true", callbacks=[watch])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.fit(module, datamodule=Few(whole, ranks, rows))
    metrics = {name: float(value) for name, value in engine.callback_metrics.items() if name.startswith("val_")}
    return {"weights": watch.after, "metrics": metrics, "loss": float(engine.callback_metrics["train_loss_epoch"])}


def adaptive(**options: Any) -> dict[str, Any]:
    """Words of a model with an adaptive solver."""
    solver = {"name": "dopri5", "rtol": 1e-3, **options}
    return {"data": "two_moons", "architecture": {"name": "neural_ode", "horizon": 20.0}, "solver": solver}


OTHERS: dict[str, dict[str, Any]] = {
    "padded": {"rows": 18},
    "one step for all": {"words": adaptive()},
    "a step a sample": {"words": adaptive(per_sample=True)},
}
"""What is not in the table of trainers."""


def rows(ranks: int, folder: Any) -> dict[str, Any]:
    """The rows of all trainers, or what was raised."""
    found: dict[str, Any] = {}
    for name in TRAINERS:
        try:
            found[name] = row(name, ranks, folder)
        except Exception:
            found[name] = traceback.format_exc()
    return found | {name: row("gradient", ranks, folder, **options) for name, options in OTHERS.items()}


def written(ranks: int, folder: Any) -> None:
    """On each rank: all rows, kept by each."""
    torch.save(rows(ranks, folder), folder / f"{ranks}-{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Number of ranks to the rows of each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    found = {1: [rows(1, folder)]}
    for ranks in RANKS:
        statuses = on_ranks(ranks, written, ranks, folder)
        assert statuses == [0] * ranks, f"{ranks} ranks ended with {statuses}"
        found[ranks] = [torch.load(folder / f"{ranks}-{rank}.pt") for rank in range(ranks)]
    return found


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_ranks_take_the_steps_of_one_process_and_see_its_metrics(table, trainer, ranks):
    one, several = table[1][0][trainer], [each[trainer] for each in table[ranks]]
    for found in (one, *several):
        assert isinstance(found, Mapping), found
    start, *after = one["weights"]
    assert len(after) == 3 and all(float((a - start).abs().max()) > TOLERANCE for a in after), "nothing was trained"
    for found in several:
        for batch, (a, b) in enumerate(zip(found["weights"], one["weights"], strict=True)):
            assert float((a - b).abs().max()) < TOLERANCE, f"{ranks} ranks differ from one after batch {batch}"
        assert found["loss"] == pytest.approx(one["loss"], abs=TOLERANCE)
        assert found["metrics"] == pytest.approx(one["metrics"], abs=TOLERANCE) and found["metrics"]


def distances(table: Any, ranks: int, name: str) -> list[float]:
    """The largest difference to one process after each batch."""
    pairs = zip(table[ranks][0][name]["weights"], table[1][0][name]["weights"], strict=True)
    return [float((a - b).abs().max()) for a, b in pairs]


@pytest.mark.timeout(200)
def test_a_last_batch_that_ranks_cannot_share_evenly_has_samples_twice(table):
    """18 samples on 4 ranks: the last batch has 4 in place of 2, and no mean over ranks would make them count once."""
    *before, last = distances(table, 4, "padded")
    assert max(before) < TOLERANCE < last < 1e-2
    assert max(distances(table, 2, "padded")) < TOLERANCE


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ranks", RANKS)
def test_steps_of_a_batch_depend_on_its_size_and_steps_of_a_sample_do_not(table, ranks):
    """One error norm a batch: the difference is of the order of the tolerance, 1e-3, not of round-off."""
    assert max(distances(table, ranks, "a step a sample")) < 1e-12
    assert 1e-8 < max(distances(table, ranks, "one step for all")) < 1e-2


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_shares_of_an_epoch_are_those_of_one_process(size, ranks):
    def shares(ranks, **options):
        return [list(ShuffledShare(size, 7, ranks, rank, **options)) for rank in range(ranks)]

    (whole,) = shares(1)
    assert sorted(whole) == list(range(size))
    found = shares(ranks)
    order = [found[place % ranks][place // ranks] for place in range(len(found[0]) * ranks)]
    assert order == (whole * ranks)[: len(order)] and 0 <= len(order) - size < ranks
    assert [each[1:] for each in found] == shares(ranks, skip=1)


def test_each_epoch_has_its_order_whether_or_not_it_is_told():
    share, other = ShuffledShare(50, 3), ShuffledShare(50, 3)
    epochs = [list(share) for _ in range(3)]
    assert len({tuple(each) for each in epochs}) == 3
    other.set_epoch(2)
    assert list(other) == epochs[2]
    assert list(ShuffledShare(50, 4)) != epochs[0] and list(ShuffledShare(50, 3)) == epochs[0]


@pytest.mark.parametrize(("size", "ranks"), [(7, 2), (7, 4), (9, 4), (64, 3), (5, 5), (65, 4)])
def test_shares_to_be_measured_are_whole_and_of_as_many_batches(size, ranks):
    shares = [list(WholeShare(size, ranks, rank)) for rank in range(ranks)]
    assert sorted(row for share in shares for row in share) == list(range(size))
    for batch_size in (1, 2, 3, 8):
        wide = batch_size_of_shares(size, batch_size, ranks)
        assert batch_size <= wide and len({-(-len(share) // wide) for share in shares}) == 1
        assert wide == batch_size or len({-(-len(share) // batch_size) for share in shares}) > 1


def test_fewer_samples_than_ranks_are_refused():
    with pytest.raises(InvalidOption, match="4 ranks for a set of 3"):
        batch_size_of_shares(3, 8, 4)
