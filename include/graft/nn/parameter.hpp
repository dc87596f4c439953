// SPDX-License-Identifier: Apache-2.0
// A named array of a model: trainable, with a gradient, or frozen, shared and in any storage type.
// Read next: nn/module.hpp.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "graft/autograd/var.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/core/tensor.hpp"

namespace graft {

/// The part of a parameter that does not depend on its rank: what optimisers, filters, loading and saving work on.
/// Copying shares what is frozen, which nobody can change, and clones what is trainable.
template <class T>
class parameter_base {
 public:
  parameter_base(const parameter_base& o)
      : tag(o.tag), frozen_(o.frozen_), shape_(o.shape_), rank_(o.rank_), trainable_(o.trainable_) {
    if (trainable_) value_ = o.value_.clone();
  }
  parameter_base(parameter_base&&) noexcept = default;
  parameter_base& operator=(parameter_base&&) noexcept = default;
  parameter_base& operator=(const parameter_base& o) { return *this = parameter_base(o); }
  ~parameter_base() = default;

  bool trainable() const noexcept { return trainable_; }
  dtype type() const noexcept { return trainable_ ? dtype_of<T> : frozen_.type(); }
  std::span<const index_t> shape() const noexcept { return {shape_.data(), rank_}; }
  index_t size() const noexcept { return volume(shape()); }
  std::span<const std::byte> bytes() const noexcept { return trainable_ ? std::as_bytes(value_.span()) : frozen_.bytes(); }

  /// The elements, for optimisers and tests; empty unless trainable.
  std::span<T> value() noexcept { return value_.span(); }
  std::span<const T> value() const noexcept { return value_.span(); }
  /// The gradient that gathered since the last clear_gradient(); empty when none did.
  std::span<T> gradient_values() noexcept { return slot_.written ? gradient_.span() : std::span<T>{}; }
  void clear_gradient() noexcept { slot_.written = false; }

  /// Where tapes put the gradient; null for frozen parameters. The memory is made at the first call.
  gradient_slot<T>* gradient() {
    if (!trainable_) return nullptr;
    if (slot_.data == nullptr) {
      gradient_ = tensor<T, 1>({size()});
      slot_.data = gradient_.data();
    }
    return &slot_;
  }

  /// Makes the values immutable and shareable; drops the gradient. No copy.
  void freeze() {
    if (!trainable_) return;
    auto owner = std::make_shared<tensor<T, 1>>(std::move(value_));
    frozen_ = frozen_array(dtype_of<T>, shape(), reinterpret_cast<const std::byte*>(owner->data()), owner);
    value_ = {};
    gradient_ = {};
    slot_ = {};
    trainable_ = false;
  }
  /// Makes a copy of the values, as T, that can be trained. Throws state_error when there are none yet.
  void unfreeze() {
    if (trainable_) return;
    require_values();
    value_ = tensor<T, 1>({size()});
    convert_array(frozen_.type(), shape(), frozen_.bytes().data(), value_.data());
    frozen_ = {};
    trainable_ = true;
  }

  /// Drops the values and makes the parameter trainable, with uninitialised ones.
  void reset() {
    freeze();
    frozen_ = {};
    value_ = tensor<T, 1>({size()});
    trainable_ = true;
  }

  /// The frozen values to share; for a trainable parameter a copy of the present ones. Throws state_error when there are none yet.
  frozen_array share() const {
    require_values();
    if (!trainable_) return frozen_;
    parameter_base copy = *this;
    copy.freeze();
    return copy.frozen_;
  }
  /// Takes values of the same shape over: shared and frozen when this is frozen, converted and copied when trainable.
  /// Arrays of rank below 2 are kept as T, whatever they came as: they are small, and kernels want them so.
  void assign(const frozen_array& a) {
    GRAFT_ASSERT(std::ranges::equal(a.shape(), shape()));
    if (trainable_) return convert_array(a.type(), shape(), a.bytes().data(), value_.data());
    const bool storage = a.type() == dtype::bf16 || a.type() == dtype::f16 || is_block_format(a.type());
    if (a.template holds<T>() || (storage && rank_ >= 2)) {
      frozen_ = a;
      return;
    }
    unfreeze_from(a);
    freeze();
  }

