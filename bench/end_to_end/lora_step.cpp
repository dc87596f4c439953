// SPDX-License-Identifier: Apache-2.0
// One training step of LoRA: forward, backward, AdamW; float, random weights. compare.sh runs it next to the same step in
// libtorch and in PyTorch with peft; steps.hpp has the options. With --verify it prints the first losses of a saved model.
//   smollm-135m, stories-260k: rank 8 on all linear layers, next-token loss
//   minilm: an encoder and a head for two labels, rank 8 on query and value, the head trained
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "graft/core/thread_pool.hpp"
#include "graft/graft.hpp"
#include "graft/io/load_model.hpp"
#include "graft/io/peft_folder.hpp"
#include "support/allocations.hpp"
#include "support/dtypes.hpp"
#include "support/machine.hpp"
#include "support/steps.hpp"

namespace {

using graft::index_t;
constexpr graft::lora_options lora{.rank = 8, .alpha = 16};

/// Flops of a token's forward and backward pass, counted from the shapes; a multiply and an add are two.
///   base: two for every weight forward, two for the gradient of the layer's input; the frozen weights have none.
///   LoRA: two for every element of A and B forward, four backward, as both factors and the input have gradients.
///   attention: with D the head size, 4 D for every visible pair and head forward, 10 D backward (the scores are computed
///   again); token n of a sequence sees n, so (tokens + 1) / 2 on average.
/// For SmolLM-135M at 256 tokens: 269 + 269 + 14.7 + 8.9 + 22.2 = 584 million.
double flops_per_token(const graft::llama_config& c, index_t rank, long tokens) {
  const double width = static_cast<double>(c.hidden_size), inner = static_cast<double>(c.intermediate_size), r = static_cast<double>(rank);
  const double q = static_cast<double>(c.num_attention_heads * c.head_dim), kv = static_cast<double>(c.num_key_value_heads * c.head_dim);
  const double layers = static_cast<double>(c.num_hidden_layers);
  const double base = layers * (2 * width * q + 2 * width * kv + 3 * width * inner) + width * static_cast<double>(c.vocab_size);
  const double adapters = layers * r * (2 * (width + q) + 2 * (width + kv) + 3 * (width + inner));
  const double pairs = layers * q * (static_cast<double>(tokens) + 1) / 2;
  return 4 * base + 6 * adapters + 14 * pairs;
}

std::vector<std::int32_t> example_sequence(const bench::step_options& o, long b, index_t vocabulary) {
  std::vector<std::int32_t> ids;
  for (long n = 0; n < o.tokens; ++n) ids.push_back(static_cast<std::int32_t>(bench::example_token(b * o.tokens + n, vocabulary)));
  return ids;
}

/// One more step with the meter on: the table, and how much of the step's time its operations explain.
template <class Step>
void print_cost(graft::context& ctx, graft::meter& cost, Step step) {
  ctx.cost = &cost;
  cost.reset();
  const double before = bench::wall_seconds();
  step();
  const double seconds = bench::wall_seconds() - before;
  ctx.cost = nullptr;
  std::fputs(graft::cost_table(cost).c_str(), stderr);
  double explained = 0;
  for (const graft::meter::row& r : cost.operations()) explained += r.forward_seconds + r.backward_seconds;
  bench::print_value("explained_by_operations", explained / seconds);
}

/// Prints the losses of the first steps, or trains for a while and prints rates. A flop count of 0 is unknown.
template <class M>
void train(M& model, const graft::token_batch& batch, const bench::step_options& o, double flops) {
  graft::adamw<float> optimizer(graft::trainable(model), {.lr = bench::step_rate});
  graft::thread_pool pool(o.threads);
  graft::context ctx(pool);
  if (o.bf16) {
    ctx.products = graft::product_precision::bf16;
    bench::print_value("multiplies_in_bf16", graft::kernel::multiplies_in_bf16<float>());
  }
  if (o.int16_saved) ctx.saved = graft::saved_precision::int16;
  if (o.memory_budget > 0) {
    const auto plan = graft::plan_memory(ctx, model, batch, static_cast<std::size_t>(o.memory_budget) << 20);
    bench::print_value("layers_computed_twice", static_cast<double>(plan.computed_twice));
  }
  graft::meter cost;
  graft::data_parallel workers(ctx, model, {.micro_batch = o.micro_batch < 0 ? o.batch : o.micro_batch});
  const auto step = [&] {
    const double loss = workers.loss_and_gradients(batch);
    optimizer.step(ctx);
    return loss;
  };
  bench::print_value("trainable_parameters", static_cast<double>(graft::count_parameters(model, graft::is_trainable)));
  if (!o.verify.empty()) {
    for (int n = 0; n < bench::verified_steps; ++n) bench::print_value(("loss_" + std::to_string(n)).c_str(), step());
    return;
  }
  ctx.cost = &cost;
  const double first_loss = step();
  const double saved_bytes = static_cast<double>(cost.total().peak_saved_bytes);
  double saved_in_layers = 0;
  if constexpr (requires { M::layers_scope; }) saved_in_layers = static_cast<double>(cost.total(M::layers_scope).peak_saved_bytes);
  ctx.cost = nullptr;
  const bench::step_times times = bench::time_steps(o, step);
  if (o.cost) print_cost(ctx, cost, step);
  const std::size_t before = graft::test::allocations();
  const double last_loss = step();
  const std::size_t allocations = graft::test::allocations() - before;

  bench::print_rates(o, times);
  bench::print_value("peak_rss_mib", bench::peak_rss_bytes() / 1048576);  // before the machine is measured, which takes memory too
  bench::print_value("loss_first", first_loss);
  bench::print_value("loss_last", last_loss);
  bench::print_value("saved_mib", saved_bytes / 1048576);
  if (saved_in_layers > 0) bench::print_value("saved_in_layers_mib", saved_in_layers / 1048576);
  bench::print_value("allocations_a_step", static_cast<double>(allocations));
  if (flops == 0) return;
  bench::print_value("mflop_per_token", flops * 1e-6);
  bench::print_value("share_of_peak", flops * static_cast<double>(o.batch * o.tokens) / bench::median(times.computed) / bench::fma_peak());
}

/// A folder with the random model in `dtype`, written by a process of its own: what it took to make is not part of this
/// program's peak memory, as it is not for a user who loads a checkpoint.
class stored_model {
 public:
  explicit stored_model(const bench::step_options& o)
      : folder_(std::filesystem::temp_directory_path() / ("graft_lora_step_" + std::to_string(::getpid()))) {
    const pid_t child = ::fork();
    if (child == 0) {
      write(o);
      std::_Exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (status != 0) graft::throw_error<graft::state_error>("the model in ", o.dtype, " could not be written to ", folder_.string());
  }
  stored_model(const stored_model&) = delete;
  ~stored_model() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path() const { return folder_.string(); }

 private:
  void write(const bench::step_options& o) const try {
    auto model = graft::load_or_make_llama<float>("random:" + o.model);
    graft::store_weights_as(model, bench::parse_dtype(o.dtype));
    std::filesystem::create_directories(folder_);
    graft::save_safetensors(folder_ / "model.safetensors", graft::save_state(model));
    const graft::llama_config& c = model.config;
    std::ofstream(folder_ / "config.json")
        << "{\"model_type\": \"llama\", \"vocab_size\": " << c.vocab_size << ", \"hidden_size\": " << c.hidden_size
        << ", \"intermediate_size\": " << c.intermediate_size << ", \"num_hidden_layers\": " << c.num_hidden_layers
        << ", \"num_attention_heads\": " << c.num_attention_heads << ", \"num_key_value_heads\": " << c.num_key_value_heads
        << ", \"head_dim\": " << c.head_dim << ", \"max_position_embeddings\": " << c.max_position_embeddings
        << ", \"rms_norm_eps\": " << c.rms_norm_eps << ", \"hidden_act\": \"silu\", \"tie_word_embeddings\": "
        << (c.tie_word_embeddings ? "true" : "false") << "}\n";
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_lora_step: %s\n", e.what());
    std::_Exit(1);
  }

  std::filesystem::path folder_;
};

graft::llama<float> make_llama(const bench::step_options& o) {
  if (!o.dtype.empty() && o.verify.empty()) return graft::load_llama<float>(stored_model(o).path());  // stays mapped once its name is gone
  auto model = graft::load_or_make_llama<float>(o.verify.empty() ? "random:" + o.model : o.verify);
  if (!o.dtype.empty()) graft::store_weights_as(model, bench::parse_dtype(o.dtype));
  return model;
}

graft::target_modules last_layer(const graft::llama_config& c) {
  std::vector<std::string> names;
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
    names.push_back("layers." + std::to_string(c.num_hidden_layers - 1) + "." + part);
  return graft::targets(std::move(names));
}

void train_llama(const bench::step_options& o) {
  auto model = make_llama(o);
  if (!o.verify.empty()) graft::load_peft(model, std::filesystem::path(o.verify) / "adapter");
  else if (o.dora) graft::attach(model, graft::all_linear(), graft::dora_options{.lora = lora});
  else if (!o.last_only) graft::attach(model, graft::all_linear(), lora);
  else graft::attach(model, last_layer(model.config), lora);
  model.checkpointed_layers = o.checkpointing ? graft::all_layers : 0;
  graft::token_batch batch;
  for (long b = 0; b < o.batch; ++b) batch.add_with_next_labels(example_sequence(o, b, model.config.vocab_size));
  train(model, batch, o, o.checkpointing || o.last_only || o.dora || o.bf16 || o.memory_budget > 0 ? 0 : flops_per_token(model.config, lora.rank, o.tokens));
}

graft::bert_classifier<float> make_classifier(const bench::step_options& o) {
  if (!o.verify.empty()) {
    auto model = graft::load_bert_classifier<float>(o.verify, 2);
    graft::load_peft(model, std::filesystem::path(o.verify) / "adapter");
    return model;
  }
  graft::bert_classifier<float> model(graft::bert_config::minilm_l6(), 2, graft::pooling::pooler);
  graft::initialize(model, 0);
  graft::attach(model, graft::targets({"query", "value"}), lora);
  return model;
}

void train_classifier(const bench::step_options& o) {
  auto model = make_classifier(o);
  graft::unfreeze(model.classifier);
  model.bert.checkpointed_layers = o.checkpointing ? graft::all_layers : 0;
  graft::token_batch batch;
  for (long b = 0; b < o.batch; ++b) {
    batch.add(example_sequence(o, b, model.bert.config.vocab_size));
    batch.labels.push_back(static_cast<std::int32_t>(b % 2));
  }
  train(model, batch, o, 0);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const bench::step_options o = bench::parse_step_options(argc, argv);
    if (o.model == "minilm") train_classifier(o);
    else train_llama(o);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_lora_step: %s\n", e.what());
    return 1;
  }
}
