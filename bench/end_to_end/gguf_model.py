# SPDX-License-Identifier: Apache-2.0
"""Llama models as GGUF files, as llama.cpp reads them."""
import gguf

NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def interleaved(w, heads):
    """Rows of a rotated projection in llama.cpp's order: each head's pairs stand side by side, not half a head apart."""
    return w.reshape(heads, 2, -1, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def write_gguf(path, model, dtype):
    """A transformers Llama without biases. Matrices are of `dtype` (none: F32), vectors of F32."""
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
