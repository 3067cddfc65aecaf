"""Entry point of the command `mcugen` and of `python -m mcugen`."""

from __future__ import annotations

import os


def main() -> None:
    # Matrices here are small: on a busy machine BLAS threads mostly wait for one another. Read once, by numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from mcugen.cli import main as run

    run()


if __name__ == "__main__":
    main()
