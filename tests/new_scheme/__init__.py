"""A weight scheme of its own: its two files as the documentation says, for `test_new_scheme.py`."""
