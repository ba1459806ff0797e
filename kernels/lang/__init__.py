"""The vector language that kernels are written in, lowered per processor. Compile-time only."""
