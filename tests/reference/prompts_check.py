# SPDX-License-Identifier: Apache-2.0
"""Soft prompts, prefixes and tuned norms against peft: random small models, folders both ways, logits, losses, gradients, greedy decoding."""
import argparse
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft
import torch
import transformers
from safetensors.torch import load_file

from checks import check, difference, failures

ROWS = [[5, 17, 3, 88, 41, 2, 96, 7, 7, 30, 12, 60], [1, 2, 3, 4, 50], [9]]


def logits_of(model, row):
    """Of the real tokens: peft's prompt tuning returns those of virtual ones too."""
    return model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)).logits[0, -len(row):]


def logits(model):
    with torch.no_grad():
        return torch.cat([logits_of(model, r) for r in ROWS])


def loss_of(model):
    total = sum(torch.nn.functional.cross_entropy(logits_of(model, r)[:-1], torch.tensor(r[1:]), reduction="sum") for r in ROWS if len(r) > 1)
    return total / sum(len(r) - 1 for r in ROWS)


def randomised(model, deviation):
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(0, deviation) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.3)
    return model.eval()


def gradients(kind, model):
    """By our names."""
    if kind == "norms":
        return {n.replace("base_model.model.", "").replace(".ln_tuning_layers.default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    (g,) = [p.grad for p in model.parameters() if p.grad is not None]
    if kind == "prompt":
        return {"prompt_embeddings": g}
    parts = g.chunk(2 * model.config.num_hidden_layers, dim=1)
    return {f"prefix.{i}": part for i, part in enumerate(parts)}


class Checks:
    def __init__(self, tool, work):
        self.tool, self.work = tool, pathlib.Path(work)
        self.work.mkdir(parents=True, exist_ok=True)

    def models(self):
        base = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, max_position_embeddings=128)
        for name, heads, kv in ("llama-mha", 6, 6), ("llama-gqa", 6, 3):
            yield name, transformers.LlamaForCausalLM(transformers.LlamaConfig(**base, num_attention_heads=heads, num_key_value_heads=kv, tie_word_embeddings=True))
        yield "gpt2", transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=97, n_positions=64, n_embd=48, n_layer=3, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2))

    def run(self, name, model):
        torch.manual_seed(len(name))
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.normal_(0, 0.2) if p.ndim > 1 else p.uniform_(0.5, 1.5) if "bias" not in key else p.normal_(0, 0.2)
        path = self.work / name
        model.eval().save_pretrained(path)
        base = lambda: type(model).from_pretrained(path).eval()
        kinds = {"prompt": (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5), 0.5),
                 "prefix": (peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), 0.5),
                 "projected prefix": (peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=10), 0.5),
                 "norms": (peft.LNTuningConfig(task_type="CAUSAL_LM"), 0.3)}
        for label, (config, deviation) in kinds.items():
            kind = label.split()[-1]
            folder, again, out = (self.work / f"{name}-{label.replace(' ', '-')}{end}" for end in ("", "-ours", ".safetensors"))
            theirs = randomised(peft.get_peft_model(base(), config), deviation)
            theirs.save_pretrained(folder)
            ids = " / ".join(" ".join(map(str, r)) for r in ROWS).split()
            run = subprocess.run([self.tool, name.split("-")[0], kind, str(path), str(folder), str(again), str(out), *ids], capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(f"prompts_tool, {name}, {label}: {run.stderr.strip()}")
            ours, reference = load_file(out), logits(theirs)
            check(f"{label}: logits with peft's folder", difference(ours["logits"], reference), 1e-4)
            check(f"{label}: peft's logits with our folder", difference(logits(peft.PeftModel.from_pretrained(base(), again).eval()), reference), 1e-4)
            check(f"{label}: one that does nothing", float(difference(logits(base()), reference) < 1e-2), 0)
            loss = loss_of(theirs)
            check(f"{label}: loss", abs(ours["loss"].item() - loss.item()), 1e-4)
            if label == kind:
                theirs.zero_grad()
                loss.backward()
                expected = gradients(kind, theirs)
                check(f"{label}: names of gradients", len({"grad." + n for n in expected} ^ {n for n in ours if n.startswith("grad.")}), 0)
                check(f"{label}: worst of {len(expected)} gradients", max(difference(ours["grad." + n], g) for n, g in expected.items()), 1e-4)
            row, text = list(ROWS[0]), []
            for _ in range(12):  # without a cache of theirs
                with torch.no_grad():
                    text.append(logits_of(theirs, row)[-1].argmax().item())
                row.append(text[-1])
            check(f"{label}: greedy tokens differ", float(ours["generated"].tolist() != text), 0)

    def all(self):
        for name, model in self.models():
            print(name)
            self.run(name, model)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tool", required=True)
parser.add_argument("--work", required=True)
arguments = parser.parse_args()
Checks(arguments.tool, arguments.work).all()
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
