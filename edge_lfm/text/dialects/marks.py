"""Control tokens that vocabularies share, whatever form a model writes its calls in. A model may lack them."""

TURN_STARTS = ("<|im_start|>", "<｜User｜>", "]~b]", "<|start|>")
"""Begins a turn of the chat template, or that of the user: DeepSeek's; then MiniMax's, and harmony's."""

GAP_MARKS = (
    ("<|fim_pre|>", "<|fim_suf|>", "<|fim_mid|>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
)
"""Of fill-in-the-middle: before the text that precedes the gap, before the text that follows it, before the answer; as
LFM2's vocabulary has them, and Qwen's."""
