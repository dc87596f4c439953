// SPDX-License-Identifier: Apache-2.0
// Arrays with a static rank: tensor_view looks, tensor owns. Read next: tensor/ for operations, core/frozen_array.hpp.
#pragma once
#include <array>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "graft/core/dtype.hpp"
#include "graft/core/error.hpp"
#include "graft/core/extents.hpp"

namespace graft {

template <class T, std::size_t Rank>
class tensor;

/// A strided window onto elements somebody else owns. Trivially copyable; T may be const; never owns.
/// Reshaping views (slice, select, transpose, permute, reshape) cost nothing and share the elements.
template <class T, std::size_t Rank>
struct tensor_view {
  static_assert(Rank <= max_rank, "graft: tensors have at most four dimensions");
  using value_type = std::remove_const_t<T>;
  static constexpr std::size_t rank = Rank;

  T* data = nullptr;
  extents<Rank> shape{};
  extents<Rank> stride{};  // in elements

  constexpr tensor_view() = default;
  constexpr tensor_view(T* first, extents<Rank> s) : data(first), shape(s), stride(row_major_strides(s)) {}
  constexpr tensor_view(T* first, extents<Rank> s, extents<Rank> steps) : data(first), shape(s), stride(steps) {}

  /// The contiguous elements of a span seen as an array of this shape. Throws shape_error unless the sizes agree.
  tensor_view(std::span<T> elements, extents<Rank> s) : tensor_view(elements.data(), s) {
    if (static_cast<index_t>(elements.size()) != size())
      throw_error<shape_error>("tensor_view: ", elements.size(), " elements cannot be seen as ", to_string(s));
  }

  operator tensor_view<const T, Rank>() const
    requires(!std::is_const_v<T>)
  {
    return {data, shape, stride};
  }

  constexpr index_t size() const noexcept { return volume(shape); }
  constexpr bool contiguous() const noexcept {
    index_t step = 1;
    for (std::size_t i = Rank; i-- > 0;) {
      if (shape[i] != 1 && stride[i] != step) return false;
      step *= shape[i];
    }
    return true;
  }

  template <class... I>
  T& operator()(I... indices) const {
    static_assert(sizeof...(I) == Rank, "graft: give one index per dimension of the tensor");
    const extents<Rank> at{static_cast<index_t>(indices)...};
    index_t offset = 0;
    for (std::size_t i = 0; i < Rank; ++i) {
      GRAFT_ASSERT(at[i] >= 0 && at[i] < shape[i]);
      offset += at[i] * stride[i];
    }
    return data[offset];
  }

  /// A contiguous copy, which owns its elements.
  tensor<value_type, Rank> clone() const { return tensor<value_type, Rank>::copy_of(*this); }

  /// The elements as one span. Throws shape_error unless they are contiguous.
  std::span<T> span() const {
    if (!contiguous()) throw_error<shape_error>("span: a view of shape ", to_string(shape), " is not contiguous");
    return {data, static_cast<std::size_t>(size())};
  }

  /// Elements first, first + step, ... below last along one axis.
  tensor_view slice(std::size_t axis, index_t first, index_t last, index_t step = 1) const {
    check_axis("slice", axis);
    if (first < 0 || last < first || last > shape[axis] || step < 1)
      throw_error<shape_error>("slice: [", first, ", ", last, ") step ", step, " does not lie in axis ", axis, " of ",
                               to_string(shape));
    tensor_view v = *this;
    v.data += first * stride[axis];
    v.shape[axis] = (last - first + step - 1) / step;
    v.stride[axis] *= step;
    return v;
  }

  /// The sub-array at one position of one axis, which disappears.
  tensor_view<T, Rank == 0 ? 0 : Rank - 1> select(std::size_t axis, index_t at) const {
    static_assert(Rank >= 1, "graft: a rank-0 tensor has no axis to select from");
    check_axis("select", axis);
    if (at < 0 || at >= shape[axis])
      throw_error<shape_error>("select: position ", at, " does not lie in axis ", axis, " of ", to_string(shape));
    tensor_view<T, Rank - 1> v;
    v.data = data + at * stride[axis];
    for (std::size_t from = 0, to = 0; from < Rank; ++from)
      if (from != axis) {
        v.shape[to] = shape[from];
        v.stride[to++] = stride[from];
      }
    return v;
  }

  /// Row i: the sub-array at position i of the first axis.
  tensor_view<T, Rank == 0 ? 0 : Rank - 1> row(index_t i) const { return select(0, i); }

