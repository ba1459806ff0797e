"""Finding compiled kernels and running them, without Numba."""
