"""Benchmarks of cmf: run one with ``python -m benchmarks.bench_epoch``; README.md says more.

Importing the package, which ``python -m`` does before anything else, keeps the linear algebra of
NumPy to one thread, so that one thread is compared with one thread.
"""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
