"""What the schemes' bytes mean, in plain NumPy: one file for each family of the table (`spec/schemes.py`).

A family's file has these functions; `stored` are its weights as it keeps them, with a method `values()`:

    pack(stored, scheme) -> uint8 [bytes]                              whole tiles, rows padded with zeros
    unpack(packed, scheme, rows, cols) -> stored                       the inverse
    round_weights(x, scheme, importance, plain) -> stored              what the encoder computes
    random_tiles(scheme, tiles, cols, spread, rng) -> uint8 [bytes]    random weights of that standard deviation
    from_ggml(blocks, kind, rows, cols) -> stored | None               the weights of ggml's blocks, if it can hold them
    to_ggml(stored, kind) -> uint8 [rows, bytes]                       and back
    lattice(stored, scheme) -> Lattice                                 the values that the stored scales allow
    with_levels(stored, index, scheme) -> stored                       other levels, uint8 [N, K], on the same scales
    with_scales(stored, scale, scheme) -> stored                       the scales nearest to float32 [N, K / block]

`from_ggml` and `to_ggml` only where the row names types of ggml; the last three only where error feedback
(`quantize/feedback.py`) can round anew. Nothing compiled depends on these files.
"""
