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


def model_of(o):
    if o.verify:
        return transformers.LlamaForCausalLM.from_pretrained(o.verify, dtype=torch.float32).eval()
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(CONFIGS[o.model]()).eval()


def prompt(o):
    return [(31 * n * n + 7919 * n + 13) % CONFIGS[o.model]().vocab_size for n in range(PROMPT)]


def by_llama_cpp(o, count, lap):
    import llama_cpp
    from gguf_model import write_gguf
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
