// SPDX-License-Identifier: Apache-2.0
// Text classification: a LoRA adapter and a head on a frozen encoder, beside a head alone.
#include <set>

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
  double lr = 1e-3, head_lr = 1e-2;
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

index_t count_right(graft::tensor_view<const float, 2> logits, std::span<const std::int32_t> labels) {
  index_t right = 0;
  for (index_t i = 0; i < logits.shape[0]; ++i) {
    const auto row = logits.row(i).span();
    right += std::ranges::max_element(row) - row.begin() == labels[static_cast<std::size_t>(i)];
  }
  return right;
}

double accuracy(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& test) {
  const auto order = numbers(test.size());
  index_t right = 0;
  for (std::size_t first = 0; first < order.size(); first += 64) {
    const auto batch = make_batch(test, std::span(order).subspan(first, std::min<std::size_t>(64, order.size() - first)));
    graft::tape<float> t(ctx, graft::recording::off);
    right += count_right(model.logits(t, batch).value, batch.labels);
  }
  return static_cast<double>(right) / static_cast<double>(test.size());
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

void train_adapter(graft::context& ctx, graft::bert_classifier<float>& model, const std::vector<example>& train, const options& o) {
  const auto parameters = graft::trainable(model);
  graft::adamw<float> optimizer(parameters, {.lr = o.lr, .weight_decay = 0.01});
  const auto batch_size = static_cast<std::size_t>(o.batch);
  const auto total = o.epochs * static_cast<index_t>((train.size() + batch_size - 1) / batch_size);
  app::progress progress("training", static_cast<double>(total), "steps");
  index_t step = 0;
  for (index_t epoch = 0; epoch < o.epochs; ++epoch) {
    auto order = numbers(train.size());
    graft::random_stream(o.seed).substream("order").substream(static_cast<std::uint64_t>(epoch)).shuffle(std::span(order));
    for (std::size_t first = 0; first < order.size(); first += batch_size, ++step) {
      const auto batch = make_batch(train, std::span(order).subspan(first, std::min(batch_size, order.size() - first)));
      graft::tape<float> t(ctx, graft::recording::on, {.training = true, .step = static_cast<std::uint64_t>(step)});
      const auto loss = model.loss(t, batch);
      if (!std::isfinite(loss.item())) graft::throw_error<graft::state_error>("training: the loss is not a number at step ", step, "; try a lower --lr");
      t.backward(loss);
      graft::clip_gradients(parameters, 1.0);
      optimizer.step(ctx, graft::linear_schedule(step, total, total / 20));
      progress.at(static_cast<double>(step + 1), "loss " + std::to_string(loss.item()));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli("Trains a LoRA adapter and a classification head on a frozen BERT-type encoder.", "classify");
  std::string model_path, train_path, test_path, out, targets = "query,value", pool_name = "mean";
  options o;
  graft::lora_options lora{.rank = 8, .alpha = 16, .dropout = 0.1};
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder of a BERT-type encoder")->required();
  cli.add_option("--train", train_path, "TSV: text, tab, label")->required();
  cli.add_option("--test", test_path, "TSV: text, tab, label")->required();
  cli.add_option("--out", out, "PEFT folder to write")->required();
  cli.add_option("--rank", lora.rank, "Of the adapters");
  cli.add_option("--alpha", lora.alpha, "The update is scaled by alpha / rank");
  cli.add_option("--dropout", lora.dropout, "On the input of the update");
  cli.add_option("--targets", targets, "Names of layers with commas between, all-linear, or a regular expression for whole paths");
  cli.add_option("--epochs", o.epochs, "Passes over the training file")->check(CLI::Range(1, 10000));
  cli.add_option("--batch", o.batch, "Texts a step")->check(CLI::Range(1, 1 << 16));
  cli.add_option("--max-length", o.max_length, "Longer texts are cut to so many tokens")->check(CLI::Range(3, 1 << 16));
  cli.add_option("--lr", o.lr, "Learning rate of adapter and head");
  cli.add_option("--pool", pool_name, "How token vectors become one: mean, cls, or pooler (as published BERT classifiers)")
      ->check(CLI::IsMember({"mean", "cls", "pooler"}));
  cli.add_option("--seed", o.seed, "Of first values, order and dropout");
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    lora.validate();
    const app::stopwatch clock;
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    ctx.seed = o.seed;
    const auto words = graft::load_tokenizer(model_path);
    std::set<std::string> distinct;
    for (const auto& row : app::read_table(train_path, 2)) distinct.insert(row.back());
    std::vector<std::string> labels(distinct.begin(), distinct.end());
    const auto train = read_examples(train_path, words, o, labels), test = read_examples(test_path, words, o, labels);
    const auto how = pool_name == "mean" ? graft::pooling::mean : pool_name == "cls" ? graft::pooling::cls : graft::pooling::pooler;

    auto frozen = graft::load_bert_classifier<float>(model_path, std::ssize(labels), how, o.seed);
    const double frozen_accuracy = train_head(ctx, frozen, train, test, o);
    std::printf("frozen encoder, trained head: %.2f %% of %zu test rows\n", 100 * frozen_accuracy, test.size());
    std::fflush(stdout);

    auto model = graft::load_bert_classifier<float>(model_path, std::ssize(labels), how, o.seed);
    const auto adapted = graft::attach(model, app::parse_targets(targets), lora, {.seed = o.seed});
    graft::unfreeze(model.classifier);
    const auto trainable = graft::count_parameters(model, graft::is_trainable);
    train_adapter(ctx, model, train, o);
    const double lora_accuracy = accuracy(ctx, model, test);
    graft::save_peft(model, out, {.base_model_name = model_path, .task_type = how == graft::pooling::pooler ? "SEQ_CLS" : ""});
    std::printf("LoRA on %td layers, %td trainable parameters: %.2f %%; %.0f s in all; adapter in %s\n", adapted, trainable, 100 * lora_accuracy, clock.seconds(), out.c_str());
    common.write({{"accuracy", lora_accuracy}, {"accuracy_frozen_head", frozen_accuracy}, {"seconds", clock.seconds()}, {"peak_rss_bytes", app::peak_rss_bytes()}});
  });
}
