"""What the schemes' bytes mean, in plain NumPy: one file for each family of the table (`spec/schemes.py`).

A family's file has these functions; `stored` are its weights as it keeps them, with a method `values()`:

    pack(stored, scheme) -> uint8 [bytes]                              whole tiles, rows padded with zeros
    unpack(packed, scheme, rows, cols) -> stored                       the inverse
    round_weights(x, scheme, importance, plain) -> stored              what the encoder computes
    random_tiles(scheme, tiles, cols, spread, rng) -> uint8 [bytes]    random weights of that standard deviation
    from_ggml(blocks, kind, rows, cols) -> stored | None               the weights of ggml's blocks, if it can hold them
    to_ggml(stored, kind) -> uint8 [rows, bytes]                       and back

The last two only where the row names types of ggml. Nothing compiled depends on these files.
"""
