// SPDX-License-Identifier: Apache-2.0
// Recycled memory for activations: a pool of counted buffers, and scratch space for kernels. Read next: core/context.hpp.
#pragma once
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "graft/core/error.hpp"
#include "graft/core/extents.hpp"

namespace graft {

class activation_pool;

namespace detail {

/// Stands in the 64 bytes before a buffer's data.
struct alignas(64) buffer_header {
  activation_pool* pool;
  buffer_header* next;  // while in a free list
  std::size_t capacity;
  std::int32_t references;
  std::uint32_t size_class;
  std::int32_t saves;  // how many tape nodes keep it for backward: a meter counts its bytes once
};

}  // namespace detail

/// A counted reference to a buffer of a pool; the last one gives the buffer back. Not thread-safe, like its pool.
class buffer_handle {
 public:
  buffer_handle() noexcept = default;
  buffer_handle(const buffer_handle& o) noexcept : header_(o.header_) {
    if (header_ != nullptr) ++header_->references;
  }
  buffer_handle(buffer_handle&& o) noexcept : header_(std::exchange(o.header_, nullptr)) {}
  buffer_handle& operator=(buffer_handle o) noexcept {
    std::swap(header_, o.header_);
    return *this;
  }
  inline ~buffer_handle();

  explicit operator bool() const noexcept { return header_ != nullptr; }
  bool unique() const noexcept { return header_ != nullptr && header_->references == 1; }
  std::byte* data() const noexcept { return reinterpret_cast<std::byte*>(header_ + 1); }
  std::size_t capacity() const noexcept { return header_ == nullptr ? 0 : header_->capacity; }
  std::int32_t& saves() const noexcept { return header_->saves; }
  friend bool operator==(const buffer_handle& a, const buffer_handle& b) noexcept { return a.header_ == b.header_; }

 private:
  friend class activation_pool;
  explicit buffer_handle(detail::buffer_header* h) noexcept : header_(h) {}
  detail::buffer_header* header_ = nullptr;
};

/// Size-classed free lists. A step that repeats finds every buffer it needs here, so it allocates nothing; what the pool
/// holds beyond the live buffers stays below a quarter of the peak plus 32 MiB. Not thread-safe: one per context.
class activation_pool {
 public:
  activation_pool() = default;
  activation_pool(const activation_pool&) = delete;
  activation_pool& operator=(const activation_pool&) = delete;
  ~activation_pool() {
    GRAFT_ASSERT(live_ == 0);  // a buffer_handle outlived its context
    release_free();
  }

  /// A buffer of at least `bytes` uninitialised bytes, aligned to 64.
  buffer_handle take(std::size_t bytes) {
    const std::uint32_t wanted = class_of(bytes);
    detail::buffer_header* h = pop(wanted);
    if (h == nullptr) h = pop(wanted + 1);
    if (h == nullptr) h = pop(wanted + 2);
    if (h == nullptr) h = allocate(wanted);
    h->references = 1;
    live_ += h->capacity;
    if (live_ > peak_) peak_ = live_;
    return buffer_handle(h);
  }

  std::size_t live_bytes() const noexcept { return live_; }
  std::size_t peak_bytes() const noexcept { return peak_; }
  std::size_t free_bytes() const noexcept { return free_; }
  void reset_peak() noexcept { peak_ = live_; }

  /// Gives every unused buffer back to the system.
  void release_free() noexcept {
    for (auto& list : lists_)
      while (list != nullptr) destroy(std::exchange(list, list->next));
  }

 private:
  friend class buffer_handle;
  static constexpr std::size_t smallest = 64;
  static constexpr std::uint32_t classes = 8 * 48;  // eight to an octave: at most 12.5 % of a buffer is unused

  static std::uint32_t class_of(std::size_t bytes) noexcept {
    if (bytes <= smallest) return 0;
    const auto octave = static_cast<std::uint32_t>(std::bit_width(bytes - 1)) - 7;  // 65..128 -> 0
    const std::size_t step = smallest / 8 << octave;
    return octave * 8 + static_cast<std::uint32_t>((bytes - (smallest << octave) + step - 1) / step);
  }
  static std::size_t capacity_of(std::uint32_t c) noexcept {
    const std::size_t bytes = (smallest << (c / 8)) + (c % 8) * (smallest / 8 << (c / 8));
    return (bytes + 63) / 64 * 64;
  }

