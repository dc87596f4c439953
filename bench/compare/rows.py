# SPDX-License-Identifier: Apache-2.0
"""What compare.sh measures: one line a row, and the only place of its targets.

A kernel's row takes the benchmarks of a program whose names match a filter; a counter of theirs is the ratio, and the row is
the median over them. A step's row is a number that two programs print, each in a process of its own. A ratio is ours over
the peer's. Targets are those of docs/benchmarks.md: at least (">=") or at most ("<=") so much; None is measured, not judged."""
import dataclasses
import re


@dataclasses.dataclass
class Kernel:
    name: str
    program: str
    filter: str   # a regular expression of benchmark names
    counter: str  # the ratio
    target: str | None
    peer: str
    unit: str = "GFLOP/s"  # the counter that is the absolute number
    clang: bool = False    # measured once more with Clang, if asked
    everywhere: bool = True  # False: left out, with a word, where the processor has no such instruction


@dataclasses.dataclass
class Step:
    name: str
    ours: str | tuple[str, ...]  # program and arguments; .py runs in the Python environment of tests/reference. Of several the fastest counts
    peer: str | tuple[str, ...]
    number: str  # of those that both print
    target: str | None
    unit: str
    peer_name: str = ""  # where the peer is graft itself; others say theirs

    @property
    def everywhere(self):  # False: left out, with a word, where the processor has no products of bf16 pairs, which peers emulate, or ours are taken in float
        return isinstance(self.ours, tuple) or "--bf16" not in self.ours

    def commands(self):
        """Every command that may count: ours, and the peer's."""
        return tuple((side,) if isinstance(side, str) else side for side in (self.ours, self.peer))

    def turns(self):
        """(pair, command) for each of them. A row that compares graft with itself is a pair: its sides are measured one right after the other
        and for it alone, since its ratio is near a bound and another minute may be a tenth slower. Others share the runs of a command."""
        pair = self.commands() if self.peer_name else None
        return [[(pair, c) for c in side] for side in self.commands()]


CACHED = r"(384|1536|576|192|768|3072|2048)x\d+"  # weights out x in of bench/shapes.hpp that caches hold
MEMORY = r"(8192|32000|49152)x\d+"
MANY, FEW = "(128|256|512)$", "(8|16|32)$"
LONG, SHORT = "tokens:1024/.*size:", "tokens:256/.*size:"
STREAMS = "^(swiglu|rms_norm|rms_norm_backward|layer_norm)/rows:8192/"  # activations that no cache holds

GEMM, KERNEL, PEAK = "bench_gemm", "bench_kernel", "multiply-add peak"

SMOL = "--model smollm-135m --tokens 256"
STORIES = "--model stories-260k --batch 16 --tokens 256"
MINILM = "--model minilm --batch 32 --tokens 128"
OURS, ANY, TORCH, LIBTORCH = "bench_lora_step ", "bench_lora_step_any_processor ", "lora_step_torch.py ", "bench_lora_step_libtorch "
KEPT, BF16, PARTS, WITHIN = " --checkpointing", " --bf16", " --micro-batch 0", " --memory-budget 630"
ROUNDED, ROUNDED_WITHIN = " --int16-saved", " --int16-saved --memory-budget 620"
STORED = " --dtype bf16"  # the frozen weights
DECODE, LLAMA_CPP = "bench_decode --model smollm-135m --tokens 64", "decode_peer.py --engine llama.cpp --model smollm-135m --tokens 64"
SPEED, SAMPLES, RSS, CLOCK = "tokens_per_cpu_second", "samples_per_cpu_second", "peak_rss_mib", "tokens_per_second"


def best(shape, *more):
    """The commands of both sides at their best: products in float and in bf16; ours with bf16 weights or in micro-batches too."""
    ours = [OURS + shape] + [OURS + shape + m for m in more]
    return (*ours, *(c + BF16 for c in ours)), (TORCH + shape, TORCH + shape + BF16)


