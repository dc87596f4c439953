// SPDX-License-Identifier: Apache-2.0
// The tour, 12: threads that belong to somebody else, a pool of std::jthread as a program may have one already. The result depends
// neither on whose they are nor on how many. The end of the tour: examples/apps holds the programs.
// Ends with: on the host's threads both are the same to the bit
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <queue>
#include <stop_token>
#include <thread>
#include <vector>

#include "graft/graft.hpp"

namespace {

/// Stands for the pool a program has already.
class host_pool {
 public:
  explicit host_pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
  int threads() const { return static_cast<int>(threads_.size()); }
  std::future<void> submit(std::function<void()> f) {
    auto task = std::make_shared<std::packaged_task<void()>>(std::move(f));
    const std::lock_guard guard(lock_);
    tasks_.push([task] { (*task)(); });
    ready_.notify_one();
    return task->get_future();
  }

 private:
  void work(const std::stop_token& stop) {
    for (;;) {
      std::unique_lock guard(lock_);
      if (!ready_.wait(guard, stop, [&] { return !tasks_.empty(); })) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop();
      guard.unlock();
      task();
    }
  }
  std::mutex lock_;
  std::condition_variable_any ready_;
  std::queue<std::function<void()>> tasks_;
  std::vector<std::jthread> threads_;  // last: they stop and end before what they use
};

// [excerpt executor]
/// The host's pool as graft sees it. Call graft from outside the pool: a worker that waits for workers may wait for ever.
struct host_executor {
  host_pool& pool;

  graft::index_t concurrency() const { return pool.threads(); }  // how many bodies may run at once
  void parallel_for(graft::index_t n, graft::index_t grain, graft::function_ref<void(graft::index_t, graft::index_t)> body) {
    std::vector<std::future<void>> chunks;  // chunk boundaries depend on n and grain alone
    for (graft::index_t first = 0; first < n; first += grain)
      chunks.push_back(pool.submit([=] { body(first, std::min(first + grain, n)); }));
    for (auto& c : chunks) c.wait();  // every chunk is done before anything is thrown
    for (auto& c : chunks) c.get();
  }
};
static_assert(graft::executor<host_executor>);
// [/excerpt executor]

/// The adapter's values after some steps of training, four sequences a step.
std::vector<float> train(graft::context& ctx) {
  graft::llama<float> model(graft::llama_config::stories_260k());
  graft::initialize(model, 1);
  graft::attach(model, graft::all_linear(), graft::lora_options{.rank = 4});
  graft::adamw<float> optimizer(graft::trainable(model), {.lr = 1e-2});
  graft::random_stream random(7);
  graft::data_parallel workers(ctx, model, {.micro_batch = 1});  // every thread takes whole sequences
  for (std::uint64_t step = 0; step < 3; ++step) {
    graft::token_batch batch;
    for (int s = 0; s < 4; ++s) {
      std::vector<std::int32_t> tokens(24);
      for (auto& t : tokens) t = static_cast<std::int32_t>(random.below(512));
      batch.add_with_next_labels(tokens);
    }
    const double loss = workers.loss_and_gradients(batch, {.training = true, .step = step});
    if (step == 0) std::printf("loss of the first step: %.4f\n", loss);
    optimizer.step(ctx);
  }
  std::vector<float> values;
  for (const auto& p : graft::trainable(model)) values.insert(values.end(), p.parameter->value().begin(), p.parameter->value().end());
  return values;
}

}  // namespace

int main() {
  graft::random_stream random(1);
  const auto a = graft::random_normal<float>(random, {200, 300}), b = graft::random_normal<float>(random, {300, 400});
  // [excerpt use]
  host_pool pool(3);
  host_executor executor{pool};
  graft::context ctx(executor);  // the executor must outlive the context
  const auto product = graft::matmul(ctx, a, b);
  // [/excerpt use]
  graft::context alone;
  const bool same_product = graft::max_abs_difference(product, graft::matmul(alone, a, b)) == 0;
  const bool same_training = train(ctx) == train(alone);
  std::printf("on the host's threads both are %s\n", same_product && same_training ? "the same to the bit" : "DIFFERENT");
}
