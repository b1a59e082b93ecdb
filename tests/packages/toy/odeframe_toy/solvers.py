"""The solver of the toy plugin."""


class Leap:
    """Crosses the interval in equal leaps."""

    def __init__(self, steps: int = 4, method: str = "long") -> None:
        if steps < 1:
            raise ValueError(f"got steps={steps}, expected at least 1")
        self.steps, self.method = steps, method
