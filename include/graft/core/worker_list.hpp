// SPDX-License-Identifier: Apache-2.0
// What every body of a parallel_for needs one of: a context, a replica of a model. Read next: models/data_parallel.hpp.
#pragma once
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace graft {

/// Lends workers to bodies that run at once, and keeps them for the next: as many exist as ever ran together. Which body
/// gets which worker depends on timing, so a worker carries memory from one to the next and never results.
template <class W>
class worker_list {
 public:
  /// Holds one worker until destroyed.
  class lease {
   public:
    lease(worker_list& from, std::unique_ptr<W> w) noexcept : from_(from), worker_(std::move(w)) {}
    lease(const lease&) = delete;
    ~lease() {
      const std::lock_guard guard(from_.lock_);
      from_.idle_.push_back(std::move(worker_));  // there is room: it was made before
    }
    W& operator*() const noexcept { return *worker_; }
    W* operator->() const noexcept { return worker_.get(); }

   private:
    worker_list& from_;
    std::unique_ptr<W> worker_;
  };

  /// An idle worker, else make()'s, which is called by one thread at a time.
  template <class Make>
  lease take(Make make) {
    const std::lock_guard guard(lock_);
    if (idle_.empty()) {
      idle_.reserve(++made_);
      return lease(*this, std::unique_ptr<W>(new W(make())));
    }
    auto worker = std::move(idle_.back());
    idle_.pop_back();
    return lease(*this, std::move(worker));
  }

 private:
  std::mutex lock_;
  std::vector<std::unique_ptr<W>> idle_;
  std::size_t made_ = 0;
};

}  // namespace graft
