# SPDX-License-Identifier: Apache-2.0
"""The tokens of decode.cpp by llama.cpp, through its Python package, or by PyTorch with transformers.

llama.cpp's weights are those of a folder that lora_step_torch.py --make wrote, as a GGUF file beside it; without --verify, of a
random model made for the occasion. --verify FOLDER prints the tokens that the model in that folder generates."""
import argparse
import os
import pathlib
import resource
import statistics
import tempfile
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import torch
import transformers

from lora_step_torch import CONFIGS, say

PROMPT, VERIFIED_TOKENS = 8, 12  # as in support/steps.hpp
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def model_of(o):
    if o.verify:
        return transformers.LlamaForCausalLM.from_pretrained(o.verify, dtype=torch.float32).eval()
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(CONFIGS[o.model]()).eval()


def prompt(o):
    return [(31 * n * n + 7919 * n + 13) % CONFIGS[o.model]().vocab_size for n in range(PROMPT)]


def interleaved(w, heads):
    """Rows of a rotated projection in llama.cpp's order: each head's pairs stand side by side, not half a head apart."""
    return w.reshape(heads, 2, -1, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def write_gguf(path, model, dtype):
    import gguf
    c, kind = model.config, gguf.GGMLQuantizationType[{"": "F32"}.get(dtype, dtype.upper())]
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_vocab_size(c.vocab_size)
    w.add_tokenizer_model("no_vocab")
    for name, value in model.model.state_dict().items():
        name = name.removesuffix(".weight")
        if name.startswith("layers."):
            _, layer, part = name.split(".", 2)
            heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(part)
            value, name = interleaved(value, heads) if heads else value, f"blk.{layer}.{NAMES[part]}"
        else:
            name = {"embed_tokens": "token_embd", "norm": "output_norm"}[name]
        data, stored = value.contiguous().numpy(), kind if value.dim() == 2 else gguf.GGMLQuantizationType.F32
        w.add_tensor(name + ".weight", gguf.quants.quantize(data, stored), raw_dtype=stored)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def by_llama_cpp(o, count, lap):
    import llama_cpp
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.gguf")
        write_gguf(path, model_of(o), o.dtype)
        llama = llama_cpp.Llama(path, n_ctx=PROMPT + count, n_threads=o.threads, n_threads_batch=o.threads, logits_all=False, verbose=False)
        name = f"llama.cpp_by_llama_cpp_{llama_cpp.__version__}"
        tokens, given = [], prompt(o)
        for _ in range(count):
            llama.eval(given)
            given = [llama.sample(temp=0.0)]
            tokens += given
            lap()
        return name, tokens


def by_torch(o, count, lap):
    torch.set_num_threads(o.threads)
    model, tokens, given, cache = model_of(o), [], prompt(o), None
    with torch.no_grad():
        for _ in range(count):
            out = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
            cache, given = out.past_key_values, [int(out.logits[0, -1].argmax())]
            tokens += given
            lap()
    return f"PyTorch_{torch.__version__.split('+')[0]}", tokens


def run(o):
    laps = []
    count = VERIFIED_TOKENS if o.verify else o.tokens + 1
    name, tokens = {"llama.cpp": by_llama_cpp, "torch": by_torch}[o.engine](o, count, lambda: laps.append((time.perf_counter(), time.process_time())))
    print(f"peer {name}")
    if o.verify:
        for n, token in enumerate(tokens):
            say(f"token_{n}", token)
        return
    wall, computed = (statistics.median(b - a for a, b in zip(t, t[1:])) for t in zip(*laps))
    say("tokens_per_second", 1 / wall)
    say("tokens_per_cpu_second", 1 / computed)
    say("peak_rss_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--engine", choices=["llama.cpp", "torch"], required=True)
parser.add_argument("--model", choices=CONFIGS, default="smollm-135m")
parser.add_argument("--dtype", default="", help="of the weights: bf16, f16, q8_0, q4_0; llama.cpp alone")
parser.add_argument("--verify")
for count, default in {"warm": 2, "steps": 10, "tokens": 64, "threads": 1}.items():
    parser.add_argument("--" + count, type=int, default=default)
run(parser.parse_args())
