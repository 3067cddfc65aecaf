"""What every test needs before it starts."""

from __future__ import annotations

import os

# The matrices here are tiny: on a busy machine several BLAS threads are many times slower than one.
# Set before numpy is imported for the first time.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from hypothesis import settings  # noqa: E402

settings.register_profile("mcugen", deadline=None)  # no wall-time assertions
settings.load_profile("mcugen")
