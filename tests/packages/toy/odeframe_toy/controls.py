"""The control of the toy plugin."""


class Ramp:
    """Grows linearly with depth."""

    def __init__(self, slope: float = 1.0) -> None:
        self.slope = slope
