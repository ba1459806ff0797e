"""The kernels. Compile-time only."""
