# SPDX-License-Identifier: Apache-2.0
"""Every kind of adapter on MiniLM and sst2: trains each with several seeds by examples/apps/classify and prints one table of what
is trained, stored, reached and spent. Gates are also pruned, and the smaller encoder timed beside the whole one."""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

LAYERS = "query,value"
GATES = ["--targets", "all-linear", "--gate-rate", "10"]
# Kind, learning rate, further options. Vectors and rotations take larger steps than matrices, whole models smaller ones.
RUNS = {
    "lora": ("lora", 1e-3, ["--targets", LAYERS]),
    "dora": ("dora", 1e-3, ["--targets", LAYERS]),
    "oft": ("oft", 1e-3, ["--targets", LAYERS]),
    "hamming": ("hamming", 5e-3, ["--targets", LAYERS]),
    "ia3": ("ia3", 5e-3, ["--targets", "key,value,intermediate.dense"]),
    "vera": ("vera", 5e-3, ["--targets", LAYERS]),
    "full": ("full", 1e-4, []),
    "gates kept open": ("gates", 1e-3, [*GATES, "--sparsity", "0"]),
    "gates to 20 %": ("gates", 1e-3, [*GATES, "--sparsity", "0.2"]),
    "gates to 40 %": ("gates", 1e-3, [*GATES, "--sparsity", "0.4"]),
    "gates and rank 8 to 40 %": ("gates", 1e-3, [*GATES, "--sparsity", "0.4", "--gate-rank", "8"]),
}


def train(o, label, seed):
    kind, lr, more = RUNS[label]
    out = pathlib.Path(o.work) / f"{label.replace(' ', '_').replace('%', '')}-{seed}"
    result = out.with_suffix(".json")
    if not (o.resume and result.exists()):
        command = [o.program, o.model, "--train", f"{o.data}/train.tsv", "--test", f"{o.data}/test.tsv", "--out", str(out), "--kind", kind, "--lr", str(lr),
                   "--epochs", str(o.epochs), "--seed", str(seed), "--head-epochs", "100" if label == "lora" else "0", "--json", str(result), *more]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{' '.join(command)}: {run.stderr}")
    return json.loads(result.read_text())


def spread(values, scale=1.0, digits=2):
    values = [scale * v for v in values]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def row(label, runs):
    first = runs[0]
    return [label, f"{first['trainable']:,}", f"{first['bytes']:,}", spread([r["accuracy"] for r in runs], 100),
            f"{1000 * statistics.median(r['step_seconds'] for r in runs):.0f}", f"{max(r['peak_rss_bytes'] for r in runs) / 2**20:.0f}"]


def table(head, rows):
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    line = lambda r: "| " + " | ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(r, widths))) + " |"
    print("\n".join([line(head), "| " + " | ".join("-" * w for w in widths) + " |", *map(line, rows)]))


parser = argparse.ArgumentParser(description=__doc__)
for name in ("program", "model", "data", "work"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--only", default="", help="labels with commas between")
parser.add_argument("--resume", action="store_true", help="keep results that are there")
o = parser.parse_args()
pathlib.Path(o.work).mkdir(parents=True, exist_ok=True)
labels = [label for label in RUNS if not o.only or label in o.only.split(",")]
results = {label: [] for label in labels}
for seed in range(o.seeds):  # all kinds of one seed after another, so that a busy hour slows all alike
    for label in labels:
        results[label].append(train(o, label, seed))
        print(f"{label}, seed {seed}: {100 * results[label][-1]['accuracy']:.2f} %", file=sys.stderr, flush=True)

print(f"MiniLM on sst2, {o.epochs} epochs of batch 32, {o.seeds} seeds: mean and standard deviation\n")
rows = [row(label, results[label]) for label in labels]
heads = [r["accuracy_frozen_head"] for label in labels for r in results[label] if "accuracy_frozen_head" in r]
if heads:
    rows.insert(0, ["frozen encoder, head alone", "770", "", spread(heads, 100), "", ""])
table(["kind", "trainable", "bytes on disk", "accuracy %", "ms a step", "peak MiB"], rows)
gates = [label for label in labels if "speedup" in results[label][0]]
if gates:
    print()
    table(["gates", "weights left", "closed %", "pruned differs by", "speed-up"],
          [[label, f"{statistics.mean(r['weights_after'] for r in results[label]):,.0f} of {results[label][0]['weights_before']:,}",
            spread([r["sparsity"] for r in results[label]], 100, 1), f"{max(r['pruned_difference'] for r in results[label]):.1e}",
            f"{statistics.median(r['speedup'] for r in results[label]):.2f}"] for label in gates])
