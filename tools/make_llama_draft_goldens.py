"""Remake tests/data/llama_draft_goldens.json: what llama.cpp's `draft-dspark` drafts for the demo model, by rounds.

    pip install xllamacpp==2026.10.11549 && python tools/make_llama_draft_goldens.py

llama.cpp's server as that package brings it (its release b11549), greedy, weights and caches of float32, eight drafts
a round. Its log tells the candidates of each slot. The drafter's GGUF file is what llama.cpp's converter writes, made
here from the published layout, beside the project's own reading of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edge_lfm.architectures import family_of
from edge_lfm.demo import demo_checkpoint, demo_drafter
from edge_lfm.export.gguf import add_keys, write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.gguf import gguf_package
from edge_lfm.formats.gguf_tokenizer import gguf_metadata
from edge_lfm.formats.open_checkpoint import open_checkpoint

DATA = Path(__file__).parent.parent / "tests" / "data"
TOKENS = 72
NAMES = {
    "fc.weight": "fc.weight", "hidden_norm.weight": "enc.output_norm.weight", "norm.weight": "output_norm.weight",
    "markov_head.markov_w1.weight": "markov_w1.weight", "markov_head.markov_w2.weight": "markov_w2.weight",
    "confidence_head.proj.weight": "conf_proj.weight", "confidence_head.proj.bias": "conf_proj.bias",
}  # fmt: skip
LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
TURNED = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
ROUND = re.compile(r"generate_draft: id=(\d+), #tokens=\d+, #draft=\d+, pos_next=(\d+)")
CANDIDATE = re.compile(r"draft candidate +0, pos +(\d+): +(\d+) ")


def write_drafter(path: Path) -> None:
    """The embedded drafter as llama.cpp's converter writes it."""
    config = json.loads((demo_drafter() / "config.json").read_text(encoding="utf-8"))
    writer = gguf_package().GGUFWriter(path, "dflash")
    section, width = config["dflash_config"], config["head_dim"]
    keys: dict[str, Any] = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"], "attention.key_length": width,
        "attention.head_count_kv": config["num_key_value_heads"], "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"], "rope.freq_base": config["rope_theta"],
        "block_size": config["block_size"], "target_layers": [n + 1 for n in section["target_layer_ids"]],
        "sample_from_anchor": True, "has_confidence_head": True,
    }  # fmt: skip
    add_keys(writer, {f"dflash.{key}": value for key, value in keys.items()})
    with open_source(demo_checkpoint()) as source:
        spelling = family_of(source.raw_config, "config.json").gguf
        add_keys(writer, gguf_metadata(source.text_files, source.shape.vocab, spelling, "demo", source.shape.eos))
    add_keys(writer, {"tokenizer.ggml.mask_token_id": section["mask_token_id"]})
    with open_checkpoint(demo_drafter()) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.names}
    for name, values in tensors.items():
        if name.endswith(TURNED):  # pairs (2i, 2i + 1) become (i, i + width / 2)
            values = values.reshape(-1, width // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        _, _, inner = name.partition("layers.")
        layer, _, part = inner.partition(".")
        new = NAMES.get(name) or f"blk.{layer}.{LAYER_NAMES[part.removesuffix('.weight')]}.weight"
        writer.add_tensor(new, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def answer(folder: Path, ids: list[int]) -> None:
    """In a process of its own: one answer, of which llama.cpp's log on standard error tells all."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.speculative.draft.mparams.path = str(folder / "target"), str(folder / "drafter")
    params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_DSPARK]
    params.speculative.draft.n_max, params.speculative.draft.backend_sampling = 8, False
    floats = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_k = params.cache_type_v = floats
    params.speculative.draft.cache_type_k = params.speculative.draft.cache_type_v = floats
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_ctx, params.n_parallel, params.no_extra_bufts, params.verbosity, params.warmup = 1024, 1, True, 5, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    server.handle_completions({"prompt": ids, "n_predict": TOKENS, "temperature": 0, "cache_prompt": False})


def rounds_of(log: str, prompt: list[int]) -> dict[str, Any]:
    """From the log: the tokens read, and of each round how many were read before the newest token, and the drafts."""
    ids, rounds, drafts = list(prompt), list[dict[str, Any]](), list[int]()
    for line in log.splitlines():
        if found := CANDIDATE.search(line):
            drafts.append(int(found[2]))
        elif found := ROUND.search(line):
            anchor, read = int(found[1]), int(found[2])
            if rounds:
                ids += rounds[-1]["drafts"][: read - len(ids)]  # those that were accepted
            assert len(ids) == read
            ids.append(anchor)
            rounds.append({"read": read, "drafts": drafts})
            drafts = []
    return {"ids": ids, "rounds": rounds}


def main() -> None:
    if len(sys.argv) > 1:
        answer(Path(sys.argv[1]), json.loads(sys.argv[2]))
        return
    prompts = json.loads((DATA / "demo_golden" / "golden.json").read_text(encoding="utf-8"))["prompts"]
    goldens = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_source(demo_checkpoint()) as source:
            write_gguf(source, folder / "target", "f32")
        write_drafter(folder / "drafter")
        for key, prompt in prompts.items():
            command = [sys.executable, __file__, name, json.dumps(prompt["prompt_ids"])]
            done = subprocess.run(command, capture_output=True, check=True)
            goldens[key] = rounds_of(done.stderr.decode(errors="replace"), prompt["prompt_ids"])
    text = json.dumps(goldens).replace("}, {", "},\n{")
    (DATA / "llama_draft_goldens.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