  detail::buffer_header* pop(std::uint32_t c) noexcept {
    if (c >= classes || lists_[c] == nullptr) return nullptr;
    detail::buffer_header* h = std::exchange(lists_[c], lists_[c]->next);
    free_ -= h->capacity;
    return h;
  }

  detail::buffer_header* allocate(std::uint32_t c) {
    if (c >= classes) throw_error<shape_error>("activation pool: a buffer of class ", c, " is beyond any memory");
    const std::size_t capacity = capacity_of(c);
    const std::size_t wanted = live_ + capacity, most = wanted > peak_ ? wanted : peak_;
    if (wanted + free_ > most * 5 / 4 + (std::size_t{32} << 20)) release_free();
    void* memory = ::operator new(sizeof(detail::buffer_header) + capacity, std::align_val_t{64});
    return ::new (memory) detail::buffer_header{this, nullptr, capacity, 0, c, 0};
  }

  void give_back(detail::buffer_header* h) noexcept {
    live_ -= h->capacity;
    free_ += h->capacity;
    h->next = std::exchange(lists_[h->size_class], h);
  }

  void destroy(detail::buffer_header* h) noexcept {
    free_ -= h->capacity;
    ::operator delete(static_cast<void*>(h), std::align_val_t{64});
  }

  std::array<detail::buffer_header*, classes> lists_{};
  std::size_t live_ = 0, peak_ = 0, free_ = 0;
};

inline buffer_handle::~buffer_handle() {
  if (header_ != nullptr && --header_->references == 0) header_->pool->give_back(header_);
}

/// Scratch space for kernel bodies that run on any thread: a kernel reserves, then each body leases one slot while it
/// runs. There are more slots than bodies that may run at once, so a free one is found at once.
class scratch_space {
 public:
  explicit scratch_space(index_t concurrency)
      : count_(static_cast<std::size_t>(concurrency) + 1), slots_(new slot[count_]) {}
  scratch_space(const scratch_space&) = delete;
  scratch_space& operator=(const scratch_space&) = delete;
  ~scratch_space() {
    ::operator delete(memory_, std::align_val_t{64});
    delete[] slots_;
  }

  /// Holds one slot until destroyed.
  class lease {
   public:
    lease(const lease&) = delete;
    ~lease() { busy_.clear(std::memory_order_release); }
    template <class T>
    T* as() const noexcept { return reinterpret_cast<T*>(data_); }

   private:
    friend class scratch_space;
    lease(std::atomic_flag& busy, std::byte* data) noexcept : busy_(busy), data_(data) {}
    std::atomic_flag& busy_;
    std::byte* data_;
  };

  /// Makes every slot hold at least `bytes`. Only while no lease is out: the context's own thread calls this.
  void reserve(std::size_t bytes) {
    if (bytes <= slot_bytes_) return;
    ::operator delete(std::exchange(memory_, nullptr), std::align_val_t{64});
    slot_bytes_ = 0;
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    memory_ = static_cast<std::byte*>(::operator new(rounded * count_, std::align_val_t{64}));
    slot_bytes_ = rounded;
  }

  /// Of all slots together.
  std::size_t bytes() const noexcept { return slot_bytes_ * count_; }

  /// A slot of the reserved size, aligned to 64 bytes. Safe from any thread.
  lease take() noexcept {
    for (std::size_t i = 0;; i = (i + 1) % count_)
      if (!slots_[i].busy.test_and_set(std::memory_order_acquire)) return lease(slots_[i].busy, memory_ + i * slot_bytes_);
  }

 private:
  struct alignas(64) slot {
    std::atomic_flag busy;
  };

  std::size_t count_;
  slot* slots_;
  std::byte* memory_ = nullptr;
  std::size_t slot_bytes_ = 0;
};

}  // namespace graft
