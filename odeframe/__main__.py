"""``python -m odeframe`` is ``odeframe``."""

import sys

from odeframe.cli import main

if __name__ == "__main__":
    sys.exit(main())
