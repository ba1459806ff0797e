"""From kernels to object files. Compile-time only."""
