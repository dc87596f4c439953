// SPDX-License-Identifier: Apache-2.0
// The names of all public types, for headers that only mention them; to use one, include the header that defines it.
// Read next: graft.hpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace graft {

// core/
class error;
class shape_error;
class dtype_error;
class option_error;
class format_error;
class state_error;
class io_error;
enum class dtype : std::uint8_t;
struct bf16;
struct f16;
template <class T, std::size_t Rank> struct tensor_view;
template <class T, std::size_t Rank> class tensor;
struct matrix_ref;
class frozen_array;
struct q8_0_block;
struct q4_0_block;
struct nf4_block;
struct block_layout;
template <class Signature> class function_ref;
struct inline_executor;
class executor_ref;
class thread_pool;
class buffer_handle;
class activation_pool;
class scratch_space;
class random_stream;
class context;

// autograd/
template <class T, std::size_t Rank> struct var;
template <class T> struct gradient_slot;
template <class T, std::size_t Rank> struct accumulator;
struct op_info;
struct batch_info;
enum class recording;
template <class T> class tape;
class meter;
template <class T> struct checked_leaf;
struct gradcheck_options;

// tensor/
struct closeness;
struct print_options;
struct sort_options;
struct variance_options;
template <class T, std::size_t Rank> struct top_k_result;

// nn/
template <class T> class parameter_base;
template <class T, std::size_t Rank> class parameter;
template <class T> struct parameter_ref;
template <class T> class parameter_visitor;
template <class Layer> class layer_visitor;
template <class T> struct adapted_linear;
template <class T> class linear_map;
template <class T> struct affine;
template <class T> class any_adapter;
template <class T> struct named_adapter;
template <class T> struct merged_linear;
template <class T> struct embedding_module;
template <class T> struct low_rank_rows;
template <class T> struct rms_norm_module;
template <class T> struct layer_norm_module;
struct token_batch;
template <class T> struct virtual_tokens;
struct array;
struct array_ref;
struct state_dict;
struct load_options;
struct load_report;

// peft/
class target_modules;
struct adapter_site;
struct merge_options;
struct merge_report;
struct attach_options;
struct lora_options;
struct lora_patterns;
template <class T> struct lora;
struct dora_options;
template <class T> struct dora;
struct ia3_options;
template <class T> struct ia3;
struct vera_options;
template <class T> struct vera;
template <class T> struct vera_projections;
struct bottleneck_options;
template <class T> struct bottleneck;
struct compound_options;
template <class T> struct compound;
struct gated_options;
template <class T> struct gated;
struct dual_options;
enum class dual_phase;
template <class T> struct dual;
template <class T> struct soft_prompt;
template <class T> struct key_value_prefix;
struct prompt_options;
template <class T> struct adapter_set;
template <class T> class adapter_shelf;
template <class T> struct served_adapter;
template <class T> struct served_lora;
template <class T> class adapter_bank;
template <class T> class adapter_switch;

// optim/
struct adamw_options;
template <class T> class adamw;
struct sgd_options;
template <class T> class sgd;

// models/
struct rotary_config;
template <class T> class rotary_table;
template <class T> class kv_cache;
struct llama_config;
template <class T> struct llama;
template <class T> struct decoder_pass;
struct gpt2_config;
template <class T> struct gpt2;
struct bert_config;
enum class pooling;
template <class T> struct bert;
template <class T> struct bert_classifier;
struct sampling_options;
struct generate_options;
class sampler;
struct memory_use;
struct memory_plan_options;
struct memory_plan;

// methods/
struct feddpa_options;
struct instance_weight_options;
struct instance_weights_result;
struct gate_report;
struct prune_options;
struct prune_report;
struct pissa_options;
template <class T> struct lora_start;
struct post_pool_options;
template <class T> class post_pool_adapter;

// fed/; server<Rule> is constrained by a concept: fed/server.hpp declares it.
namespace fed {
using client_id = std::uint64_t;
struct broadcast;
struct update;
struct codec;
enum class refusal : std::uint8_t;
struct local_result;
enum class weighting;
struct fedavg_options;
class fedavg;
struct server_options;
struct round_result;
struct simulation_options;
struct simulated_round;
}  // namespace fed

// io/
class mapped_file;
class checkpoint_files;
struct safetensors_view;
struct json_limits;
class json_node;
class json_range;
struct npy_header;
struct load_model_options;
struct peft_config;
struct save_peft_options;
struct load_peft_options;
class safetensors_codec;
struct adapter_folder_options;
struct load_tuned_options;
template <class T> class adapter_registry;

// text/
using token_id = std::int32_t;
struct encoding;
struct encode_options;
struct decode_options;
struct special_tokens;
class tokenizer;
class stream_decoder;

}  // namespace graft
