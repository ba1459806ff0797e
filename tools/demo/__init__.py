"""How the embedded demo model is made: samples, training, evaluation, export. Needs torch; not installed."""
