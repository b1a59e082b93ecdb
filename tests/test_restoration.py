"""Restoration by moving endpoint control: the stop and its learning, data, files, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import odeframe
from odeframe import Architecture, DataError, Flow, Incompatible, InvalidOption, build
from odeframe.cli import main
from odeframe.errors import CheckpointError
from odeframe.module import FlowModule
from odeframe.registry import word
from odeframe.specification import DataSpec, NetworkSpec
from odeframe.stopping import StoppingNetwork
from odeframe.testing import ArchitectureConformance, TrainerConformance
from odeframe.testing.data import DataConformance
from odeframe.testing.dynamics import DynamicsConformance
from odeframe.testing.tasks import TaskConformance
from odeframe_plugins import data as data_parts
from odeframe_plugins.data.degradation import Degradation
from odeframe_plugins.data.image_files import read_image
from odeframe_plugins.data.pictures import PICTURES, picture

DURR = {"name": "durr", "width": 6, "hidden": 6, "loops": 3, "substeps": 1}
EXAMPLES = str(Path(data_parts.__file__).with_name("example_pictures"))
CROPS = {"name": "picture_folder", "path": EXAMPLES, "n": 16, "crop": 16, "batch_size": 8}
IMAGE = NetworkSpec((1, 8, 8), (1, 8, 8))


class TestConvStack(DynamicsConformance):
    dynamics = {"name": "conv_stack", "depth": 3}


class TestDURR(ArchitectureConformance):
    architecture = DURR
    input_shapes = ((1, 8, 8),)
    output_shape = (1, 8, 8)
    solvers = ({"name": "rk4", "steps": 4},)


class TestRestoration(TaskConformance):
    task = "restoration"
    data = CROPS
    architecture = DURR


class TestPictures(DataConformance):
    data = {"name": "pictures", "n": 16, "crop": 16, "batch_size": 8}
    architecture = DURR


class TestPictureFolder(DataConformance):
    data = CROPS
    architecture = DURR


class Stopped(Architecture):
    """Vectors through five loops, with a policy."""

    traits = ("stopped",)
    defaults = {"control": "constant", "trainer": "moving_endpoint"}

    def assemble(self, spec, parts):
        flow = parts.flow((0.0, 5.0), steps=5, width=4)
        head = nn.Linear(4, spec.output_shape[0])
        return StoppingNetwork({"stem": nn.Linear(spec.input_shape[0], 4), "flow": flow, "head": head}, Ahead(4), 5)


class Ahead(nn.Module):
    """A linear policy."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, z):
        return self.layer(z).squeeze(1)


class TestMovingEndpoint(TrainerConformance):
    trainer = {"name": "moving_endpoint", "fixed": 2, "policy": 1, "period": 2, "loops": (2, 4)}
    architecture = Stopped()
    options = {"optimizer": "Adam", "learning_rate": 0.03}
    epochs = 20


# -- the network and its stop


def network(decides=True, **words):
    torch.manual_seed(0)
    made = word("architecture", DURR).build().build(IMAGE, **words).double().eval()
    made.decides.fill_(decides)
    return made


def images(*shape, seed=1):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_loops_are_eulers_steps_of_one_shared_unit():
    made, x = network(decides=False), images(2, 1, 8, 8)
    z = made.stages["stem"](x)
    for _ in range(3):
        z = z + made.flow.dynamics(torch.tensor(0.0), z)
    torch.testing.assert_close(made(x), made.stages["head"](z), rtol=0, atol=1e-12)
    assert len(list(made.flow.parameters())) == 4  # two convolutions, whatever the number of loops
    halves = word("architecture", {**DURR, "substeps": 2}).build().build(IMAGE).double()
    halves.load_state_dict(made.state_dict())
    z = made.stages["stem"](x)
    for _ in range(2):
        z = z + 0.5 * made.flow.dynamics(torch.tensor(0.0), z)
    torch.testing.assert_close(halves.trajectory(x).states[1], z, rtol=0, atol=1e-12)


