# SPDX-License-Identifier: Apache-2.0
"""Runs what rows.py lists, prints the table and writes compare.json: a list of rows
{name, ours, peer, peer_name, ratio, at_best, unit, bound, target, holds, machine, vectors}, kernels with {shapes, worst} as well. A ratio is a
median over rounds; at_best is that of the least disturbed round of each, for a target that is missed because of neighbours.

Exit status: 0, 1 when a target is missed, 2 when something could not be run or verified."""
import argparse
import functools
import json
import math
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys

import rows as table

LABELS = {"smollm-135m": 49152, "stories-260k": 512, "minilm": 2}  # a random model's loss is near the logarithm of these
here = pathlib.Path(__file__).resolve().parent
NO_BF16 = "this processor has no products of bf16 pairs, or they gain nothing"


class Failure(Exception):
    pass


def run(command, threads=1, smoke=False):
    print("  " + shlex.join(pathlib.Path(c).name if c.startswith("/") else c for c in command), file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"} | ({"BENCH_SMOKE": "1"} if smoke else {})
    if machine()[1] == "AVX-512":  # Debian's OpenBLAS does not know every such processor, and falls back to kernels that take more than twice as long
        environment.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise Failure(f"{shlex.join(command)} failed ({done.returncode}):\n{(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


# ---- kernels: programs that verify themselves, take turns with their peers and write one entry a benchmark ------------------

def entries(folder, program, filters, o):
    out = o.work / f"{folder.parent.name}-{program}.json"
    out.unlink(missing_ok=True)
    either = "|".join(f"({f})" for f in dict.fromkeys(filters))
    if program == "bench_gemm":
        command = [folder / program, "--json", out, "--filter", either] + ["--quick"] * o.smoke
    else:
        command = [folder / program, "--benchmark_min_time=0", "--benchmark_out_format=json", f"--benchmark_out={out}",
                   f"--benchmark_filter={either}"]
    run([str(c) for c in command], smoke=o.smoke)
    found = json.loads(out.read_text())["benchmarks"] if out.exists() and out.stat().st_size else []
    for entry in found:
        if entry.get("error_occurred"):
            raise Failure(f"{program}: {entry['name']}: {entry.get('error_message')}")
    return found


def kernel_row(row, name, found, smoke):
    chosen = [e for e in found if re.search(row.filter, e["name"])]
    if not row.everywhere and not any(row.counter in e for e in chosen):
        print(f"{name}: {NO_BF16}", file=sys.stderr)
        return None
    for e in chosen:
        if row.counter not in e or row.unit not in e:
            raise Failure(f"{row.name}: {e['name']} reports no {row.counter}; is {row.peer} installed?")
    if not chosen and smoke:  # its list of shapes is short
        return None
    if not chosen:
        raise Failure(f"{row.name}: {row.program} has no benchmark named {row.filter}")
    shapes = {e["name"]: e[row.counter] for e in chosen}
    ours, peer = [e[row.unit] for e in chosen], [e[row.unit] / e[row.counter] for e in chosen]
    at_best = statistics.median(e.get(row.counter + "_at_best", e[row.counter]) for e in chosen)
    result = judged(row, name, statistics.median(ours), statistics.median(peer), statistics.median(shapes.values()), at_best, row.peer)
    return result | {"shapes": shapes, "worst": min(shapes, key=shapes.get)}


# ---- steps: every command in a process of its own, all in turns -------------------------------------------------------------

def option(command, name, default):
    words = command.split()
    return words[words.index(name) + 1] if name in words else default


def step(command, o, *more):
    program, *arguments = command.split()
    where = [o.python, str(here.parent / "end_to_end" / program)] if program.endswith(".py") else [str(o.programs / program)]
    out = run([*where, *arguments, *more], threads=option(command, "--threads", "1"))
    values = {"peer": ""}
    for name, value in re.findall(r"^([a-z_0-9]+) +(\S+)$", out, re.MULTILINE):
        values[name] = value.replace("_", " ") if name == "peer" else float(value)
    return values


def saved_model(model, o):
    """The folder of a random model and adapter."""
    folder = o.work / model
    if not (folder / "adapter" / "adapter_config.json").exists():
        step(f"lora_step_torch.py --model {model}", o, "--make", str(folder))
    return folder


def verify_decoding(commands, o):
    """From one saved model, all programs must generate the tokens that PyTorch generates; with weights in fewer bits, the first."""
    for command in (c for c in commands if "--adapter" not in c and "--engine torch" not in c):
        model = option(command, "--model", "")
        folder = str(saved_model(model, o))
        expected, got = step(f"decode_peer.py --engine torch --model {model}", o, "--verify", folder), step(command, o, "--verify", folder)
        names = ["token_0"] if "--dtype" in command else [n for n in expected if n.startswith("token_")]
        for name in names:
            if got[name] != expected[name]:
                raise Failure(f"{command}: {name} is {got[name]:.0f}, PyTorch's is {expected[name]:.0f}")


def verify_steps(commands, o):
    """From one saved model and adapter, all programs that can load it must print the losses that plain PyTorch prints."""
    commands = [c for c in commands if not c.startswith("bench_lora_step_libtorch") and "--last-only" not in c and "--dora" not in c]
    for model in dict.fromkeys(option(c, "--model", "") for c in commands):
        mine = [c for c in commands if option(c, "--model", "") == model]
        folder = saved_model(model, o)
        plain = " ".join(["lora_step_torch.py", *re.sub(r"--(checkpointing|bf16|int16-saved|(threads|micro-batch|memory-budget) \d+|dtype \w+)", "", mine[0]).split()[1:]])
        expected = step(plain, o, "--verify", str(folder))
        for command in (c for c in mine if c != plain):
            got = step(command, o, "--verify", str(folder))
            near = 1e-2 if "--bf16" in command or "--dtype" in command else 1e-4
            for name in (n for n in expected if n.startswith("loss_") or n == "trainable_parameters"):
                if not abs(got[name] - expected[name]) <= near * abs(expected[name]):
                    raise Failure(f"{command}: {name} is {got[name]}, PyTorch's is {expected[name]}")


def measure_steps(turns, o):
    measured = {turn: [] for turn in turns}
    for _ in range(1 if o.smoke else o.rounds):
        for turn in turns:
            command = turn[1]
            values = step(command, o, "--warm", "0" if o.smoke else "2", "--steps", "1" if o.smoke else str(o.steps))
            if "loss_first" in values and not abs(values["loss_first"] - math.log(LABELS[option(command, "--model", "")])) < 0.5:
                raise Failure(f"{command}: the loss of a random model is {values['loss_first']}")
            measured[turn].append(values)
    return measured


def fastest(turns, measured):
    """The one that counts: with the highest rate."""
    return max(turns, key=lambda t: statistics.median(v[table.SPEED] for v in measured[t])) if len(turns) > 1 else turns[0]


def step_row(row, measured):
    chosen = [fastest([t for t in side if t in measured], measured) for side in row.turns()]
    (_, ours), (_, peer) = chosen
    first = [measured[t][0] for t in chosen]
    if not row.everywhere and not first[0].get("multiplies_in_bf16", 1):
        print(f"{row.name}: {NO_BF16}", file=sys.stderr)
        return None
    if ours.split()[0] != peer.split()[0] and first[0].get("trainable_parameters") != first[1].get("trainable_parameters"):
        raise Failure(f"{row.name}: not the same number of trainable parameters")
    autocast = "--bf16" in peer and peer.split()[0].endswith(".py")
    name = (row.peer_name or first[1]["peer"]) + (" autocast to bf16" if autocast else "")
    a, b = ([v[row.number] for v in measured[t]] for t in chosen)
    best = min if row.unit == "MiB" else max
    return judged(row, row.name, statistics.median(a), statistics.median(b), statistics.median(x / y for x, y in zip(a, b)), best(a) / best(b), name)


def has_bf16():
    return re.search(r"\bavx512_bf16\b", processor()) is not None


def possible(row):
    """Whether this processor can do what a step's row is about; says so if not."""
    if row.everywhere or has_bf16():
        return True
    print(f"{row.name}: {NO_BF16}", file=sys.stderr)
    return False


# ---- the table --------------------------------------------------------------------------------------------------------------

@functools.cache
def processor():
    """What the system says of it."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


@functools.cache
def machine():
    """The processor, and the vectors or matrix registers that a build for it has: numbers of one kind say little about another."""
    said = processor()
    models = re.findall(r"model name\s*: (.*)", said)
    vectors = next((name for flag, name in (("amx_bf16", "AMX"), ("avx512dq", "AVX-512"), ("avx2", "AVX2")) if re.search(rf"\b{flag}\b", said)), "128 bits")
    return f"{os.cpu_count()} cores of {models[0].strip() if models else platform.machine()}", vectors


def judged(row, name, ours, peer, ratio, at_best, peer_name):
    bound, target = (row.target.split()[0], float(row.target.split()[1])) if row.target else (None, None)
    holds = None if target is None else ratio >= target if bound == ">=" else ratio <= target
    return {"name": name, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ratio, "at_best": at_best, "unit": row.unit, "bound": bound, "target": target,
            "holds": holds} | dict(zip(("machine", "vectors"), machine()))


def line(r):
    verdict = {True: "holds", False: "MISSED", None: ""}[r["holds"]]
    wanted = f"{r['bound']} {r['target']:g}" if r["target"] is not None else ""
    worst = f"   worst {r['shapes'][r['worst']]:.2f} at {r['worst']}" if len(r.get("shapes", {})) > 1 else ""
    numbers = f"{r['ours']:>9.4g} {r['peer']:>9.4g} {r['unit']:<10} {r['ratio']:>6.2f} {r['at_best']:>8.2f}"
    return f"{r['name']:<67} {numbers}  {wanted:<8} {verdict:<7} {r['peer_name']}{worst}"


def compare(o):
    kernels = [r for r in o.rows if isinstance(r, table.Kernel)]
    results = []
    for folder in [o.programs] + [o.clang_programs] * bool(o.clang_programs):
        mine = [r for r in kernels if folder == o.programs or r.clang]
        found = {p: entries(folder, p, [r.filter for r in mine if r.program == p], o) for p in table.programs(mine)}
        results += [kernel_row(r, r.name if folder == o.programs else r.name + " (Clang)", found[r.program], o.smoke) for r in mine]
    steps = [r for r in o.rows if isinstance(r, table.Step) and possible(r)]
    turns = list(dict.fromkeys(t for r in steps for side in r.turns() for t in side if has_bf16() or "--bf16" not in t[1]))
    commands = list(dict.fromkeys(c for _, c in turns))
    decoding = [c for c in commands if "decode" in c.split()[0]]
    verify_steps([c for c in commands if c not in decoding], o)
    verify_decoding(decoding, o)
    measured = measure_steps(turns, o)
    results += [step_row(r, measured) for r in steps]
    results = [r for r in results if r is not None]
    for r in results if o.smoke else []:
        r["holds"] = None
    lines = [", ".join(machine()), f"{'':<67} {'ours':>9} {'peer':>9} {'':<10} {'ratio':>6} {'at best':>8}  {'target':<8} {'':<7} peer", *map(line, results)]
    print("\n".join(lines))
    name = "smoke" if o.smoke else "compare"
    (o.out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (o.out / f"{name}.txt").write_text("\n".join(lines) + "\n")
    missed = [r["name"] for r in results if r["holds"] is False]
    if not o.smoke:
        judged_rows = sum(r["target"] is not None for r in results)
        print(f"{judged_rows - len(missed)} of {judged_rows} targets hold; {o.out / name}.json")
    return 1 if missed else 0


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", default="", metavar="PATTERN", help="rows whose name this regular expression finds")
    p.add_argument("--without", metavar="PEER", help="rows whose peer's command has this are left out")
    p.add_argument("--list", choices=["names", "programs"])
    p.add_argument("--smoke", action="store_true", help="verify everything, time next to nothing, judge nothing")
    p.add_argument("--rounds", type=int, default=3, help="of the steps")
    p.add_argument("--steps", type=int, default=5, help="measured in a round")
    p.add_argument("--programs", type=pathlib.Path)
    p.add_argument("--clang-programs", type=pathlib.Path)
    p.add_argument("--python", help="with the packages of tests/reference")
    p.add_argument("--out", type=pathlib.Path)
    o = p.parse_args()
    try:
        o.rows = [r for r in table.selected(o.only) if not (o.without and isinstance(r, table.Step) and o.without in str(r.peer))]
        if not o.rows:
            raise Failure(f"no row's name has \"{o.only}\"")
        if o.list:
            print("\n".join(table.programs(o.rows) if o.list == "programs" else [r.name for r in o.rows]))
            return 0
        o.work = o.out / "compare"
        o.work.mkdir(parents=True, exist_ok=True)
        return compare(o)
    except (Failure, OSError, KeyError, ValueError, re.error) as e:
        print(f"compare: {e if isinstance(e, Failure) else repr(e)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