  /// The last two axes exchanged.
  tensor_view transpose() const {
    static_assert(Rank >= 2, "graft: transpose() needs a tensor of rank 2 or more");
    tensor_view v = *this;
    std::swap(v.shape[Rank - 1], v.shape[Rank - 2]);
    std::swap(v.stride[Rank - 1], v.stride[Rank - 2]);
    return v;
  }

  /// Axis i of the result is axis order[i] of this view.
  tensor_view permute(std::array<std::size_t, Rank> order) const {
    tensor_view v = *this;
    std::array<bool, Rank> seen{};
    for (std::size_t i = 0; i < Rank; ++i) {
      if (order[i] >= Rank || seen[order[i]])
        throw_error<shape_error>("permute: the order must name each of the ", Rank, " axes once");
      seen[order[i]] = true;
      v.shape[i] = shape[order[i]];
      v.stride[i] = stride[order[i]];
    }
    return v;
  }

  /// The same contiguous elements under another shape.
  template <std::size_t NewRank>
  tensor_view<T, NewRank> reshape(extents<NewRank> s) const {
    if (!contiguous())
      throw_error<shape_error>("reshape: a view of shape ", to_string(shape), " is not contiguous; clone() it first");
    if (volume(s) != size())
      throw_error<shape_error>("reshape: ", to_string(shape), " has ", size(), " elements, ", to_string(s), " has ",
                               volume(s));
    return {data, s};
  }
  template <class... I>
  tensor_view<T, sizeof...(I)> reshape(I... s) const {
    return reshape(extents<sizeof...(I)>{static_cast<index_t>(s)...});
  }

 private:
  void check_axis(std::string_view what, std::size_t axis) const {
    if (axis >= Rank) throw_error<shape_error>(what, ": axis ", axis, " of a tensor of rank ", Rank);
  }
};

namespace detail {

/// Nested braces of the right depth: {1, 2} for rank 1, {{1, 2}, {3, 4}} for rank 2.
template <class T, std::size_t Rank> struct nested { using type = std::initializer_list<typename nested<T, Rank - 1>::type>; };
template <class T> struct nested<T, 0> { using type = T; };
template <class T, std::size_t Rank> using nested_list = typename nested<T, Rank>::type;

template <class T, std::size_t Rank, std::size_t Axis = 0>
void shape_of(const nested_list<T, Rank - Axis>& list, extents<Rank>& shape) {
  if constexpr (Axis < Rank) {
    shape[Axis] = static_cast<index_t>(list.size());
    if constexpr (Axis + 1 < Rank)
      if (list.size() != 0) shape_of<T, Rank, Axis + 1>(*list.begin(), shape);
  }
}

template <class T, std::size_t Rank, std::size_t Axis = 0>
T* copy_list(const nested_list<T, Rank - Axis>& list, const extents<Rank>& shape, T* out) {
  if (static_cast<index_t>(list.size()) != shape[Axis])
    throw_error<shape_error>("tensor: nested lists differ in length: ", list.size(), " where ", shape[Axis], " came first");
  for (const auto& item : list) {
    if constexpr (Axis + 1 == Rank) *out++ = item;
    else out = copy_list<T, Rank, Axis + 1>(item, shape, out);
  }
  return out;
}

/// Visits two views of the same shape element by element, in row-major order.
template <class A, class B, std::size_t Rank, class F>
void zip_elements(tensor_view<A, Rank> a, tensor_view<B, Rank> b, F&& f) {
  if constexpr (Rank == 0) {
    f(*a.data, *b.data);
  } else if constexpr (Rank == 1) {
    for (index_t i = 0; i < a.shape[0]; ++i) f(a.data[i * a.stride[0]], b.data[i * b.stride[0]]);
  } else {
    for (index_t i = 0; i < a.shape[0]; ++i) zip_elements(a.row(i), b.row(i), f);
  }
}

inline constexpr std::align_val_t tensor_alignment{64};

}  // namespace detail

/// Sole owner of a contiguous row-major array, aligned to 64 bytes. Move-only: clone() spells a copy out.
template <class T, std::size_t Rank>
class tensor {
  static_assert(Rank <= max_rank, "graft: tensors have at most four dimensions");
  static_assert(std::is_trivially_copyable_v<T>, "graft: tensor elements are plain numbers");

 public:
  using value_type = T;
  static constexpr std::size_t rank = Rank;

  tensor() = default;