def shifted(made, x, loop):
    """A policy by which sample 0 stops after the first loop, sample 1 after the second, the last never."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.states = made.trajectory(x).states.detach()

        def forward(self, z):
            distance = (self.states[:, None] - z[None, :, None]).flatten(3).abs().amax(3)  # (loop, new, sample)
            found = distance.flatten(1).new_tensor(
                [[int(distance[:, i, j].argmin()) for j in range(distance.shape[2])] for i in range(z.shape[0])]
            )
            sample = distance.amin(0).argmin(1)
            at = found[torch.arange(len(sample)), sample]
            return (loop.to(at)[sample] - at).to(z)

    made.policy = Listed()
    return made


def test_each_sample_keeps_the_state_where_its_policy_stops_it():
    x, loop = images(3, 1, 8, 8), torch.tensor([1, 2, 9])
    made = shifted(network(), x, loop)
    states = made.trajectory(x).states
    expected = torch.stack([states[1, 0], states[2, 1], states[3, 2]])
    assert made.stops(states).tolist() == [1, 2, 3]
    afterwards = made.run(x, (0.0, 1 / 3, 1.0)).solutions[0]
    with torch.no_grad():
        early = made.run(x, (0.0, 1 / 3, 1.0)).solutions[0]
        assert made.run(x).solutions[0].stats.nfe == 3
        made.run(x[:1])
        assert made.flow.stats.nfe == 1  # nothing is computed behind the last stop
    for solution in (early, afterwards):
        torch.testing.assert_close(solution.final, expected, rtol=0, atol=1e-12)
        assert solution.stop_times.tolist() == [1.0, 2.0, 3.0] and solution.stopped.tolist() == [True, True, False]
        torch.testing.assert_close(solution.states[1], states[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(early.states, afterwards.states, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 6}, "ab2", {"name": "euler", "steps": 3}])
def test_stopping_early_and_choosing_afterwards_agree_for_schemes(solver):
    made, x = network(solver=solver), images(4, 1, 8, 8)
    with torch.no_grad():
        made.policy.value[-1].bias.fill_(-float(made.policy(made.trajectory(x).states[2]).median()))
        early = made(x)
    torch.testing.assert_close(early, made(x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_running_costs_and_gradients_by_word(gradient):
    words = {"solver": "rk4"} if gradient == "adjoint" else {}
    model = odeframe.compose(DURR, CROPS, gradient=gradient, costs={"kinetic_energy": 0.1}, **words).module
    model.network.decides.fill_(True)
    batch = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), torch.zeros(2)
    model.objective(batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    outcome = model.objective(batch).outcome
    assert bool((outcome.cost > 0).all()) and outcome.solutions[0].stop_times.shape == (2,)


def test_a_stopped_network_has_no_fixed_chain_of_step_maps():
    with pytest.raises(Incompatible, match="no fixed chain"):
        network().steps()
    with pytest.raises(InvalidOption, match="one flow"):
        StoppingNetwork({"head": nn.Identity()}, Ahead(2), 3)


# -- the rule


def module(**rule):
    torch.manual_seed(0)
    spec = DataSpec("small", (3,), "value", None, (2,), "regression")
    words = {"trainer": {"name": "moving_endpoint", **rule}, "schedule": "constant", "learning_rate": 0.02}
    return FlowModule(spec.to_dict(), Stopped(), **words).double()


def fit(model, batches, **options):
    x = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    TestMovingEndpoint().fit(model, batches // 2, **options)
    return x


def test_parts_of_the_training_leave_the_other_unit_frozen():
    model = module(fixed=4, policy=4, period=2)
    weights = lambda part: torch.cat([p.detach().reshape(-1).clone() for p in part.parameters()])  # noqa: E731
    stages, policy = weights(model.network.stages), weights(model.network.policy)
    fit(model, 4)
    assert torch.equal(weights(model.network.policy), policy) and not model.network.decides
    assert not torch.equal(weights(model.network.stages), stages)
    model.rule.fixed = 0
    stages = weights(model.network.stages)
    fit(model, 4)
    assert torch.equal(weights(model.network.stages), stages) and bool(model.network.decides)
    assert not torch.equal(weights(model.network.policy), policy)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("discount", "worth", "stop"), [(1.0, (2.5, 0.5, 1.5, -3.5), 4), (0.5, (2.0, -0.25, 1.5, -3.5), 2)]
)
def test_q_learning_finds_where_the_loss_is_least(discount, worth, stop):
    """Costs 3, 1, 2, 0.5, 4 after loops 1 to 5: going on is worth 2.5, 0.5, 1.5 and -3.5, so that all stop after 4."""

    class Known(nn.Module):
        def forward(self, z):
            return z[:, :1]

    class Counter(odeframe.Dynamics):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, t, x, u=None):
            return torch.ones_like(x) * self.weight

    class Bumps(nn.Module):
        def __init__(self):
            super().__init__()
            self.worth = nn.Parameter(torch.zeros(6))

        def forward(self, z):
            return self.worth[z[:, 0].round().long()]

    class Table:
        def cost(self, output, target):
            return torch.tensor([9.0, 3, 1, 2, 0.5, 4], dtype=output.dtype)[output[:, 0].round().long()]

    flow = Flow(Counter(), solver={"name": "euler", "steps": 5}, horizon=(0.0, 5.0))
    made = StoppingNetwork({"flow": flow, "head": Known()}, Bumps(), 5).double()
    rule = build("trainer", "moving_endpoint", discount=discount)
    path = made.trajectory(torch.zeros(3, 2, dtype=torch.float64))

    class Model:
        task = Table()

    optimizer = torch.optim.Adam(made.policy.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        rule._policy_loss(Model(), made, path, None).backward()
        optimizer.step()
    expected = torch.tensor(worth, dtype=torch.float64)
    torch.testing.assert_close(made.policy.worth.detach()[1:5], expected, rtol=0, atol=0.05)
    assert made.stops(path.states).tolist() == 3 * [stop]


def test_given_loops_follow_the_level():
    made, rule = network(), build("trainer", "moving_endpoint", loops=(1, 3))
    x = torch.zeros(3, 1, 8, 8)
    assert rule._given(made, (x, x, torch.tensor([0.0, 0.5, 1.0])), x).tolist() == [1, 2, 3]
    assert rule._given(made, (x, x), x).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fixed": -1}, "fixed: got -1"),
        ({"period": 0}, "period: got 0"),
        ({"loops": (5, 4)}, r"loops: got \[5, 4\]"),
        ({"loops": (0, 4)}, "at least 1"),
        ({"price": float("nan")}, "price"),
        ({"discount": 1.5}, "discount: got 1.5"),
    ],
)
def test_options_of_the_rule_are_checked(options, said):
    with pytest.raises(InvalidOption, match=said):
        build("trainer", "moving_endpoint", **options)


def test_what_does_not_go_together_is_named():
    with pytest.raises(Incompatible, match="moving_endpoint"):
        odeframe.compose("resnet", "digits", trainer="moving_endpoint")
    with pytest.raises(Incompatible, match="durr"):
        odeframe.compose("durr", "digits")
    with pytest.raises(Incompatible, match="resnet"):
        odeframe.compose("resnet", CROPS)
    with pytest.raises(Incompatible, match="the trait 'step'"):
        odeframe.compose("durr", CROPS, solver="dopri5")
    spec = DataSpec("small", (3,), "value", None, (2,), "regression")
    model = FlowModule(spec.to_dict(), "resnet", trainer="gradient")
    with pytest.raises(Incompatible, match="policy"):
        build("trainer", "moving_endpoint").setup(model)
    with pytest.warns(UserWarning, match="all loops will be walked"):
        rule, stopped = build("trainer", "moving_endpoint", fixed=7), module()
        stopped.trainer = type("Short", (), {"estimated_stepping_batches": 3})()
        rule.setup(stopped)


# -- data


def test_pictures_are_kept_apart_and_samples_keyed():
    names = [name for split in PICTURES.values() for name in split]
    assert len(names) == len(set(names))
    data = word("data", CROPS).build()
    x, y, level = data.dataset("train")[3]
    again = word("data", {**CROPS, "n": 400}).build().dataset("train")[3]
    assert all(torch.equal(a, b) for a, b in zip((x, y, level), again, strict=True))
    other = word("data", {**CROPS, "seed": 1}).build().dataset("train")[3]
    assert not torch.equal(x, other[0])
    assert not torch.equal(x - y, data.dataset("train")[4][0] - data.dataset("train")[4][1])


def test_noise_has_the_level_that_is_told():
    rows = build("data", "pictures", n=8, crop=96).dataset("train")
    for index in range(8):
        x, y, level = rows[index]
        assert float((x - y).std()) * 255 == pytest.approx(25 + 30 * float(level), rel=0.03)


def test_jpeg_is_worst_at_the_lowest_quality():
    clean = picture("camera.png")[:200, :200]
    low, high = (Degradation("jpeg", (quality, quality), "pictures") for quality in (10, 40))
    draw = np.random.default_rng(0)
    errors = [float(((by(clean, draw)[0] - clean) ** 2).mean()) for by in (low, high)]
    assert errors[0] > 2 * errors[1] > 0
    found = [Degradation("jpeg", (10, 40), "pictures")(clean, np.random.default_rng(seed)) for seed in range(9)]
    worst, best = max(found, key=lambda each: each[1]), min(found, key=lambda each: each[1])
    assert 1 >= worst[1] > best[1] >= 0
    assert ((worst[0] - clean) ** 2).mean() > ((best[0] - clean) ** 2).mean()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"degradation": "blur"}, "degradation"),
        ({"levels": (55, 25)}, "second not below"),
        ({"levels": (0, 300)}, "sigmas from 0 to 255"),
        ({"levels": (0, 0)}, "second sigma above 0"),
        ({"levels": (0, 50), "degradation": "jpeg"}, "qualities from 1 to 95"),
        ({"crop": 4}, "crop: got 4"),
        ({"n": 0}, "n: got 0"),
    ],
)
def test_options_of_the_data_are_checked(options, said):
    with pytest.raises(InvalidOption, match=said):
        build("data", "pictures", **options)


def test_a_crop_larger_than_a_picture_is_refused_by_name():
    with pytest.raises(DataError, match=r"picture .* is .* pixels, smaller than a crop of 400"):
        build("data", "pictures", crop=400).dataset("train")


# -- files


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "photos"
    made.mkdir()
    draw = np.random.default_rng(0)
    for name, shape in (("a.png", (21, 34)), ("b.jpg", (16, 16)), ("c.tif", (33, 20))):
        Image.fromarray(draw.integers(0, 255, shape, dtype=np.uint8)).save(made / name)
    (made / "notes.txt").write_text("not an image")
    return made


def gray():
    return Image.new("L", (20, 20))


def test_files_are_turned_as_they_say_and_gray_in_colours_is_gray(tmp_path):
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    image, colours = Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")
    turned = image.getexif()
    turned[274] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", False, "mine") * 255, np.rot90(pixels, -1))
    for name, saved in (("rgb.png", colours.convert("RGB")), ("opaque.png", colours), ("p.gif", image.convert("P"))):
        saved.save(tmp_path / name)
        np.testing.assert_allclose(read_image(tmp_path / name, False, "mine") * 255, pixels, atol=1e-4)


def predict(folder, *arguments):
    words = ["--model.architecture.name=durr", "--model.architecture.pretrained=true", "--data.name=picture_folder"]
    return main(["predict", *words, f"--data.path={folder}", f"--output={folder.parent / 'out'}", *arguments])


@pytest.mark.filterwarnings("ignore")
def test_predict_restores_a_folder(folder, capsys):
    assert predict(folder) == 0
    out = folder.parent / "out"
    assert str(out / "restored") in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["restored"]
    found = {path.name: Image.open(path) for path in (out / "restored").iterdir()}
    assert {name: image.size for name, image in found.items()} == {
        "a.png": (34, 21),
        "b.jpg.png": (16, 16),
        "c.tif.png": (20, 33),
    }
    pixels = np.asarray(Image.open(folder / "a.png"), dtype=np.float32)[None, None] / 255
    expected = build("architecture", "durr", pretrained=True).restore(torch.from_numpy(pixels))
    assert np.abs(np.asarray(found["a.png"]) / 255 - expected[0, 0].numpy()).max() < 0.51 / 255
    image = {"image": torch.zeros(1, 1, 2, 2, dtype=torch.uint8)}
    assert build("task", "restoration").write([image], out, ["a.png"]) == out / "restored-2"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "z.png").write_text("words"), "z.png is no image"),
        (lambda f: (f / "z.png").write_bytes((f / "a.png").read_bytes()[:120]), "z.png cannot be read"),
        (lambda f: Image.new("RGB", (20, 20), (9, 0, 0)).save(f / "z.png"), "z.png has colours"),
        (
            lambda f: Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)).save(f / "z.tif"),
            "81 numbers that are not finite",
        ),
        (lambda f: Image.fromarray(np.full((9, 9), 7.0, dtype=np.float32)).save(f / "z.tif"), "from 7 to 7"),
        (
            lambda f: [path.unlink() for path in f.iterdir() if path.suffix != ".txt"],
            r"no image in it \(1 other files, and 0 folders",
        ),
        (lambda f: shutil.rmtree(f), "no folder"),
        (lambda f: (f / "z.png").symlink_to(f / "nowhere.png"), "z.png cannot be read"),
        (lambda f: gray().save(f / "z.tif", save_all=True, append_images=[gray()]), "z.tif has 2 frames"),
        (lambda f: gray().save(f / "z.png", transparency=0), "z.png is transparent"),
    ],
)
def test_bad_files_are_named_before_one_is_restored(folder, spoil, said):
    spoil(folder)
    with pytest.raises(DataError, match=said):
        build("data", "picture_folder", path=str(folder)).setup("predict")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("z.png", b"words", "z.png is no image"), ("b.jpg.png", None, "2 images would be written to b.jpg.png")],
)
def test_where_a_file_is_refused_nothing_is_written(folder, name, content, said, capsys):
    (folder / name).write_bytes(content or (folder / "a.png").read_bytes())
    assert predict(folder) == 2
    assert said in capsys.readouterr().err
    assert not list((folder.parent / "out").glob("restored*"))


def test_colours_are_turned_into_gray_where_asked_to(folder):
    Image.new("RGB", (20, 20), (200, 100, 0)).save(folder / "z.png")
    Image.fromarray(np.full((9, 9), 65535, dtype=np.uint16)).save(folder / "deep.png")
    data = build("data", "picture_folder", path=str(folder), gray=True)
    data.setup("predict")
    images = dict(zip(data.predict_names, (x for (x,) in data.predict_dataloader()), strict=True))
    assert images["z.png"].shape == (1, 1, 20, 20) and 0.4 < float(images["z.png"].mean()) < 0.6
    assert images["deep.png"].shape == (1, 1, 9, 9) and float(images["deep.png"].min()) == 1


def test_training_on_a_folder_needs_three_images(folder):
    options = {"path": str(folder), "crop": 12, "n": 8}
    sets = build("data", "picture_folder", **options)
    assert all(sets.dataset(split)[0][0].shape == (1, 12, 12) for split in ("train", "val", "test"))
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match="has 2 image"):
        build("data", "picture_folder", **options).setup("fit")


# -- what ships


def degraded(sigma, size=128, name="camera.png"):
    clean = torch.from_numpy(picture(name)[100 : 100 + size, 150 : 150 + size].copy())[None, None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(sigma)))
    return clean, clean + sigma / 255 * noise


def test_shipped_weights_restore_and_go_on_longer_for_more_noise():
    architecture = build("architecture", "durr", pretrained=True)
    made, stops = architecture.build(NetworkSpec((1, 64, 64), (1, 64, 64))).eval(), []
    for sigma in (25, 55):
        clean, x = degraded(sigma)
        restored = architecture.restore(x)
        assert restored.shape == x.shape and 0 <= float(restored.min()) <= float(restored.max()) <= 1
        gain = 10 * torch.log10((x - clean).square().mean() / (restored - clean).square().mean())
        assert float(gain) > 6
        with torch.no_grad():
            stops.append(float(made.run(x).solutions[0].stop_times))
    assert stops[0] < stops[1]


def test_restore_takes_any_size_dtype_and_batch():
    architecture = build("architecture", "durr", pretrained=True)
    assert architecture.restore(torch.rand(0, 1, 9, 9)).shape == (0, 1, 9, 9)
    _, x = degraded(40, 33)
    single = architecture.restore(x[..., :31])
    assert single.shape == (1, 1, 33, 31)
    double = architecture.restore(x[..., :31].double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)
    assert architecture.restore(torch.rand(1, 1, 1, 1)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((1, 1, 8, 8)), "torch.from_numpy"),
        (torch.rand(8, 8), r"\(8, 8\), expected \(batch, 1, height, width\)"),
        (torch.rand(1, 3, 8, 8), "one by one"),
        (torch.rand(1, 1, 0, 8), r"\(1, 1, 0, 8\)"),
        (torch.full((1, 1, 8, 8), 200.0), "divided by 255"),
        (torch.cat([torch.zeros(20, 1, 8, 8), torch.full((1, 1, 8, 8), 5.0)]), "image 20 has numbers far outside"),
        (torch.full((1, 1, 8, 8), -3.0), "image 0 has numbers far outside"),
        (torch.tensor([0.0, 255.0] + 398 * [0.0]).reshape(1, 1, 20, 20), "image 0 has numbers far outside"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), "torch.complex64, expected floating-point"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (torch.full((2, 1, 8, 8), float("nan")), "image 0 has numbers that are not finite"),
    ],
)
def test_restore_refuses_what_are_no_images(x, said):
    with pytest.raises(DataError, match=said):
        build("architecture", "durr", pretrained=True).restore(x)


def test_pretrained_weights_are_held_against_what_is_asked_for():
    with pytest.raises(InvalidOption, match="pretrained=True"):
        build("architecture", "durr").restore(torch.rand(1, 1, 8, 8))
    sizes = "pretrained weights have width=48, hidden=96, loops=14, .*got loops=5; leave loops out"
    with pytest.raises(CheckpointError, match=sizes):
        build("architecture", "durr", pretrained=True, loops=5)
    with pytest.raises(CheckpointError, match="gray images"):
        build("architecture", "durr", pretrained=True).build(IMAGE, dynamics="conv")
    for options in ({"width": 3}, {"fold": 0}, {"loops": 0}):
        with pytest.raises(InvalidOption, match=next(iter(options))):
            build("architecture", "durr", **options)
    with pytest.raises(InvalidOption, match="maps images"):
        build("architecture", "durr").build(NetworkSpec((1, 8, 8), (3,)))


def test_module_restores_and_draws(tmp_path):
    run = odeframe.compose({**DURR, "pretrained": False}, CROPS, output=tmp_path)
    assert run.module.restore(torch.rand(2, 1, 9, 11)).shape == (2, 1, 9, 11)
    (path,) = run.draw()
    assert path.name == "restoration.png" and path.stat().st_size > 1000
    found = run.test(enable_progress_bar=False)
    assert found["test_stop"] == 3 and 0 < found["test_psnr"] < 60


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_fit_learns_to_restore_and_to_stop(tmp_path):
    """160 batches: better than the degraded images by 4 dB on pictures not trained on, and the policy decides."""
    torch.manual_seed(0)
    rule = {"name": "moving_endpoint", "fixed": 110, "policy": 50, "loops": (2, 4)}
    data = {"name": "pictures", "n": 160 * 8, "batch_size": 8}
    run = odeframe.compose({"name": "durr", "hidden": 32, "loops": 6}, data, trainer=rule, output=tmp_path)
    run.fit(max_epochs=1, enable_progress_bar=False)
    found = run.test(enable_progress_bar=False)
    assert found["test_psnr"] > 20.5, found  # the degraded crops have about 16.5
    assert 1 <= found["test_stop"] < 6
