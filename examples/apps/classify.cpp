// SPDX-License-Identifier: Apache-2.0
// Text classification: adapters of any kind and a head on a frozen encoder, beside a head alone.
#include <optional>
#include <set>

#include "common/kinds.hpp"
#include "common/table.hpp"
#include "common/training.hpp"
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

namespace {

using graft::index_t;

struct example {
  graft::encoding text;
  std::int32_t label;
};

struct options {
  index_t epochs = 3, batch = 32, max_length = 128, head_epochs = 100;
  double lr = 1e-3, head_lr = 1e-2, gate_rate = 10;
  std::uint64_t seed = 0;
};

std::vector<example> read_examples(const std::string& path, const graft::tokenizer& words, const options& o, std::vector<std::string>& names) {
  std::vector<example> all;
  for (auto& row : app::read_table(path, 2)) {
    const auto at = std::ranges::find(names, row.back());
    if (at == names.end()) graft::throw_error<graft::format_error>("\"", path, "\": label \"", row.back(), "\" does not occur in the training file");
    all.push_back({words.encode(row.front(), {.max_length = o.max_length}), static_cast<std::int32_t>(at - names.begin())});
  }
  return all;
}

graft::token_batch make_batch(const std::vector<example>& from, std::span<const std::size_t> which) {
  graft::token_batch b;
  for (const std::size_t i : which) {
    b.add(from[i].text.ids, from[i].text.type_ids);
    b.labels.push_back(from[i].label);
  }
  return b;
}

std::vector<std::size_t> numbers(std::size_t n) {
  std::vector<std::size_t> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = i;
  return v;
}

/// As many of the longest texts as a step takes.
graft::token_batch largest_batch(const std::vector<example>& from, const options& o) {
  auto order = numbers(from.size());
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) { return from[a].text.ids.size() > from[b].text.ids.size(); });
  return make_batch(from, std::span(order).first(std::min(order.size(), static_cast<std::size_t>(o.batch))));
}

index_t count_right(graft::tensor_view<const float, 2> logits, std::span<const std::int32_t> labels) {
  index_t right = 0;
  for (index_t i = 0; i < logits.shape[0]; ++i) {
    const auto row = logits.row(i).span();
    right += std::ranges::max_element(row) - row.begin() == labels[static_cast<std::size_t>(i)];
  }
  return right;
}

graft::tensor<float, 2> all_logits(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& test) {
  graft::tensor<float, 2> all({std::ssize(test), model.classifier.outputs()});
  const auto order = numbers(test.size());
  for (std::size_t first = 0; first < order.size(); first += 64) {
    graft::tape<float> t(ctx, graft::recording::off);
    const auto y = model.logits(t, make_batch(test, std::span(order).subspan(first, std::min<std::size_t>(64, order.size() - first))));
    std::copy_n(y.value.data, y.value.size(), &all(static_cast<index_t>(first), 0));
  }
  return all;
}

double accuracy(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& test) {
  std::vector<std::int32_t> labels;
  for (const auto& e : test) labels.push_back(e.label);
  const auto logits = all_logits(ctx, model, test);
  return static_cast<double>(count_right(logits.view(), labels)) / static_cast<double>(test.size());
}

/// The pooled vectors of a frozen encoder.
graft::tensor<float, 2> features(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& from) {
  graft::tensor<float, 2> all({std::ssize(from), model.bert.config.hidden_size});
  const auto order = numbers(from.size());
  for (std::size_t first = 0; first < order.size(); first += 64) {
    graft::tape<float> t(ctx, graft::recording::off);
    const auto y = model.bert.pooled(t, make_batch(from, std::span(order).subspan(first, std::min<std::size_t>(64, order.size() - first))), model.pool);
    std::copy_n(y.value.data, y.value.size(), &all(static_cast<index_t>(first), 0));
  }
  return all;
}

/// Trains model.classifier alone, on vectors computed once, and returns the test accuracy.
double train_head(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& train, const std::vector<example>& test, const options& o) {
  const auto x = features(ctx, model, train), held = features(ctx, model, test);
  graft::unfreeze(model.classifier);
  graft::adamw<float> optimizer(graft::trainable(model.classifier), {.lr = o.head_lr, .weight_decay = 0});
  auto order = numbers(train.size());
  const index_t steps_each = (std::ssize(train) + 255) / 256;
  for (index_t epoch = 0; epoch < o.head_epochs; ++epoch) {
    graft::random_stream(o.seed).substream("head").substream(static_cast<std::uint64_t>(epoch)).shuffle(std::span(order));
    for (std::size_t first = 0; first < order.size(); first += 256) {
      const std::size_t n = std::min<std::size_t>(256, order.size() - first);
      graft::tensor<float, 2> rows({static_cast<index_t>(n), x.shape()[1]});
      std::vector<std::int32_t> labels;
      for (std::size_t i = 0; i < n; ++i) {
        std::ranges::copy(x.row(static_cast<index_t>(order[first + i])).span(), &rows(static_cast<index_t>(i), 0));
        labels.push_back(train[order[first + i]].label);
      }
      graft::tape<float> t(ctx);
      t.backward(graft::cross_entropy(t, model.classifier(t, t.constant(graft::tensor_view<const float, 2>(rows.view()))), labels));
      optimizer.step(ctx, graft::cosine_schedule(epoch * steps_each + static_cast<index_t>(first / 256), o.head_epochs * steps_each));
    }
  }
  std::vector<std::int32_t> labels;
  for (const auto& e : test) labels.push_back(e.label);
  graft::tape<float> t(ctx, graft::recording::off);
  const auto logits = model.classifier(t, t.constant(graft::tensor_view<const float, 2>(held.view())));
  return static_cast<double>(count_right(logits.value, labels)) / static_cast<double>(test.size());
}

