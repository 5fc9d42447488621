"""Benchmarks of fastlstm's public interface; one thread each unless a benchmark says otherwise."""

import os

# Before NumPy is imported: its BLAS reads these once.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTLSTM_NUM_THREADS"):
    os.environ.setdefault(name, "1")
