// SPDX-License-Identifier: Apache-2.0
// graft on threads that belong to somebody else. The result does not depend on whose they are, or how many.
// Ends with: on the host's threads the product is the same to the bit
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

#include "graft/graft.hpp"

namespace {

/// Stands for the pool a program has already.
class host_pool {
 public:
  explicit host_pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~host_pool() {
    for (std::size_t i = 0; i < threads_.size(); ++i) post({});
    for (auto& t : threads_) t.join();
  }
  int threads() const { return static_cast<int>(threads_.size()); }
  std::future<void> submit(std::function<void()> f) {
    auto task = std::make_shared<std::packaged_task<void()>>(std::move(f));
    post([task] { (*task)(); });
    return task->get_future();
  }

 private:
  void post(std::function<void()> f) {
    const std::lock_guard guard(lock_);
    tasks_.push(std::move(f));
    ready_.notify_one();
  }
  void work() {
    for (;;) {
      std::unique_lock guard(lock_);
      ready_.wait(guard, [&] { return !tasks_.empty(); });
      const auto task = std::move(tasks_.front());
      tasks_.pop();
      guard.unlock();
      if (!task) return;
      task();
    }
  }
  std::mutex lock_;
  std::condition_variable ready_;
  std::queue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
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
  const bool same = graft::max_abs_difference(product, graft::matmul(a, b)) == 0;
  std::printf("on the host's threads the product is %s\n", same ? "the same to the bit" : "DIFFERENT");
}