bool is_gate(std::string_view path) { return path.ends_with(".gate_rows") || path.ends_with(".gate_columns"); }

/// Trains what is trainable, and returns the median time of a step. Gates are driven to their sparsity by a term of the loss.
double train_adapter(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& train, const options& o) {
  const auto parameters = graft::trainable(model);
  // Gates have to travel from 1 to 0 within the run, and nothing pulls them elsewhere.
  const auto rate = [&](const auto& p) { return is_gate(p.path) ? o.gate_rate : 1.0; };
  graft::adamw<float> optimizer(parameters, {.lr = o.lr, .weight_decay = 0.01}, rate);
  const bool gated = std::ranges::any_of(parameters, [](const auto& p) { return is_gate(p.path); });
  const auto batch_size = static_cast<std::size_t>(o.batch);
  const auto total = o.epochs * static_cast<index_t>((train.size() + batch_size - 1) / batch_size);
  app::progress progress("training", static_cast<double>(total), "steps");
  index_t step = 0;
  std::vector<double> seconds;
  for (index_t epoch = 0; epoch < o.epochs; ++epoch) {
    auto order = numbers(train.size());
    graft::random_stream(o.seed).substream("order").substream(static_cast<std::uint64_t>(epoch)).shuffle(std::span(order));
    for (std::size_t first = 0; first < order.size(); first += batch_size, ++step) {
      const auto batch = make_batch(train, std::span(order).subspan(first, std::min(batch_size, order.size() - first)));
      graft::tape<float> t(ctx, graft::recording::on, {.training = true, .step = static_cast<std::uint64_t>(step)});
      const app::stopwatch clock;
      const auto loss = graft::gated_loss(t, model, model.loss(t, batch));
      if (!std::isfinite(loss.item())) graft::throw_error<graft::state_error>("training: the loss is not a number at step ", step, "; try a lower --lr");
      t.backward(loss);
      if (!gated) graft::clip_gradients(parameters, 1.0);  // the gates' term would drown the task's
      optimizer.step(ctx, graft::linear_schedule(step, total, total / 20));
      seconds.push_back(clock.seconds());
      progress.at(static_cast<double>(step + 1), "loss " + std::to_string(loss.item()));
    }
  }
  std::ranges::nth_element(seconds, seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2));
  return seconds[seconds.size() / 2];
}