ROWS = [
    # name, program, filter, counter, target, peer
    Kernel("register tile, panels in cache", KERNEL, "^tile", "of_peak", ">= 0.97", PEAK, clang=True),
    Kernel("products, 128 tokens and more, weights in cache", GEMM, f"^gemm/(nt|nn)/{CACHED}/{MANY}", "of_peak", ">= 0.85", PEAK, clang=True),
    Kernel("products, 128 tokens and more, weights from memory", GEMM, f"^gemm/(nt|nn)/{MEMORY}/{MANY}", "of_peak", ">= 0.75", PEAK, clang=True),
    Kernel("products, 128 tokens and more", GEMM, f"^gemm/(nt|nn)/.*/{MANY}", "vs_oneDNN", ">= 0.95", "oneDNN", clang=True),
    Kernel("forward products, 8 to 32 tokens", GEMM, f"^gemm/nt/.*/{FEW}", "vs_oneDNN", ">= 1.1", "oneDNN", clang=True),
    Kernel("forward products, 1 token", GEMM, "^gemm/nt/.*/1$", "vs_oneDNN", ">= 1.0", "oneDNN", clang=True),
    Kernel("products, 256 tokens", GEMM, "^gemm/(nt|nn)/.*/256$", "vs_Eigen", ">= 1.4", "Eigen", clang=True),
    Kernel("products of a LoRA update, 256 tokens", GEMM, "^low_rank/", "of_peak", ">= 0.60", PEAK, clang=True),
    Kernel("1 token, float weights from memory", KERNEL, "^few_tokens_forward/tokens:1$", "of_read", ">= 0.9", "read bandwidth", "GB/s"),
    Kernel("1 token, bf16 weights from memory", KERNEL, "^stored/bf16/nt/tokens:1$", "of_read", ">= 0.9", "read bandwidth", "GB/s"),
    Kernel("1 token, q8_0 weights from memory", KERNEL, "^stored/q8_0/nt/tokens:1$", "of_read", ">= 0.9", "read bandwidth", "GB/s"),
    Kernel("1 token rounded to 16 bits, q8_0 weights from memory", KERNEL, "^stored/q8_0/nt/tokens:1/int16$", "of_read", ">= 0.9", "read bandwidth", "GB/s"),
    Kernel("bf16 weights, 256 tokens", KERNEL, "^stored/bf16/n[nt]/tokens:256$", "vs_floats", ">= 0.95", "float weights", clang=True),
    Kernel("q8_0, q4_0 and nf4 weights, 256 tokens", KERNEL, "^stored/(q8_0|q4_0|nf4)/n[nt]/tokens:256$", "vs_floats", ">= 0.95", "float weights", clang=True),
    Kernel("bf16 products, 256 tokens", KERNEL, "^bf16_products/", "vs_floats", ">= 1.8", "float products", everywhere=False),
    Kernel("bf16 products, 256 tokens, beside vectors", KERNEL, "^bf16_products/", "of_peak_by_vectors", ">= 0.75", "bf16 peak of vectors", everywhere=False),
    Kernel("bf16 products, 256 tokens, beside matrix registers", KERNEL, "^bf16_products/", "of_peak_by_matrices", None, "bf16 peak of matrix registers", everywhere=False),
    Kernel("layer with LoRA of rank 8, forward", "bench_peft", "^low_rank_forward/out:(576|1536)", "vs_layer_alone", ">= 0.94", "layer alone"),
    Kernel("layer 192 x 576 with LoRA of rank 8, forward", "bench_peft", "^low_rank_forward/out:192", "vs_layer_alone", ">= 0.91", "layer alone"),
    Kernel("layer with LoRA of rank 8, forward and backward", "bench_peft", "^low_rank_both/out:(576|1536)", "vs_layer_alone", ">= 0.92", "layer alone"),
    Kernel("attention, 1024 tokens, heads of 64", KERNEL, f"^attention/{LONG}64", "of_peak", ">= 0.70", PEAK, clang=True),
    Kernel("attention backward, 1024 tokens, heads of 64", KERNEL, f"^attention_backward/{LONG}64", "of_peak", ">= 0.80", PEAK, clang=True),
    Kernel("attention, 1024 tokens, heads of 64, against whole scores", KERNEL, f"^attention/{LONG}64", "vs_plain", ">= 1.9", "whole scores"),
    Kernel("attention backward, 1024 tokens, heads of 64, against whole scores", KERNEL, f"^attention_backward/{LONG}64", "vs_plain", ">= 1.8", "whole scores"),
    Kernel("attention, 256 tokens, heads of 64", KERNEL, f"^attention/{SHORT}64", "of_peak", ">= 0.55", PEAK, clang=True),
    Kernel("attention, 256 tokens, heads of 32", KERNEL, f"^attention/{SHORT}32", "of_peak", ">= 0.45", PEAK, clang=True),
    Kernel("attention backward, 256 tokens, heads of 64", KERNEL, f"^attention_backward/{SHORT}64", "of_peak", ">= 0.65", PEAK, clang=True),
    Kernel("attention backward, 256 tokens, heads of 32", KERNEL, f"^attention_backward/{SHORT}32", "of_peak", ">= 0.58", PEAK, clang=True),
    Kernel("attention in bf16, 1024 tokens, heads of 64", KERNEL, f"^bf16_attention/{LONG}64", "vs_floats", ">= 1.5", "float products", everywhere=False),
    Kernel("attention in bf16, backward, 1024 tokens, heads of 64", KERNEL, f"^bf16_attention_backward/{LONG}64", "vs_floats", ">= 1.5", "float products", everywhere=False),
    Kernel("output layer and loss", "bench_ops", "^linear_cross_entropy", "vs_whole", ">= 0.92", "whole logits"),
    Kernel("output layer and loss, against oneDNN", "bench_ops", "^linear_cross_entropy", "vs_oneDNN", ">= 0.97", "whole logits, oneDNN"),
    Kernel("element-wise and norms, from memory", KERNEL, STREAMS, "of_limit", ">= 0.85", "copy bandwidth", "GB/s"),
    Kernel("GELU by erf, from memory", KERNEL, "^gelu_erf/rows:8192/", "of_limit", ">= 0.75", "copy bandwidth", "GB/s"),
    Kernel("two threads, in cache", "bench_core", "^two_threads_(nt/in_cache|nn|attention)", "vs_one_thread", ">= 1.85", "one thread"),
    Kernel("two threads, weights from memory", "bench_core", "^two_threads_nt/from_memory", "vs_one_thread", ">= 1.3", "one thread"),
    # name, ours, peer, number, target, unit
    Step("LoRA step of SmolLM-135M", OURS + SMOL, TORCH + SMOL, SPEED, ">= 1.25", "tokens/s"),
    Step("LoRA step of SmolLM-135M, memory", OURS + SMOL, TORCH + SMOL, RSS, "<= 0.4", "MiB"),
    Step("LoRA step of SmolLM-135M, against libtorch", OURS + SMOL, LIBTORCH + SMOL, SPEED, ">= 2.2", "tokens/s"),
    Step("LoRA step of SmolLM-135M, against libtorch, memory", OURS + SMOL, LIBTORCH + SMOL, RSS, "<= 0.6", "MiB"),
    Step("LoRA step of SmolLM-135M, ours at its best, against libtorch", best(SMOL, STORED)[0], LIBTORCH + SMOL, SPEED, None, "tokens/s"),
    Step("LoRA step of SmolLM-135M, checkpointing", OURS + SMOL + KEPT, TORCH + SMOL + KEPT, SPEED, ">= 1.25", "tokens/s"),
    Step("LoRA step of SmolLM-135M, checkpointing, memory", OURS + SMOL + KEPT, TORCH + SMOL + KEPT, RSS, "<= 0.4", "MiB"),
    Step("LoRA step of SmolLM-135M, ours within 630 MiB", OURS + SMOL + WITHIN, TORCH + SMOL, SPEED, None, "tokens/s"),
    Step("LoRA step of SmolLM-135M, ours within 630 MiB, memory", OURS + SMOL + WITHIN, TORCH + SMOL, RSS, "<= 0.4", "MiB"),
    Step("LoRA step of SmolLM-135M, ours saving 16 bits", OURS + SMOL + ROUNDED, TORCH + SMOL, SPEED, ">= 1.25", "tokens/s"),
    Step("LoRA step of SmolLM-135M, ours saving 16 bits, memory", OURS + SMOL + ROUNDED, TORCH + SMOL, RSS, None, "MiB"),
    Step("LoRA step of SmolLM-135M, ours saving 16 bits within 620 MiB", OURS + SMOL + ROUNDED_WITHIN, TORCH + SMOL, SPEED, ">= 1.25", "tokens/s"),
    Step("LoRA step of SmolLM-135M, ours saving 16 bits within 620 MiB, memory", OURS + SMOL + ROUNDED_WITHIN, TORCH + SMOL, RSS, "<= 0.4", "MiB"),
    Step("LoRA step of SmolLM-135M, both in bf16", OURS + SMOL + BF16, TORCH + SMOL + BF16, SPEED, ">= 1.25", "tokens/s"),
    Step("LoRA step of SmolLM-135M, both in bf16, memory", OURS + SMOL + BF16, TORCH + SMOL + BF16, RSS, None, "MiB"),
    Step("LoRA step of SmolLM-135M, checkpointing, both in bf16", OURS + SMOL + KEPT + BF16, TORCH + SMOL + KEPT + BF16, SPEED, ">= 1.25", "tokens/s"),
    Step("LoRA step of SmolLM-135M, both at their best", *best(SMOL, STORED), SPEED, ">= 1.5", "tokens/s"),
    Step("LoRA step of SmolLM-135M, both at their best, memory", *best(SMOL, STORED), RSS, None, "MiB"),
    Step("LoRA step of SmolLM-135M, q8_0 base and checkpointing, memory", OURS + SMOL + KEPT + " --dtype q8_0", TORCH + SMOL, RSS, "<= 0.2", "MiB"),
    Step("LoRA step of SmolLM-135M, bf16 base", OURS + SMOL + STORED, OURS + SMOL, SPEED, None, "tokens/s", "float weights"),
    Step("LoRA step of SmolLM-135M, bf16 base, against PyTorch", OURS + SMOL + STORED, TORCH + SMOL, SPEED, None, "tokens/s"),
    Step("LoRA step of SmolLM-135M, bf16 base, against PyTorch, memory", OURS + SMOL + STORED, TORCH + SMOL, RSS, None, "MiB"),
    Step("LoRA on the last layer of SmolLM-135M alone", OURS + SMOL + " --last-only", OURS + SMOL, SPEED, ">= 1.54", "tokens/s", "on all layers"),
    Step("LoRA on the last layer of SmolLM-135M alone, saved for backward", OURS + SMOL + " --last-only", OURS + SMOL, "saved_mib", None, "MiB", "on all layers"),
    Step("LoRA on the last layer of SmolLM-135M alone, saved in layers", OURS + SMOL + " --last-only", OURS + SMOL, "saved_in_layers_mib", "<= 0.0334", "MiB", "on all layers"),
    Step("DoRA step of SmolLM-135M", OURS + SMOL + " --dora", OURS + SMOL, SPEED, ">= 0.87", "tokens/s", "LoRA"),
    Step("LoRA step of SmolLM-135M, two threads", OURS + SMOL + " --threads 2", OURS + SMOL, CLOCK, ">= 1.8", "tokens/s", "one thread"),
    Step("LoRA step of SmolLM-135M, built for any x86-64", ANY + SMOL, OURS + SMOL, SPEED, ">= 0.9", "tokens/s", "native build"),
    Step("LoRA step of stories-260K, built for any x86-64", ANY + STORIES, OURS + STORIES, SPEED, ">= 0.9", "tokens/s", "native build"),
    Step("LoRA step of MiniLM, classification", OURS + MINILM, TORCH + MINILM, SAMPLES, ">= 1.25", "samples/s"),
    Step("LoRA step of MiniLM, classification, memory", OURS + MINILM, TORCH + MINILM, RSS, None, "MiB"),
    Step("LoRA step of MiniLM, classification, ours in micro-batches", OURS + MINILM + PARTS, TORCH + MINILM, SAMPLES, ">= 1.25", "samples/s"),
    Step("LoRA step of MiniLM, classification, ours in micro-batches, memory", OURS + MINILM + PARTS, TORCH + MINILM, RSS, None, "MiB"),
    Step("LoRA step of MiniLM, classification, both in micro-batches", OURS + MINILM + PARTS, TORCH + MINILM + PARTS, SAMPLES, None, "samples/s"),
    Step("LoRA step of MiniLM, classification, both in bf16", OURS + MINILM + BF16, TORCH + MINILM + BF16, SAMPLES, ">= 1.25", "samples/s"),
    Step("LoRA step of MiniLM, classification, both at their best", *best(MINILM, PARTS), SAMPLES, ">= 1.5", "samples/s"),
    Step("LoRA step of stories-260K, 16 sequences", OURS + STORIES, TORCH + STORIES, SPEED, ">= 3", "tokens/s"),
    Step("LoRA step of stories-260K, 16 sequences, memory", OURS + STORIES, TORCH + STORIES, RSS, None, "MiB"),
    Step("LoRA step of stories-260K, 16 sequences, ours in micro-batches", OURS + STORIES + PARTS, TORCH + STORIES, SPEED, ">= 3", "tokens/s"),
    Step("LoRA step of stories-260K, 16 sequences, ours in micro-batches, memory", OURS + STORIES + PARTS, TORCH + STORIES, RSS, None, "MiB"),
    Step("LoRA step of stories-260K, 16 sequences, both in micro-batches", OURS + STORIES + PARTS, TORCH + STORIES + PARTS, SPEED, None, "tokens/s"),
    Step("LoRA step of stories-260K, 16 sequences, both in bf16", OURS + STORIES + BF16, TORCH + STORIES + BF16, SPEED, ">= 3", "tokens/s"),
    Step("LoRA step of stories-260K, 16 sequences, both at their best", *best(STORIES, PARTS), SPEED, ">= 3", "tokens/s"),
    Step("LoRA step of stories-260K, micro-batches on two threads", OURS + STORIES + PARTS + " --threads 2", OURS + STORIES, CLOCK, ">= 1.8", "tokens/s", "one thread"),
    Step("one token of SmolLM-135M with a LoRA adapter", DECODE + " --adapter", DECODE, SPEED, ">= 0.95", "tokens/s", "without"),
    Step("one token of SmolLM-135M, against PyTorch", DECODE, LLAMA_CPP.replace("llama.cpp", "torch"), SPEED, None, "tokens/s"),
    Step("one token of SmolLM-135M", DECODE, LLAMA_CPP, SPEED, None, "tokens/s"),
    Step("one token of SmolLM-135M, bf16", DECODE + " --dtype bf16", LLAMA_CPP + " --dtype bf16", SPEED, None, "tokens/s"),
    Step("one token of SmolLM-135M, q8_0", DECODE + " --dtype q8_0", LLAMA_CPP + " --dtype q8_0", SPEED, None, "tokens/s"),
    Step("one token of SmolLM-135M rounded to 16 bits, q8_0", DECODE + " --dtype q8_0 --int16", LLAMA_CPP + " --dtype q8_0", SPEED, None, "tokens/s"),
]


def selected(pattern):
    """The rows whose name the pattern finds, capitals or not."""
    return [row for row in ROWS if re.search(pattern, row.name, re.IGNORECASE)]


def programs(rows):
    """Names of all that the rows run, in order."""
    names = [name for row in rows for name in ([row.program] if isinstance(row, Kernel) else [c.split()[0] for side in row.commands() for c in side])]
    return list(dict.fromkeys(names))
