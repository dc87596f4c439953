# SPDX-License-Identifier: Apache-2.0
"""Models and adapters against transformers, peft and torch: random small ones made here, and real ones where they are at hand.

Compares logits, losses, every adapter gradient, greedy decoding, sentence vectors and adapter folders both ways."""
import argparse
import json
import math
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


class Checks:
    def __init__(self, programs, model_tool, work, data):
        self.programs, self.model_tool = pathlib.Path(programs), pathlib.Path(model_tool)
        self.work, self.data = pathlib.Path(work), data and pathlib.Path(data)

    def folder(self, name):
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def program(self, name, *arguments):
        path = self.model_tool if name == "model_tool" else self.programs / name
        run = subprocess.run([str(path), *map(str, arguments)], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{name} {arguments}: {run.stderr.strip()}")
        return run.stdout

    def tool(self, kind, model, request, *folders):
        """Of folders the first is an adapter to load, the second where to save it again."""
        (self.work / "request.json").write_text(json.dumps(request))
        self.program("model_tool", kind, model, self.work / "request.json", self.work / "out.safetensors", *folders)
        return load_file(self.work / "out.safetensors")

    # ---- random models -----------------------------------------------------------------------------------------------

    def save_model(self, name, model):
        """Random weights large enough that every part matters."""
        torch.manual_seed(len(name))
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.normal_(0, 0.2) if p.ndim > 1 else p.uniform_(0.5, 1.5) if "norm" in key.lower() and "bias" not in key else p.normal_(0, 0.2)
        model.eval()
        path = self.folder(name)
        model.save_pretrained(path)
        return path

    def llama_models(self):
        base = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, max_position_embeddings=128)
        shapes = {"mha": (6, 6), "gqa2": (6, 3), "mqa": (4, 1)}
        for shape, (heads, kv) in shapes.items():
            for tied in (True, False):
                bias = shape == "gqa2" and not tied
                config = transformers.LlamaConfig(**base, num_attention_heads=heads, num_key_value_heads=kv, tie_word_embeddings=tied,
                                                  attention_bias=bias, mlp_bias=bias, rms_norm_eps=1e-5)
                yield f"llama-{shape}-{'tied' if tied else 'untied'}{'-bias' if bias else ''}", transformers.LlamaForCausalLM(config)
        scaled = transformers.LlamaConfig(**base, num_attention_heads=4, num_key_value_heads=2, head_dim=16, rope_parameters=dict(
            rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))
        yield "llama-rope3-headdim", transformers.LlamaForCausalLM(scaled)
        linear = transformers.LlamaConfig(**base, num_attention_heads=4, num_key_value_heads=2, rope_parameters=dict(
            rope_type="linear", rope_theta=10000.0, factor=4.0))
        yield "llama-rope-linear", transformers.LlamaForCausalLM(linear)
        qwen = transformers.Qwen2Config(**base, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
        yield "qwen2", transformers.Qwen2ForCausalLM(qwen)
        mistral = transformers.MistralConfig(**base, num_attention_heads=4, num_key_value_heads=2, sliding_window=None)
        yield "mistral", transformers.MistralForCausalLM(mistral)

    def check_llamas(self):
        rows = [[5, 17, 3, 88, 41, 2, 96, 7, 7, 30, 12, 60], [1, 2, 3, 4, 50]]
        for name, model in self.llama_models():
            print(name)
            path = self.save_model(name, model)
            ours = self.tool("llama", path, {"ids": rows})
            reference = torch.cat([model(torch.tensor([r])).logits[0] for r in rows])
            check("logits", difference(ours["logits"], reference), 1e-4)
            self.check_adapters(name, path, type(model), rows, "llama", self.llama_adapters())
        self.check_storage(rows)

    def lora_loss(self, model, rows):
        total, count = 0.0, 0
        for r in rows:
            ids = torch.tensor([r])
            logits = model(ids).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            count += len(r) - 1
        return total / count

    @staticmethod
    def llama_adapters():
        """Configurations of every kind that our folders know, by label."""
        lora = peft.LoraConfig
        return {
            "lora": lora(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
            "rslora-all": lora(r=3, lora_alpha=5, use_rslora=True, target_modules="all-linear"),
            "regex": lora(r=2, lora_alpha=2, target_modules=r".*layers\.[02]\.(self_attn\.(k|o)_proj|mlp\.down_proj)"),
            "patterns": lora(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 2}, alpha_pattern={"up_proj": 3}),
            "excluded": lora(r=2, target_modules=["q_proj", "up_proj", "down_proj"], exclude_modules=["down_proj"], layers_to_transform=[0, 2]),
            "biases": lora(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], bias="all"),
            "whole-modules": lora(r=2, lora_alpha=4, target_modules=["k_proj"], modules_to_save=["norm"]),
            "dora": lora(r=4, lora_alpha=6, use_dora=True, target_modules=["q_proj", "v_proj", "down_proj"]),
            "dora-rslora": lora(r=3, lora_alpha=5, use_dora=True, use_rslora=True, target_modules="all-linear"),
            "ia3": peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
            "vera": peft.VeraConfig(r=12, target_modules=["q_proj", "up_proj", "down_proj"], projection_prng_key=3),
            "oft": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj", "v_proj", "down_proj"], bias="all", use_cayley_neumann=False),
            "embedding": lora(r=3, lora_alpha=5, target_modules=["embed_tokens", "q_proj"], rank_pattern={"embed_tokens": 2}),
            "oft-shared": peft.OFTConfig(r=4, oft_block_size=0, block_share=True, target_modules="all-linear", use_cayley_neumann=False),
        }

    @staticmethod
    def gpt2_adapters():
        lora = peft.LoraConfig
        return {
            "lora": lora(r=4, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True),
            "patterns": lora(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, rank_pattern={"mlp.c_proj": 2}, alpha_pattern={"c_attn": 3}),
            "embedding": lora(r=4, lora_alpha=6, use_rslora=True, target_modules=["wte", "wpe"]),
            "dora-biases": lora(r=3, use_rslora=True, use_dora=True, target_modules="all-linear", fan_in_fan_out=True, bias="all"),
            "ia3": peft.IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
            "vera": peft.VeraConfig(r=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
        }

    def check_gpt2s(self):
        rows = [[5, 17, 3, 88, 41, 2, 96, 7, 7, 30, 12, 60], [1, 2, 3, 4, 50]]
        for name, act, inner in ("gpt2", "gelu_new", None), ("gpt2-relu", "relu", 80):
            print(name)
            config = transformers.GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_inner=inner, n_layer=3, n_head=4, activation_function=act,
                                             resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2)
            model = transformers.GPT2LMHeadModel(config)
            path = self.save_model(name, model)
            bare = self.folder(name + "-bare")
            model.transformer.save_pretrained(bare)
            with torch.no_grad():
                reference = torch.cat([model(torch.tensor([r])).logits[0] for r in rows])
            check("logits", difference(self.tool("gpt2", path, {"ids": rows})["logits"], reference), 1e-4)
            check("logits of the body's folder", difference(self.tool("gpt2", bare, {"ids": rows})["logits"], reference), 1e-4)
            greedy = model.generate(torch.tensor([rows[0]]), attention_mask=torch.ones(1, len(rows[0])), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
            check("greedy tokens differ", float(self.tool("gpt2", path, {"ids": rows})["generated"].tolist() != greedy[0, len(rows[0]):].tolist()), 0)
            self.check_adapters(name, path, type(model), rows, "gpt2", self.gpt2_adapters())

    def check_adapters(self, name, path, kind, rows, tool, configs):
        for label, config in configs.items():
            model = peft.get_peft_model(kind.from_pretrained(path), config)
            self.randomise_adapter(model)
            folder, again = self.folder(f"{name}-{label}"), self.folder(f"{name}-{label}-ours")
            model.save_pretrained(folder)
            model.eval()
            ours = self.tool(tool, path, {"ids": rows}, folder, again)
            logits = lambda m: torch.cat([m(torch.tensor([r])).logits[0] for r in rows])
            with torch.no_grad():
                reference = logits(model)
                check(f"{label}: logits with peft's folder", difference(ours["logits"], reference), 1e-4)
                check(f"{label}: peft's logits with our folder", difference(logits(peft.PeftModel.from_pretrained(kind.from_pretrained(path), again).eval()), reference), 1e-4)
                base = logits(kind.from_pretrained(path))
                check(f"{label}: an adapter that does nothing", float(difference(base, reference) < 1e-2), 0)
            loss = self.lora_loss(model, rows)
            loss.backward()
            check(f"{label}: loss", abs(ours["loss"].item() - loss.item()), 1e-4)
            self.check_gradients(label, ours, model)

    @staticmethod
    def randomise_adapter(model):
        torch.manual_seed(3)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if p.requires_grad:
                    p.normal_(0, 0.2)
                    if "ia3_" in key or "magnitude" in key or "norm" in key:
                        p.add_(1)

    @staticmethod
    def check_gradients(label, ours, model):
        worst, seen = 0.0, 0
        for key, p in model.named_parameters():
            if p.grad is None:
                continue
            ours_key = key.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
            for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l", "vera_lambda_b", "vera_lambda_d"):
                ours_key = ours_key.replace(f".{part}.default", f".adapters.default.{part}")
            ours_key = ours_key.replace(".oft_R.default.weight", ".adapters.default.rotation")
            theirs = p.grad.T if ours_key.endswith("lora_embedding_A") else p.grad  # ours keeps what is looked up together
            worst = max(worst, difference(ours["grad." + ours_key], theirs))
            seen += 1
        ours_count = sum(k.startswith("grad.") for k in ours)
        check(f"{label}: worst of {seen} gradient tensors", worst if seen == ours_count else math.inf, 1e-4)

    def check_storage(self, rows):
        """A bf16 checkpoint in two shards computes in f32 with the rounded weights."""
        path = self.folder("llama-bf16-sharded")
        model = transformers.LlamaForCausalLM.from_pretrained(self.work / "llama-gqa2-untied-bias").to(torch.bfloat16)
        model.save_pretrained(path, max_shard_size="40KB")
        print(f"llama-bf16-sharded, {len(list(path.glob('*.safetensors')))} files")
        ours = self.tool("llama", path, {"ids": rows})
        model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)  # model.float() would keep rotary frequencies rounded to bf16
        check("logits", difference(ours["logits"], torch.cat([model(torch.tensor([r])).logits[0] for r in rows])), 1e-4)

    # ---- encoders ----------------------------------------------------------------------------------------------------

    def check_berts(self):
        base = dict(vocab_size=97, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64)
        ids = [[5, 17, 3, 88, 41, 2, 0, 0], [9, 8, 7, 6, 5, 4, 3, 2], [1, 2, 0, 0, 0, 0, 0, 0]]
        mask = [[1] * 6 + [0] * 2, [1] * 8, [1] * 2 + [0] * 6]
        keep = torch.tensor(mask).bool()
        for act in ("gelu", "gelu_new", "relu"):
            name = f"bert-{act}"
            print(name)
            model = transformers.BertModel(transformers.BertConfig(**base, hidden_act=act))
            path = self.save_model(name, model)
            ours = self.tool("bert", path, {"ids": ids, "mask": mask})
            with torch.no_grad():
                out = model(torch.tensor(ids), attention_mask=torch.tensor(mask))
            check("hidden states of real tokens", difference(ours["hidden"], out.last_hidden_state[keep]), 1e-4)
            check("pooler", difference(ours["pooler"], out.pooler_output), 1e-4)
            mean = (out.last_hidden_state * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
            check("mean", difference(ours["mean"], mean), 1e-4)

        print("bert classifier with LoRA")
        config = transformers.BertConfig(**base, num_labels=3, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
        path = self.save_model("bert-classifier", transformers.BertForSequenceClassification(config))
        labels = [2, 0, 1]
        model = peft.get_peft_model(transformers.BertForSequenceClassification.from_pretrained(path),
                                    peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "value"]))
        self.randomise_adapter(model)
        with torch.no_grad():
            for p in model.base_model.model.classifier.modules_to_save.parameters():
                p.normal_(0, 0.3)
        folder = self.folder("bert-classifier-lora")
        model.save_pretrained(folder)
        ours = self.tool("classifier", path, {"ids": ids, "mask": mask, "labels": labels}, folder)
        out = model(torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels))
        check("logits", difference(ours["logits"], out.logits), 1e-4)
        out.loss.backward()
        check("loss", abs(ours["loss"].item() - out.loss.item()), 1e-4)
        self.check_gradients("classifier", ours, model)

    # ---- real models -------------------------------------------------------------------------------------------------

    def check_stories(self):
        model_path = self.data / "stories260K"
        text = self.data / "tinyshakespeare" / "input.txt"
        print("stories260K")
        model = transformers.LlamaForCausalLM.from_pretrained(model_path).eval()
        words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model_path / "tokenizer.json"))
        prompt = words("Once upon a time")["input_ids"]
        check("prompt ids differ", float(prompt != [1, 403, 407, 261, 378]), 0)
        ours = self.tool("llama", model_path, {"ids": [prompt + list(range(300, 360))]})
        with torch.no_grad():
            reference = model(torch.tensor([prompt + list(range(300, 360))])).logits[0]
        check("logits, largest difference", (ours["logits"] - reference).abs().max().item(), 1e-4)

        self.program("generate", model_path, "--prompt", "Once upon a time", "--tokens", 200, "--greedy", "--json", self.work / "generate.json")
        result = json.loads((self.work / "generate.json").read_text())
        with torch.no_grad():
            theirs = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=200, do_sample=False, pad_token_id=0)[0].tolist()
        same = next((i for i, (a, b) in enumerate(zip(result["ids"], theirs)) if a != b), min(len(result["ids"]), len(theirs)))
        print(f"  greedy: {same} of {len(theirs)} tokens equal; {result['tokens_per_second']:.0f} tokens/s")
        check("greedy tokens that differ", float(len(theirs) - same + abs(len(result["ids"]) - len(theirs))), 0)

        folder = self.folder("stories-finetuned")
        self.program("finetune", model_path, "--text", text, "--out", folder, "--steps", 40, "--batch", 2, "--seq", 128, "--lr", 5e-3)
        self.compare_perplexity("ours", model, words, model_path, text, folder)
        theirs = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(model_path),
                                     peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
        torch.manual_seed(1)
        with torch.no_grad():
            for key, p in theirs.named_parameters():
                if "lora_B" in key:
                    p.normal_(0, 0.05)
        folder = self.folder("stories-peft")
        theirs.save_pretrained(folder)
        self.compare_perplexity("peft's", model, words, model_path, text, folder)

    def compare_perplexity(self, whose, model, words, model_path, text, adapter):
        limit, sequence, values = 20000, 256, {}
        for label, extra in {"applied": [], "merged": ["--merge"]}.items():
            self.program("perplexity", model_path, "--text", text, "--adapter", adapter, "--seq", sequence, "--limit-tokens", limit,
                         "--json", self.work / "perplexity.json", *extra)
            values[label] = json.loads((self.work / "perplexity.json").read_text())["nll"]
        adapted = peft.PeftModel.from_pretrained(transformers.LlamaForCausalLM.from_pretrained(model_path), adapter).eval()
        ids = words(text.read_text())["input_ids"]
        total, count = 0.0, 0
        with torch.no_grad():
            for first in range(0, len(ids), sequence):
                window = ids[first:first + sequence][:limit - count + 1]
                if len(window) < 2 or count >= limit:
                    break
                logits = adapted(torch.tensor([window])).logits[0, :-1]
                total += torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum").item()
                count += len(window) - 1
        reference = total / count
        print(f"  {whose} folder: applied {values['applied']:.6f}, merged {values['merged']:.6f}, peft {reference:.6f} nats over {count} tokens")
        check(f"{whose} folder, applied against peft", abs(values["applied"] - reference), 1e-4)
        check(f"{whose} folder, merged against applied", abs(values["applied"] - values["merged"]), 1e-4)

    def check_minilm(self, model_path):
        print("all-MiniLM-L6-v2")
        model = transformers.BertModel.from_pretrained(model_path).eval()
        words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model_path / "tokenizer.json"), pad_token="[PAD]")
        words.backend_tokenizer.no_truncation()
        words.backend_tokenizer.no_padding()
        rows = (self.data / "sst2" / "test.tsv").read_text().splitlines()[:200]
        sentences = [r.split("\t")[0] for r in rows]
        (self.work / "sentences.txt").write_text("\n".join(sentences) + "\n")
        self.program("embed", model_path, "--text", self.work / "sentences.txt", "--json", self.work / "embed.json")
        ours = torch.tensor(json.loads((self.work / "embed.json").read_text())["vectors"], dtype=torch.float64)
        worst = 1.0
        for sentence, vector in zip(sentences, ours, strict=True):
            ids = torch.tensor([words(sentence)["input_ids"]])
            with torch.no_grad():
                reference = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0).double()
            worst = min(worst, torch.nn.functional.cosine_similarity(vector, reference, dim=0).item())
        print(f"  {len(sentences)} sentences, smallest cosine {worst:.9f}")
        check("1 - smallest cosine", 1 - worst, 1e-5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", required=True, help="folder with our example programs")
    parser.add_argument("--model-tool", required=True, help="tests/reference/model_tool.cpp, built")
    parser.add_argument("--work", required=True, help="folder for files made here")
    parser.add_argument("--data", help="folder with stories260K, tinyshakespeare, sst2")
    parser.add_argument("--minilm", help="folder of all-MiniLM-L6-v2")
    a = parser.parse_args()
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    checks = Checks(a.programs, a.model_tool, a.work, a.data)
    checks.check_llamas()
    checks.check_gpt2s()
    checks.check_berts()
    if a.data:
        checks.check_stories()
    else:
        print("SKIPPED stories260K: no --data")
    if a.minilm and a.data:
        checks.check_minilm(pathlib.Path(a.minilm))
    else:
        print("SKIPPED all-MiniLM-L6-v2: no --minilm or no --data")
    print(f"models_check: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
