# SPDX-License-Identifier: Apache-2.0
"""The step of lora_step.cpp in PyTorch with transformers and peft, written as their users write it.

--make FOLDER writes a random model and adapter there; --verify FOLDER prints the losses of the first steps from it."""
import argparse
import os
import resource
import statistics
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import peft
import torch
import transformers

RATE, VERIFIED_STEPS = 1e-3, 3  # as in support/steps.hpp


def llama(**sizes):
    shape = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "use_cache": False}
    return transformers.LlamaConfig(**shape | sizes)


CONFIGS = {
    "smollm-135m": lambda: llama(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                 num_attention_heads=9, num_key_value_heads=3, head_dim=64),
    "stories-260k": lambda: llama(vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=5,
                                  num_attention_heads=8, num_key_value_heads=4, head_dim=8, max_position_embeddings=512),
    "minilm": lambda: transformers.BertConfig(vocab_size=30522, hidden_size=384, intermediate_size=1536, num_hidden_layers=6,
                                              num_attention_heads=12, num_labels=2, hidden_dropout_prob=0.0,
                                              attention_probs_dropout_prob=0.0),
}


def model_class(name):
    return transformers.BertForSequenceClassification if name == "minilm" else transformers.LlamaForCausalLM


def lora(name):
    sizes = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    if name == "minilm":
        return peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **sizes)
    return peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **sizes)


def make(o):
    torch.manual_seed(1)
    base = model_class(o.model)(CONFIGS[o.model]())
    base.save_pretrained(o.make)
    adapted = peft.get_peft_model(base, lora(o.model))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.02)  # zero would hide A
    adapted.save_pretrained(os.path.join(o.make, "adapter"))


def adapted_model(o):
    if o.verify:
        base = model_class(o.model).from_pretrained(o.verify, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(base, os.path.join(o.verify, "adapter"), is_trainable=True)
    else:
        model = peft.get_peft_model(model_class(o.model)(CONFIGS[o.model]()), lora(o.model))
    if o.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return model


def example(o):
    vocabulary = CONFIGS[o.model]().vocab_size
    n = torch.arange(o.batch * o.tokens, dtype=torch.int64)
    ids = ((31 * n * n + 7919 * n + 13) % vocabulary).reshape(o.batch, o.tokens)
    return {"input_ids": ids, "labels": torch.arange(o.batch) % 2 if o.model == "minilm" else ids}


def timed(step):
    wall, computed = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - computed


def say(name, value):
    print(f"{name:<26} {value:.9g}", flush=True)


def run(o):
    torch.set_num_threads(o.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    model, inputs = adapted_model(o), example(o)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)

    at_once = o.batch if o.micro_batch < 0 else o.micro_batch or max(1, 512 // o.tokens)
    parts = [{name: values[i:i + at_once] for name, values in inputs.items()} for i in range(0, o.batch, at_once)]

    def step():
        total = 0
        for part in parts:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.bf16):
                loss = model(**part).loss * (len(part["labels"]) / o.batch)
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    print(f"peer PyTorch_{torch.__version__.split('+')[0]}_peft_{peft.__version__}")
    say("trainable_parameters", sum(p.numel() for p in trained))
    if o.verify:
        for n in range(VERIFIED_STEPS):
            say(f"loss_{n}", step())
        return
    say("loss_first", step())
    for _ in range(o.warm):
        step()
    times = [timed(step) for _ in range(o.steps)]
    wall, computed = (statistics.median(t) for t in zip(*times))
    say("tokens_per_second", o.batch * o.tokens / wall)
    say("tokens_per_cpu_second", o.batch * o.tokens / computed)
    say("samples_per_cpu_second", o.batch / computed)
    say("loss_last", step())
    say("peak_rss_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=CONFIGS, default="smollm-135m")
    parser.add_argument("--make")
    parser.add_argument("--verify")
    for count, default in {"warm": 2, "steps": 10, "batch": 1, "tokens": 256, "threads": 1}.items():
        parser.add_argument("--" + count, type=int, default=default)
    parser.add_argument("--micro-batch", type=int, default=-1, help="sequences whose gradients are made together; 0: those of 512 tokens")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    options = parser.parse_args()
    make(options) if options.make else run(options)


if __name__ == "__main__":
    main()