  /// Uninitialised elements; zeros() when you need zeros. Throws shape_error on negative or overflowing extents.
  explicit tensor(extents<Rank> shape) : shape_(shape) {
    const std::size_t bytes = checked_bytes(shape, sizeof(T));
    if (bytes != 0) data_ = static_cast<T*>(::operator new(bytes, detail::tensor_alignment));
  }

  /// From nested braces: tensor<float, 2>::of({{1, 2}, {3, 4}}). Throws shape_error when rows differ in length.
  static tensor of(detail::nested_list<T, Rank> list)
    requires(Rank >= 1)
  {
    extents<Rank> shape{};
    detail::shape_of<T, Rank>(list, shape);
    tensor t(shape);
    detail::copy_list<T, Rank>(list, shape, t.data_);
    return t;
  }

  static tensor zeros(extents<Rank> shape) { return full(shape, T{}); }
  static tensor full(extents<Rank> shape, T value) {
    tensor t(shape);
    for (T& e : t.span()) e = value;
    return t;
  }

  tensor(tensor&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), shape_(std::exchange(other.shape_, extents<Rank>{})) {}
  tensor& operator=(tensor&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(shape_, other.shape_);
    return *this;
  }
  ~tensor() { ::operator delete(data_, detail::tensor_alignment); }

  tensor clone() const { return copy_of(view()); }

  /// The same elements under another shape, without a copy. Throws shape_error unless the sizes agree.
  template <std::size_t NewRank>
  tensor<T, NewRank> into_shape(extents<NewRank> shape) && {
    const auto v = view().reshape(shape);
    tensor<T, NewRank> t;
    t.data_ = std::exchange(data_, nullptr);
    t.shape_ = v.shape;
    shape_ = {};
    return t;
  }

  /// A contiguous copy of any view.
  static tensor copy_of(tensor_view<const T, Rank> source) {
    tensor t(source.shape);
    if (source.contiguous() && source.size() != 0) __builtin_memcpy(t.data_, source.data, static_cast<std::size_t>(source.size()) * sizeof(T));
    else detail::zip_elements(t.view(), source, [](T& to, const T& from) { to = from; });
    return t;
  }

  tensor_view<T, Rank> view() noexcept { return {data_, shape_}; }
  tensor_view<const T, Rank> view() const noexcept { return {data_, shape_}; }
  operator tensor_view<T, Rank>() noexcept { return view(); }
  operator tensor_view<const T, Rank>() const noexcept { return view(); }

  const extents<Rank>& shape() const noexcept { return shape_; }
  index_t size() const noexcept { return data_ == nullptr && Rank == 0 ? 0 : volume(shape_); }
  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  std::span<T> span() noexcept { return {data_, static_cast<std::size_t>(size())}; }
  std::span<const T> span() const noexcept { return {data_, static_cast<std::size_t>(size())}; }

  template <class... I>
  T& operator()(I... indices) { return view()(indices...); }
  template <class... I>
  const T& operator()(I... indices) const { return view()(indices...); }

  // The views of tensor_view. They borrow, so they are refused on a temporary, whose elements are about to go.
  auto slice(std::size_t axis, index_t first, index_t last, index_t step = 1) & { return view().slice(axis, first, last, step); }
  auto slice(std::size_t axis, index_t first, index_t last, index_t step = 1) const& { return view().slice(axis, first, last, step); }
  auto select(std::size_t axis, index_t at) & { return view().select(axis, at); }
  auto select(std::size_t axis, index_t at) const& { return view().select(axis, at); }
  auto row(index_t i) & { return view().row(i); }
  auto row(index_t i) const& { return view().row(i); }
  auto transpose() & { return view().transpose(); }
  auto transpose() const& { return view().transpose(); }
  auto permute(std::array<std::size_t, Rank> order) & { return view().permute(order); }
  auto permute(std::array<std::size_t, Rank> order) const& { return view().permute(order); }
  template <class... I>
  auto reshape(I... s) & { return view().reshape(s...); }
  template <class... I>
  auto reshape(I... s) const& { return view().reshape(s...); }
  /// Of a temporary: takes the elements over, without a copy.
  template <class... I>
  tensor<T, sizeof...(I)> reshape(I... s) && { return std::move(*this).into_shape(extents<sizeof...(I)>{static_cast<index_t>(s)...}); }

 private:
  template <class, std::size_t>
  friend class tensor;

  T* data_ = nullptr;
  extents<Rank> shape_{};
};

}  // namespace graft