/// Cuts the closed gates out of the model, and prints what that removed, changed and gained beside the whole encoder.
void prune_gates(graft::context& ctx, graft::bert_classifier<float>& model, graft::bert_classifier<float>& whole, const std::vector<example>& test, app::results& results) {
  const auto gated = all_logits(ctx, model, test);
  const auto report = graft::prune(model);
  const auto pruned = all_logits(ctx, model, test);
  double largest = 0;
  for (index_t i = 0; i < gated.size(); ++i) largest = std::max(largest, static_cast<double>(std::abs(gated.data()[i] - pruned.data()[i])));
  std::vector<double> ratios;  // turn by turn, so that a busy machine slows both
  for (int round = 0; round < 5; ++round) {
    const app::stopwatch of_whole;
    all_logits(ctx, whole, test);
    const double all = of_whole.seconds();
    const app::stopwatch of_pruned;
    all_logits(ctx, model, test);
    ratios.push_back(all / of_pruned.seconds());
  }
  std::ranges::nth_element(ratios, ratios.begin() + 2);
  std::printf("pruned: %td of %td weights left, %.1f %% of the gated layers closed; logits differ by %.1e; %.2f times as fast as the whole encoder\n",
              report.parameters_after, report.parameters_before, 100 * report.gates.parameter_sparsity(), largest, ratios[2]);
  results.update({{"weights_before", report.parameters_before}, {"weights_after", report.parameters_after}, {"sparsity", report.gates.parameter_sparsity()},
                  {"pruned_difference", largest}, {"speedup", ratios[2]}});
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli("Trains adapters and a classification head on a frozen BERT-type encoder.", "classify");
  std::string model_path, train_path, test_path, out, targets = "query,value", pool_name = "mean";
  options o;
  double budget_mib = 0;
  bool int16_saved = false;
  app::kind_options kind;
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder of a BERT-type encoder")->required();
  cli.add_option("--train", train_path, "TSV: text, tab, label")->required();
  cli.add_option("--test", test_path, "TSV: text, tab, label")->required();
  cli.add_option("--out", out, "Folder to write: of PEFT's form for its kinds, else with adapter.safetensors")->required();
  cli.add_option("--kind", kind.kind, "Of the adapters; full trains every weight")->check(CLI::IsMember(app::kinds));
  cli.add_option("--sparsity", kind.sparsity, "Of gates: the share of rows and of columns to close; the encoder is then pruned");
  cli.add_option("--gate-rank", kind.gate_rank, "Of the low-rank part inside gates; 0: none");
  cli.add_option("--rank", kind.lora.rank, "Of LoRA and DoRA");
  cli.add_option("--alpha", kind.lora.alpha, "The update is scaled by alpha / rank");
  cli.add_option("--dropout", kind.lora.dropout, "On the input of the update");
  cli.add_option("--targets", targets, "Names of layers with commas between, all-linear, or a regular expression for whole paths");
  cli.add_option("--epochs", o.epochs, "Passes over the training file")->check(CLI::Range(1, 10000));
  cli.add_option("--batch", o.batch, "Texts a step")->check(CLI::Range(1, 1 << 16));
  cli.add_option("--max-length", o.max_length, "Longer texts are cut to so many tokens")->check(CLI::Range(3, 1 << 16));
  cli.add_option("--lr", o.lr, "Learning rate of adapter and head");
  cli.add_option("--gate-rate", o.gate_rate, "Gates learn so many times as fast");
  cli.add_option("--pool", pool_name, "How token vectors become one: mean, cls, or pooler (as published BERT classifiers)")
      ->check(CLI::IsMember({"mean", "cls", "pooler"}));
  cli.add_option("--head-epochs", o.head_epochs, "Passes over the training file for the head alone; 0: leave that out")->check(CLI::Range(0, 10000));
  cli.add_option("--seed", o.seed, "Of first values, order and dropout");
  cli.add_flag("--int16-saved", int16_saved, "Keep what the backward pass needs in 16 bits a value instead of 32");
  auto* within = cli.add_option("--memory-budget", budget_mib, "MiB for weights, training state and activations: computes as few layers twice as that needs")
                     ->check(CLI::PositiveNumber);
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    kind.lora.validate();
    const app::stopwatch clock;
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    ctx.seed = o.seed;
    if (int16_saved) ctx.saved = graft::saved_precision::int16;
    const auto words = graft::load_tokenizer(model_path);
    std::set<std::string> distinct;
    for (const auto& row : app::read_table(train_path, 2)) distinct.insert(row.back());
    std::vector<std::string> labels(distinct.begin(), distinct.end());
    const auto train = read_examples(train_path, words, o, labels), test = read_examples(test_path, words, o, labels);
    const auto how = pool_name == "mean" ? graft::pooling::mean : pool_name == "cls" ? graft::pooling::cls : graft::pooling::pooler;

    app::results results;
    if (o.head_epochs > 0) {
      auto frozen = graft::load_bert_classifier<float>(model_path, std::ssize(labels), how, o.seed);
      const double frozen_accuracy = train_head(ctx, frozen, train, test, o);
      results["accuracy_frozen_head"] = frozen_accuracy;
      std::printf("frozen encoder, trained head: %.2f %% of %zu test rows\n", 100 * frozen_accuracy, test.size());
      std::fflush(stdout);
    }
    auto model = graft::load_bert_classifier<float>(model_path, std::ssize(labels), how, o.seed);
    const auto adapted = app::attach_kind(model, app::parse_targets(targets), kind, o.seed);
    graft::unfreeze(model.classifier);
    const auto trainable = graft::count_parameters(model, graft::is_trainable);
    std::optional<graft::memory_plan> plan;
    if (*within) plan = app::plan_within(ctx, model, largest_batch(train, o), budget_mib);
    ctx.pool().reset_peak();  // the head alone has had its own
    const double step_seconds = train_adapter(ctx, model, train, o);
    const auto used = graft::memory_in_use(ctx, model);
    if (plan) app::print_memory(*plan, used);
    const double reached = accuracy(ctx, model, test);
    const auto bytes = app::save_kind(model, kind, out, {.base_model_name = model_path, .task_type = how == graft::pooling::pooler ? "SEQ_CLS" : ""});
    std::printf("%s on %td layers, %td trainable parameters: %.2f %%; %.0f s in all, %.0f ms a step; adapter in %s\n", kind.kind.c_str(), adapted, trainable,
                100 * reached, clock.seconds(), 1000 * step_seconds, out.c_str());
    results.update({{"accuracy", reached}, {"trainable", trainable}, {"bytes", bytes}, {"step_seconds", step_seconds}, {"seconds", clock.seconds()},
                    {"peak_rss_bytes", app::peak_rss_bytes()}, {"checkpointed_layers", model.bert.checkpointed_layers},
                    {"memory_predicted_bytes", plan ? plan->predicted.total() : 0}, {"memory_used_bytes", used.total()}});
    if (kind.kind == "gates") {
      auto whole = graft::load_bert_classifier<float>(model_path, std::ssize(labels), how, o.seed);
      prune_gates(ctx, model, whole, test, results);
    }
    common.write(results);
  });
}
