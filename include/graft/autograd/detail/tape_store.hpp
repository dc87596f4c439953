// SPDX-License-Identifier: Apache-2.0
// What of a tape does not depend on the element type: nodes, closures and kept buffers in pool memory, and the path of modules.
// Read next: autograd/tape.hpp.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "graft/autograd/meter.hpp"
#include "graft/autograd/var.hpp"
#include "graft/core/context.hpp"

namespace graft::detail {

/// A buffer a node keeps for its backward pass, in a list. Lives in the tape's arena.
struct saved_buffer {
  buffer_handle buffer;
  saved_buffer* next;
  meter::place place;
};

struct tape_node;

/// How a node gives its value once more, where that is cheap: computed, or widened. Lives in the arena.
struct repeatable {
  void (*fill)(tape_node&, void* tape, void* to);
  const void* first;      // where the value stood: what has the node's number but lies elsewhere is another one
  buffer_handle rounded;  // what fill() widens, if it does
  buffer_handle value;    // in the backward pass, once somebody asked
};

struct tape_node {
  void (*run)(tape_node&, void* tape) = nullptr;  // null for leaves
  void* closure = nullptr;                        // what run captured; of a leaf, its gradient_slot
  repeatable* again = nullptr;
  buffer_handle gradient;  // what arrived so far
  saved_buffer* saved = nullptr;
  meter::place place;      // of the operation, while a meter listens
  extents<max_rank> shape{};

  bool is_leaf() const noexcept { return run == nullptr; }
};

/// An arena of nodes and closures in pool memory.
class tape_store {
 public:
  explicit tape_store(context& c) : ctx_(c) {}
  tape_store(const tape_store&) = delete;
  ~tape_store() {
    for (node_id i = count_; i-- > 0;) {
      release_saved(node(i));
      node(i).~tape_node();
    }
    drop_pending();
    while (chunks_) chunks_ = std::move(*reinterpret_cast<buffer_handle*>(buffer_handle(chunks_).data()));
  }

  context& ctx() noexcept { return ctx_; }
  node_id count() const noexcept { return count_; }
  tape_node& node(node_id i) noexcept {
    // Blocks double: block b holds nodes [first << b - first, ...), found by the position of the highest bit.
    const auto n = static_cast<std::uint32_t>(i) + first_block;
    const auto b = static_cast<std::uint32_t>(std::bit_width(n)) - static_cast<std::uint32_t>(std::bit_width(first_block));
    return blocks_[b][n - (first_block << b)];
  }
  node_id add_node() {
    const auto n = static_cast<std::uint32_t>(count_) + first_block;
    const auto b = static_cast<std::uint32_t>(std::bit_width(n)) - static_cast<std::uint32_t>(std::bit_width(first_block));
    if (n == first_block << b) blocks_[b] = static_cast<tape_node*>(allocate(sizeof(tape_node) * (first_block << b)));
    ::new (&blocks_[b][n - (first_block << b)]) tape_node;
    return count_++;
  }

  /// Arena memory, aligned to 16 bytes, that lives as long as the tape.
  void* allocate(std::size_t bytes) {
    bytes = (bytes + 15) / 16 * 16;
    if (bytes > static_cast<std::size_t>(arena_end_ - arena_)) {
      constexpr std::size_t header = 64, typical = 32 << 10;
      buffer_handle chunk = ctx_.pool().take(header + std::max(bytes, typical));
      arena_ = chunk.data() + header;
      arena_end_ = chunk.data() + chunk.capacity();
      ::new (chunk.data()) buffer_handle(std::move(chunks_));
      chunks_ = std::move(chunk);
    }
    return std::exchange(arena_, arena_ + bytes);
  }

  /// Keeps a buffer for the node that is recorded next.
  void save(const buffer_handle& b) {
    if (!b) return;
    pending_ = ::new (allocate(sizeof(saved_buffer))) saved_buffer{b, pending_, {}};
  }
  void drop_pending() noexcept {
    while (pending_ != nullptr) std::exchange(pending_, pending_->next)->~saved_buffer();
  }
  /// Gives the pending buffers to a node, beside those it has.
  void keep_pending(tape_node& n) {
    while (pending_ != nullptr) {
      saved_buffer* const s = std::exchange(pending_, pending_->next);
      s->next = std::exchange(n.saved, s);
      s->place = n.place;
      if (ctx_.cost != nullptr && s->buffer.saves()++ == 0) ctx_.cost->save(n.place, s->buffer.capacity());
    }
  }
  void release_saved(tape_node& n) noexcept {
    if (n.again != nullptr) n.again->value = n.again->rounded = {};
    while (n.saved != nullptr) release(std::exchange(n.saved, n.saved->next));
  }

  // What a meter hears, where one listens.
  meter::place finish_forward(std::string_view op, std::uint64_t flops, bool recorded) {
    if (ctx_.cost == nullptr) return {};
    if (path_length_ == 0) module_ = ctx_.cost->module_row({});
    const meter::place at{module_, ctx_.cost->operation_row(op)};
    ctx_.cost->count_forward(at, flops, recorded);
    return at;
  }
  void finish_backward(const tape_node& n) {
    if (ctx_.cost != nullptr) ctx_.cost->count_backward(n.place);
  }
  void leave_operations() {
    if (ctx_.cost != nullptr) ctx_.cost->count_outside();
  }

  // The module path, kept only while a meter listens.
  std::size_t enter(std::string_view name) {
    const std::size_t before = path_length_;
    if (ctx_.cost == nullptr || path_length_ + name.size() + 1 > sizeof path_) return before;
    if (path_length_ != 0) path_[path_length_++] = '.';
    std::memcpy(path_ + path_length_, name.data(), name.size());
    path_length_ += name.size();
    module_ = ctx_.cost->module_row({path_, path_length_});
    return before;
  }
  void leave(std::size_t before) {
    path_length_ = before;
    if (ctx_.cost != nullptr) module_ = ctx_.cost->module_row({path_, path_length_});
  }
  std::string_view path() const noexcept { return {path_, path_length_}; }

 private:
  void release(saved_buffer* s) noexcept {
    if (ctx_.cost != nullptr && s->buffer.saves() > 0 && --s->buffer.saves() == 0)
      ctx_.cost->release(s->place, s->buffer.capacity());
    s->~saved_buffer();
  }

  static constexpr std::uint32_t first_block = 64;
  context& ctx_;
  tape_node* blocks_[24] = {};
  node_id count_ = 0;
  std::byte *arena_ = nullptr, *arena_end_ = nullptr;
  buffer_handle chunks_;  // a list: every chunk begins with the handle of the one before it
  saved_buffer* pending_ = nullptr;
  std::uint32_t module_ = 0;
  std::size_t path_length_ = 0;
  char path_[240];
};

}  // namespace graft::detail
