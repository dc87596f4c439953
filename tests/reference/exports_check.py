# SPDX-License-Identifier: Apache-2.0
"""What we write for others, read by others: merged models by transformers, merged adapters beside peft's own merges, and LoRA
adapters in GGUF by the gguf package and, where it is installed, by llama.cpp itself."""
import argparse
import math
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import gguf
import numpy
import peft
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "end_to_end"))
from checks import check, difference, failures
from gguf_model import NAMES, interleaved, write_gguf

try:
    import llama_cpp
except ImportError:
    llama_cpp = None

ROW = [5, 17, 3, 88, 41, 2, 96, 7, 7, 30, 12, 60]


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([ROW])).logits[0].double()


class Checks:
    def __init__(self, tool, work):
        self.tool, self.work = pathlib.Path(tool), pathlib.Path(work)
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments):
        run = subprocess.run([str(self.tool), *map(str, arguments)], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"export_tool {arguments}: {run.stderr.strip()}")

    def models(self):
        base = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=128)
        of = transformers.LlamaConfig
        yield "llama-tied", transformers.LlamaForCausalLM(of(**base, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True))
        yield "llama-bias", transformers.LlamaForCausalLM(of(**base, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False, attention_bias=True))
        yield "llama-rope3", transformers.LlamaForCausalLM(of(**base, num_attention_heads=4, num_key_value_heads=4, rope_parameters=dict(
            rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)))
        yield "qwen2", transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**base, num_attention_heads=4, num_key_value_heads=2))

    def gpt2(self):
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_inner=80, n_layer=2, n_head=4, activation_function="relu",
                                                                    layer_norm_epsilon=1e-3, bos_token_id=1, eos_token_id=2))

    def saved(self, name, model):
        torch.manual_seed(len(name))
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, 0.2) if p.ndim > 1 else p.uniform_(0.5, 1.5)
        model.eval().save_pretrained(self.work / name)
        return self.work / name

    def adapted(self, path, label, config, seed):
        """An adapter of random weights, in a folder that peft wrote, and the model that has it."""
        config.task_type = "CAUSAL_LM"
        model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), config).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "lora_" in key or "ia3_" in key:
                    p.normal_(0, 0.1) if "magnitude" not in key and "ia3_" not in key else p.mul_(torch.rand_like(p) + 0.5)
        folder = self.work / f"{path.name}-{label}"
        model.save_pretrained(folder)
        return folder, model

    def whole(self, path, attention="k_proj", feedforward="down_proj", turned=False):
        kinds = {"lora": peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", fan_in_fan_out=turned),
                 "dora": peft.LoraConfig(r=3, use_dora=True, use_rslora=True, target_modules=[attention, feedforward], fan_in_fan_out=turned),
                 "ia3": peft.IA3Config(target_modules=[attention, feedforward], feedforward_modules=[feedforward], fan_in_fan_out=turned)}
        for seed, (label, config) in enumerate(kinds.items()):
            folder, model = self.adapted(path, label, config, seed)
            out = self.work / f"{path.name}-{label}-whole"
            self.run("whole", path, out, folder)
            read, report = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
            check(f"{label}, whole model in transformers", difference(logits(read.eval()), logits(model)), 1e-4)
            check(f"{label}, keys missing or left over", len(report["missing_keys"]) + len(report["unexpected_keys"]), 0)

    def merges(self, path):
        """Rank 4 is too small for two adapters of ranks 2 and 4: the truncation counts. Full rank: it must not."""
        one, _ = self.adapted(path, "one", peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"]), 11)
        two, _ = self.adapted(path, "two", peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"]), 12)
        three, _ = self.adapted(path, "three", peft.LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj", "up_proj"]), 13)
        cases = {"cat": ("cat", 0, 1, two, {}), "linear": ("linear", 0, 1, three, {}), "svd": ("svd", 4, 1, two, {"svd_rank": 4}),
                 "ties": ("ties_svd", 64, 0.4, two, {"svd_rank": 64, "density": 0.4}),
                 "magnitude_prune": ("magnitude_prune_svd", 64, 0.3, two, {"svd_rank": 64, "density": 0.3})}
        for method, (theirs, rank, density, second, options) in cases.items():
            out = self.work / f"{path.name}-{method}"
            self.run("merge", path, out, method, rank, density, 0.7, one, 0.4, second)
            base = lambda: transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            reference = peft.PeftModel.from_pretrained(base(), one, adapter_name="one")
            reference.load_adapter(second, adapter_name="two")
            reference.add_weighted_adapter(["one", "two"], [0.7, 0.4], "both", combination_type=theirs, **options)
            reference.set_adapter("both")
            ours = peft.PeftModel.from_pretrained(base(), out)
            check(f"merge {method} against peft's {theirs}", difference(logits(ours.eval()), logits(reference.eval())), 1e-4)

    def gguf(self, path):
        """Ranks of one alpha: what llama.cpp's format can say. Then the same adapter the other way."""
        folder, model = self.adapted(path, "gguf", peft.LoraConfig(r=4, lora_alpha=6, rank_pattern={"down_proj": 2}, target_modules="all-linear"), 21)
        out = self.work / f"{path.name}.gguf"
        self.run("to-gguf", path, out, folder)
        reader = gguf.GGUFReader(out)
        kind = "qwen2" if path.name == "qwen2" else "llama"
        field = lambda key: reader.get_field(key).contents()
        check("gguf settings", (field("general.type"), field("general.architecture"), field("adapter.type"), field("adapter.lora.alpha")) != ("adapter", kind, "lora", 6.0), 0)
        factors = {t.name: torch.tensor(numpy.array(t.data)) for t in reader.tensors}
        expected = self.factors(model, kind)
        worst = max(difference(factors[name].double(), v.double()) for name, v in expected.items()) if factors.keys() == expected.keys() else math.inf
        check(f"gguf, {len(factors)} factors", worst, 0)
        self.write_adapter(self.work / "theirs.gguf", kind, expected)
        self.run("from-gguf", path, self.work / f"{path.name}-from-gguf", self.work / "theirs.gguf")
        read = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), self.work / f"{path.name}-from-gguf")
        check("an adapter that the gguf package wrote", difference(logits(read.eval()), logits(model)), 1e-4)
        if path.name == "llama-tied":
            self.llama_cpp(model, out)

    @staticmethod
    def factors(model, kind):
        """By their names there, B of q and k in the order of rows that llama.cpp wants."""
        c, found = model.config, {}
        for key, p in model.named_parameters():
            if "lora_" not in key:
                continue
            layer, part, side = key.split("layers.")[1].split(".")[0], *[next(n for n in NAMES if f".{n}." in key), "a" if "lora_A" in key else "b"]
            heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(part)
            value = interleaved(p.detach(), heads) if heads and side == "b" and kind == "llama" else p.detach()
            found[f"blk.{layer}.{NAMES[part]}.weight.lora_{side}"] = value
        return found

    @staticmethod
    def write_adapter(path, kind, factors):
        w = gguf.GGUFWriter(path, kind)
        w.add_type("adapter")
        w.add_string("adapter.type", "lora")
        w.add_float32("adapter.lora.alpha", 6.0)
        for name, value in factors.items():
            w.add_tensor(name, value.contiguous().numpy())
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()

    def llama_cpp(self, model, adapter):
        if llama_cpp is None:
            print("  llama.cpp is not installed: its own reading of the adapter is left out")
            return
        base = self.work / "base.gguf"
        write_gguf(str(base), transformers.LlamaForCausalLM.from_pretrained(self.work / "llama-tied", dtype=torch.float32), "")
        engine = llama_cpp.Llama(str(base), n_ctx=64, logits_all=True, verbose=False, lora_path=str(adapter), type_k=0, type_v=0)  # a float32 cache
        engine.eval(ROW)
        check("logits of llama.cpp with our adapter", difference(torch.tensor(engine.scores[:len(ROW)]).double(), logits(model)), 1e-4)

    def all(self):
        for name, model in self.models():
            print(name)
            path = self.saved(name, model)
            self.whole(path)
            self.gguf(path)
        print("gpt2")
        self.whole(self.saved("gpt2", self.gpt2()), "c_attn", "mlp.c_proj", turned=True)
        self.merges(self.work / "llama-tied")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tool", required=True)
parser.add_argument("--work", required=True)
arguments = parser.parse_args()
transformers.utils.logging.disable_progress_bar()
Checks(arguments.tool, arguments.work).all()
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