  std::string_view tag = "base";  ///< a static string that filters may ask for: "base", "adapter", "shared", "local" ...

 protected:
  parameter_base() = default;
  parameter_base(tensor<T, 1> value, std::span<const index_t> shape) : value_(std::move(value)), trainable_(true) { set_shape(shape); }
  explicit parameter_base(std::span<const index_t> shape) { set_shape(shape); }

  const T* elements() const noexcept {
    return trainable_ ? value_.data() : reinterpret_cast<const T*>(frozen_.bytes().data());
  }
  bool holds_elements() const noexcept { return trainable_ || (frozen_.template holds<T>() && (frozen_.bytes().data() != nullptr || size() == 0)); }
  void require_values() const {
    if (!trainable_ && frozen_.bytes().data() == nullptr && size() != 0)
      throw_error<state_error>("a parameter of shape ", to_string(shape()), " has no values yet: load or initialise it first");
  }

 private:
  void set_shape(std::span<const index_t> shape) {
    rank_ = shape.size();
    for (std::size_t i = 0; i < rank_; ++i) shape_[i] = shape[i];
  }
  void unfreeze_from(const frozen_array& a) {
    frozen_ = a;
    unfreeze();
  }

  frozen_array frozen_;
  tensor<T, 1> value_, gradient_;
  gradient_slot<T> slot_;
  std::array<index_t, max_rank> shape_{};
  std::size_t rank_ = 0;
  bool trainable_ = false;
};

/// A parameter of static rank. Default-made it is empty; a shape alone makes a frozen one that waits for its values.
template <class T, std::size_t Rank>
class parameter : public parameter_base<T> {
 public:
  using value_type = T;
  static constexpr std::size_t rank = Rank;

  parameter() : parameter_base<T>(extents<Rank>{}) {}
  /// Frozen, without values yet: load_state() or assign() brings them.
  explicit parameter(extents<Rank> shape) : parameter_base<T>(shape) {}
  /// Trainable, starting from these values.
  explicit parameter(tensor<T, Rank> value) : parameter(value.shape(), std::move(value)) {}

  extents<Rank> extent() const noexcept {
    extents<Rank> e{};
    for (std::size_t i = 0; i < Rank; ++i) e[i] = this->shape()[i];
    return e;
  }
  /// The elements. Throws state_error when they are frozen in another type than T: see matrix().
  tensor_view<const T, Rank> view() const {
    if (!this->holds_elements())
      throw_error<state_error>("a parameter of shape ", to_string(this->shape()), " holds ", name_of(this->type()),
                               " values or none; they cannot be viewed as ", name_of(dtype_of<T>));
    return {this->elements(), extent()};
  }
  /// The elements of a trainable parameter, to change.
  tensor_view<T, Rank> mutable_view() {
    GRAFT_ASSERT(this->trainable());
    return {this->value().data(), extent()};
  }
  /// The elements in whatever type they are stored. Throws state_error when there are none yet.
  matrix_ref matrix() const
    requires(Rank == 2)
  {
    this->require_values();
    return {this->type(), this->bytes().data(), this->shape()[0], this->shape()[1]};
  }

 private:
  parameter(extents<Rank> shape, tensor<T, Rank>&& value)
      : parameter_base<T>(std::move(value).into_shape(extents<1>{volume(shape)}), shape) {}
};

/// One parameter of a model, and where it is. Paths are the dotted names of the published checkpoints.
template <class T>
struct parameter_ref {
  std::string path;
  parameter_base<T>* parameter = nullptr;

  std::string_view tag() const noexcept { return parameter->tag; }
  bool trainable() const noexcept { return parameter->trainable(); }
  dtype type() const noexcept { return parameter->type(); }
  std::span<const index_t> shape() const noexcept { return parameter->shape(); }
};

}  // namespace graft
