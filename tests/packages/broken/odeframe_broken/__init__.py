"""An entry module that does not import."""

raise RuntimeError("the toy is broken on purpose")
