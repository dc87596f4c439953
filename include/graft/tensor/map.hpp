// SPDX-License-Identifier: Apache-2.0
// One pass over any number of tensors with a function of their elements. Read next: tensor/arithmetic.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "graft/kernel/elementwise.hpp"
#include "graft/tensor/broadcast.hpp"

namespace graft {

namespace detail {

/// What a function of elements returns is what the tensor of its results holds; truth is stored as 0 and 1.
template <class F, tensor_like... X>
using map_result = std::conditional_t<std::same_as<std::invoke_result_t<F&, const element_of<X>&...>, bool>, std::uint8_t,
                                      std::remove_cvref_t<std::invoke_result_t<F&, const element_of<X>&...>>>;

/// Whether f also turns vectors of T into a vector of T.
template <class F, class T, class... In>
consteval bool runs_on_vectors() {
  if constexpr (std::floating_point<T> && (std::same_as<T, In> && ...)) {
    if constexpr (std::is_invocable_v<F&, decltype(simd::batch<T>(std::declval<In>()))...>)
      return std::same_as<std::invoke_result_t<F&, decltype(simd::batch<T>(std::declval<In>()))...>, simd::batch<T>>;
  }
  return false;
}

/// The loop over arrays of one shape: axes that lie together in all of them are merged, those of extent 1 are dropped.
/// What is left of the last axis is a run; `runs` of them make the whole.
template <std::size_t Rank, std::size_t Arrays>
struct merged_loop {
  std::size_t axes = 0;
  extents<Rank> shape{};
  std::array<extents<Rank>, Arrays> stride{};
  index_t run = 1, runs = 1;
  std::array<index_t, Arrays> step{};  // of each array, within a run

  merged_loop(const extents<Rank>& full, const std::array<extents<Rank>, Arrays>& strides) {
    for (std::size_t i = 0; i < Rank; ++i) {
      if (full[i] == 1) continue;
      bool together = axes != 0;
      for (std::size_t a = 0; together && a < Arrays; ++a)
        together = stride[a][axes - 1] == strides[a][i] * full[i];
      if (!together) ++axes;
      shape[axes - 1] = together ? shape[axes - 1] * full[i] : full[i];
      for (std::size_t a = 0; a < Arrays; ++a) stride[a][axes - 1] = strides[a][i];
    }
    if (axes == 0) return;
    run = shape[axes - 1];
    for (std::size_t i = 0; i + 1 < axes; ++i) runs *= shape[i];
    for (std::size_t a = 0; a < Arrays; ++a) step[a] = stride[a][axes - 1];
  }

  /// Where run r of array a begins.
  index_t offset(std::size_t a, index_t r) const noexcept {
    index_t at = 0;
    for (std::size_t i = axes; i-- > 1; r /= shape[i - 1]) at += r % shape[i - 1] * stride[a][i - 1];
    return at;
  }
};

/// out[i * step] = f(in[i * step]...) for one run, on vectors where all elements lie side by side or repeat.
template <class T, class F, std::size_t... I, class... In>
void map_run(context& ctx, F& f, index_t n, const std::array<index_t, sizeof...(In) + 1>& step,
             std::index_sequence<I...>, T* out, const In*... in) {
  if constexpr (sizeof...(In) != 0 && runs_on_vectors<F, T, In...>()) {
    if (step[0] == 1 && ((step[I + 1] == 1) && ...)) return kernel::map<T>(ctx, n, out, T(0), f, in...);
    const T* moving = nullptr;  // an operand that does not repeat; the others are loaded from it and then replaced
    ((moving = step[I + 1] == 1 ? in : moving), ...);
    if (step[0] == 1 && ((step[I + 1] == 0 || step[I + 1] == 1) && ...) && moving != nullptr) {
      const std::array<T, sizeof...(In)> repeated{*in...};
      const auto replaced = [&](auto... v) { return f((step[I + 1] == 0 ? decltype(v)(repeated[I]) : v)...); };
      return kernel::map<T>(ctx, n, out, T(0), replaced, (step[I + 1] == 0 ? moving : in)...);
    }
  }
  ctx.executor().parallel_for(n, kernel::map_grain, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) out[i * step[0]] = static_cast<T>(f(in[i * step[I + 1]]...));
  });
}

