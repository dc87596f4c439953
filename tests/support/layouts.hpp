// SPDX-License-Identifier: Apache-2.0
// The same elements in several memory layouts: what an operation gives must not depend on which.
#pragma once
#include <utility>
#include <vector>

#include "graft/core/tensor.hpp"
#include "support/near.hpp"

namespace graft::test {

/// Numbers that follow from the seed: fractions in [-1, 1), integers that fit in eight bits.
template <class T, std::size_t Rank>
tensor<T, Rank> some(extents<Rank> shape, std::uint64_t seed) {
  const auto fractions = random_tensor<double, Rank>(shape, seed);
  tensor<T, Rank> t(shape);
  for (index_t i = 0; i < t.size(); ++i) {
    const double v = fractions.data()[i];
    t.data()[i] = static_cast<T>(std::floating_point<T> ? v : std::is_signed_v<T> ? v * 100 : (v + 1) * 50);
  }
  return t;
}

/// In row-major order.
template <class T, std::size_t Rank>
std::vector<T> elements(const tensor<T, Rank>& t) { return {t.span().begin(), t.span().end()}; }

/// A view, and the memory it looks into.
template <class T, std::size_t Rank>
struct laid_out {
  const char* name;
  tensor<T, Rank> memory;
  tensor_view<T, Rank> view;
};

/// t side by side, with its axes stored in reverse order, as a block within something larger, and as every other element.
template <class T, std::size_t Rank>
std::vector<laid_out<T, Rank>> layouts(const tensor<T, Rank>& t) {
  extents<Rank> reversed{}, larger{}, doubled{};
  std::array<std::size_t, Rank> backwards{};
  for (std::size_t i = 0; i != Rank; ++i) {
    backwards[i] = Rank - 1 - i;
    reversed[i] = t.shape()[Rank - 1 - i];
    larger[i] = t.shape()[i] + 3;
    doubled[i] = t.shape()[i] * 2;
  }
  std::vector<laid_out<T, Rank>> all;
  const auto add = [&](const char* name, extents<Rank> shape, auto look) {
    auto memory = tensor<T, Rank>::full(shape, convert<T>(111.0f));
    auto view = look(memory.view());
    detail::zip_elements(view, t.view(), [](T& to, const T& from) { to = from; });
    all.push_back({name, std::move(memory), view});
  };
  add("side by side", t.shape(), [](auto v) { return v; });
  add("axes reversed", reversed, [&](auto v) { return v.permute(backwards); });
  add("within a larger one", larger, [&](auto v) {
    for (std::size_t i = 0; i != Rank; ++i) v = v.slice(i, 1, 1 + t.shape()[i]);
    return v;
  });
  add("every other element", doubled, [](auto v) {
    for (std::size_t i = 0; i != Rank; ++i) v = v.slice(i, 0, v.shape[i], 2);
    return v;
  });
  return all;
}

/// Calls f(position) for every position of a shape, in row-major order.
template <std::size_t Rank, class F>
void for_each_position(const extents<Rank>& shape, F f) {
  extents<Rank> at{};
  for (index_t n = 0; n < volume(shape); ++n) {
    index_t rest = n;
    for (std::size_t i = Rank; i-- > 0; rest /= shape[i]) at[i] = rest % shape[i];
    f(at);
  }
}

/// The element of a view at a position of a shape it broadcasts to.
template <class T, std::size_t Rank, std::size_t To>
T element_at(tensor_view<const T, Rank> x, const extents<To>& position) {
  index_t offset = 0;
  for (std::size_t i = 0; i != Rank; ++i)
    if (x.shape[i] != 1) offset += position[To - Rank + i] * x.stride[i];
  return x.data[offset];
}

}  // namespace graft::test
