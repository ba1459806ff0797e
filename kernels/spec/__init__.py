"""What both sides agree on, NumPy only: layouts, weight schemes, tiers, entry points, and the definitions that tests
compare with."""