/// out = f(in...) for views of one shape.
template <class T, class F, class... In, std::size_t Rank>
void map_views(context& ctx, F& f, tensor_view<T, Rank> out, tensor_view<const In, Rank>... in) {
  if (out.size() == 0) return;
  const merged_loop<Rank, sizeof...(In) + 1> loop(out.shape, {out.stride, in.stride...});
  const auto one = [&]<std::size_t... I>(index_t r, std::index_sequence<I...> each) {
    map_run<T>(ctx, f, loop.run, loop.step, each, out.data + loop.offset(0, r), (in.data + loop.offset(I + 1, r))...);
  };
  const auto range = [&](index_t first, index_t last) {
    for (index_t r = first; r < last; ++r) one(r, std::index_sequence_for<In...>{});
  };
  if (loop.run > kernel::map_grain) range(0, loop.runs);  // long runs split themselves
  else ctx.executor().parallel_for(loop.runs, 1 + kernel::map_grain / (loop.run + 1), range);
}

template <class F, tensor_like... X>
auto map_as(context& ctx, std::string_view operation, F f, const X&... x) {
  (require_arithmetic<element_of<X>>(), ...);
  const auto shape = broadcast_shape(operation, const_view(x).shape...);
  tensor<map_result<F, X...>, std::tuple_size_v<decltype(shape)>> out(shape);
  map_views(ctx, f, out.view(), broadcast_to(operation, const_view(x), shape)...);
  return out;
}

template <class Out, class F, tensor_like... X>
void map_into_as(context& ctx, std::string_view operation, Out&& out, F f, const X&... x) {
  (require_arithmetic<element_of<X>>(), ...);
  require_arithmetic<element_of<Out>>();
  const auto to = mutable_view(out);
  map_views(ctx, f, to, undisturbed(to, broadcast_to(operation, const_view(x), to.shape)).view...);
}

}  // namespace detail

/// The tensor of f(a, b, ...) over the elements of x, whose shapes broadcast. Its element type is what f returns (truth is
/// stored as std::uint8_t). Of float or double tensors f is also called with vectors, so write it as a generic lambda over
/// the functions of simd/simd.hpp: `map([](auto a, auto b) { return simd::exp(a) * b; }, x, y)`; a lambda that names its
/// types, or one that returns truth, sees one element at a time. Constants take the type of an argument:
/// `decltype(a)(0.5f)`. Cost: one pass; vectors wherever the elements of every tensor lie side by side or repeat.
/// Throws shape_error. Shapes: any that broadcast, up to rank 4.
template <class F, tensor_like... X>
  requires(sizeof...(X) > 0)
auto map(context& ctx, F f, const X&... x) { return detail::map_as(ctx, "map", std::move(f), x...); }

/// The same on the calling thread. With a context, f may run on several threads at once.
template <class F, tensor_like... X>
  requires(sizeof...(X) > 0)
auto map(F f, const X&... x) {
  context ctx;
  return detail::map_as(ctx, "map", std::move(f), x...);
}

/// The same into a tensor or view that is there already; x broadcast to its shape. x may overlap it: what would be
/// overwritten before it is read is copied first.
template <tensor_like Out, class F, tensor_like... X>
  requires(sizeof...(X) > 0)
void map_into(context& ctx, Out&& out, F f, const X&... x) {
  detail::map_into_as(ctx, "map_into", out, std::move(f), x...);
}
template <tensor_like Out, class F, tensor_like... X>
  requires(sizeof...(X) > 0)
void map_into(Out&& out, F f, const X&... x) {
  context ctx;
  detail::map_into_as(ctx, "map_into", out, std::move(f), x...);
}

}  // namespace graft
