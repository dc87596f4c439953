// SPDX-License-Identifier: Apache-2.0
// The differentiable rotation by Hamming-weight blocks: compounds of small rotations along the diagonal. Read next:
// peft/compound.hpp.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/compound_product.hpp"

namespace graft {

/// How a base matrix follows from its free numbers: Cayley's transform of a skew matrix, or angles of a pyramid of plane rotations.
enum class rotation_form { cayley, pyramid };

/// What a rotation R by compounds looks like: N blocks of floor(d / N) coordinates, in each one after another C_k(A) for the
/// orders k, then the identity; the identity for what the division leaves over. Built once, then only read.
class compound_layout {
 public:
  rotation_form form = rotation_form::cayley;
  kernel::compound_route route = kernel::compound_route::automatic;

  /// Takes the largest base size n whose compounds fit a block. `offset` moves all blocks along, around the end of the d
  /// coordinates. Throws option_error when no such rotation exists, naming what is wrong.
  template <class = void>
  compound_layout(index_t d, index_t blocks, std::vector<index_t> orders, bool shared, index_t offset)
      : d_(d), blocks_(blocks), shared_(shared), orders_(std::move(orders)) {
    check_orders(orders_);
    if (blocks < 1 || blocks > d) throw_error<option_error>("compound: ", blocks, " blocks of ", d, " coordinates, expected 1 to ", d);
    if (offset < 0 || offset >= d) throw_error<option_error>("compound: offset is ", offset, ", expected 0 to below the ", d, " coordinates");
    std::sort(orders_.begin(), orders_.end());
    const index_t size = d / blocks;
    while (n_ <= size + orders_.back() && total(n_ + 1) <= size) ++n_;
    if (n_ < std::max<index_t>(2, orders_.back()))
      throw_error<option_error>("compound: a block of ", size, " coordinates is too small for order ", orders_.back(),
                                ": its base matrix would have size ", n_);
    for (index_t k = 1; k < orders_.back(); ++k)  // order k is built by way of those below
      if (kernel::binomial(n_, k) > std::max<index_t>(size, 4096))
        throw_error<option_error>("compound: order ", orders_.back(), " of a base of size ", n_, " goes by way of order ", k, " with ",
                                  kernel::binomial(n_, k), " rows");
    subsets_ = kernel::subset_tables(n_, orders_.back());
    for (index_t b = 0; b < blocks; ++b)
      for (index_t first = b * size; const index_t k : orders_) {
        parts_.push_back({shared ? 0 : b, k, (first + offset) % d, kernel::binomial(n_, k)});
        first += parts_.back().size;
      }
    for (index_t b = 0; b < blocks; ++b) add_kept(offset + b * size + total(n_), offset + (b + 1) * size);
    add_kept(offset + blocks * size, offset + d);
  }

  /// Throws option_error unless the orders are some, all at least 1, none twice.
  template <class = void>
  static void check_orders(const std::vector<index_t>& orders) {
    if (orders.empty()) throw_error<option_error>("compound: no orders, expected at least one");
    for (std::size_t i = 0; i < orders.size(); ++i) {
      if (orders[i] < 1 || orders[i] > 64) throw_error<option_error>("compound: order ", orders[i], ", expected 1 to 64");
      if (std::find(orders.begin(), orders.begin() + static_cast<std::ptrdiff_t>(i), orders[i]) != orders.begin() + static_cast<std::ptrdiff_t>(i))
        throw_error<option_error>("compound: order ", orders[i], " comes twice");
    }
  }

  index_t coordinates() const noexcept { return d_; }
  index_t blocks() const noexcept { return blocks_; }
  index_t block_size() const noexcept { return d_ / blocks_; }
  const std::vector<index_t>& orders() const noexcept { return orders_; }
  index_t n() const noexcept { return n_; }             ///< of a base matrix
  index_t bases() const noexcept { return shared_ ? 1 : blocks_; }
  extents<2> free_shape() const noexcept { return {bases(), kernel::rotation_parameters(n_)}; }
  index_t rotated() const noexcept { return total(n_); }  ///< coordinates of a block that are not left alone
  const kernel::subset_tables& subsets() const noexcept { return subsets_; }

  /// C_k of a base matrix, on the coordinates [first, first + size), around the end.
  struct part {
    index_t base, order, first, size;
  };
  const std::vector<part>& parts() const noexcept { return parts_; }
  /// Ranges of coordinates that are left alone.
  struct range {
    index_t first, last;
  };
  const std::vector<range>& kept() const noexcept { return kept_; }

 private:
  index_t total(index_t n) const noexcept {
    index_t sum = 0;
    for (const index_t k : orders_) {
      const index_t c = kernel::binomial(n, k);
      if (c > d_ - sum) return d_ + 1;  // too many already, and no overflow
      sum += c;
    }
    return sum;
  }
  template <class = void>
  void add_kept(index_t first, index_t last) {
    if (first >= last) return;
    if (first < d_ && last > d_) kept_.push_back({first, d_}), kept_.push_back({0, last - d_});
    else kept_.push_back({first % d_, (last - 1) % d_ + 1});
  }

  index_t d_, blocks_, n_ = 0;
  bool shared_;
  std::vector<index_t> orders_;
  kernel::subset_tables subsets_;
  std::vector<part> parts_;
  std::vector<range> kept_;
};

namespace detail {

/// Whether rows are turned by R or by its transpose.
enum class turn { by_r, by_transpose };

/// The columns of a part, side by side: where they lie, or copied where the part goes around the end.
template <class T>
struct part_columns {
  tensor_view<T, 2> view;
  kernel::detail::pooled_matrix<T> copy;
  bool around;

  part_columns(context& ctx, tensor_view<T, 2> all, const compound_layout::part& p)
      : copy(ctx, p.first + p.size > all.shape[1] ? all.shape[0] : 0, p.size), around(p.first + p.size > all.shape[1]) {
    view = around ? copy.view : all.slice(1, p.first, p.first + p.size);
  }
  void read(tensor_view<const T, 2> all, index_t first) const {
    if (around) each(all.shape[1], first, [&](index_t r, index_t c, index_t from) { copy.view(r, c) = all(r, from); });
  }
  void write(tensor_view<T, 2> all, index_t first) const {
    if (around) each(all.shape[1], first, [&](index_t r, index_t c, index_t to) { all(r, to) = copy.view(r, c); });
  }

 private:
  template <class F>
  void each(index_t d, index_t first, F f) const {
    for (index_t r = 0; r < view.shape[0]; ++r)
      for (index_t c = 0; c < view.shape[1]; ++c) f(r, c, (first + c) % d);
  }
};

/// All base matrices, in double whatever the rows are, so that they are orthogonal to the last bit of a float.
template <class T, class Arch = simd::default_arch>
void build_bases(context& ctx, const compound_layout& layout, tensor_view<const T, 2> free, double* bases) {
  const index_t n = layout.n();
  ctx.scratch().reserve(static_cast<std::size_t>(n * n) * sizeof(double));
  ctx.executor().parallel_for(layout.bases(), 1, [&](index_t first, index_t last) {
    for (index_t b = first; b < last; ++b) {
      const auto room = ctx.scratch().take();
      const T* p = free.data + b * free.shape[1];
      if (layout.form == rotation_form::cayley) kernel::cayley<T, Arch>(n, p, bases + b * n * n, room.template as<double>());
      else kernel::pyramid<T, Arch>(n, p, bases + b * n * n);
    }
  });
}

/// y = beta y + x on the coordinates that are left alone.
template <class T>
void copy_kept(context& ctx, const compound_layout& layout, tensor_view<const T, 2> x, tensor_view<T, 2> y, T beta) {
  if (layout.kept().empty()) return;
  ctx.executor().parallel_for(x.shape[0], 64, [&](index_t first, index_t last) {
    for (index_t r = first; r < last; ++r)
      for (const auto& [from, to] : layout.kept()) {
        const T* const in = x.data + r * x.stride[0];
        T* const out = y.data + r * y.stride[0];
        for (index_t c = from; c < to; ++c) out[c] = beta == T(0) ? in[c] : beta * out[c] + in[c];
      }
  });
}

/// y = R x or R^T x for every row, given the base matrices.
template <class T>
void turn_by_compounds(context& ctx, const compound_layout& layout, const double* bases, kernel::compound_route route, turn way,
                       tensor_view<const T, 2> x, tensor_view<T, 2> y) {
  copy_kept<T>(ctx, layout, x, y, T(0));
  const index_t nn = layout.n() * layout.n();
  for (const auto& p : layout.parts()) {
    const part_columns<T> from(ctx, {const_cast<T*>(x.data), x.shape, x.stride}, p), to(ctx, y, p);
    from.read(x, p.first);
    const auto use = route == kernel::compound_route::sandwich && p.order != 2 ? kernel::compound_route::automatic : route;
    if (way == turn::by_r) kernel::compound_product<T>(ctx, layout.subsets(), p.order, bases + p.base * nn, use, from.view, to.view, T(0));
    else kernel::compound_product_gradient<T>(ctx, layout.subsets(), p.order, bases + p.base * nn, use, {}, from.view, to.view, T(0), nullptr);
    to.write(y, p.first);
  }
}

/// dx = R^T dy + beta dx, when dx is not empty, and the gradients of the base matrices, when they are not null.
template <class T>
void compound_gradients(context& ctx, const compound_layout& layout, const double* bases, tensor_view<const T, 2> x, tensor_view<const T, 2> dy,
                        tensor_view<T, 2> dx, T beta, double* dbases) {
  if (dx.data != nullptr) copy_kept<T>(ctx, layout, dy, dx, beta);
  const index_t nn = layout.n() * layout.n();
  const auto writable = [](tensor_view<const T, 2> v) { return tensor_view<T, 2>(const_cast<T*>(v.data), v.shape, v.stride); };
  for (const auto& p : layout.parts()) {
    const part_columns<T> from(ctx, writable(dy), p), input(ctx, writable(dbases == nullptr ? dy : x), p);
    const part_columns<T> to(ctx, dx.data == nullptr ? writable(dy) : dx, p);
    from.read(dy, p.first);
    if (dbases != nullptr) input.read(x, p.first);
    if (dx.data != nullptr && beta != T(0)) to.read(dx, p.first);
    const auto use = layout.route == kernel::compound_route::sandwich && p.order != 2 ? kernel::compound_route::automatic : layout.route;
    kernel::compound_product_gradient<T>(ctx, layout.subsets(), p.order, bases + p.base * nn, use, input.view, from.view,
                                         dx.data == nullptr ? tensor_view<T, 2>{} : to.view, beta,
                                         dbases == nullptr ? nullptr : dbases + p.base * nn);
    if (dx.data != nullptr) to.write(dx, p.first);
  }
}

/// Gradients of the free numbers from those of the base matrices.
template <class T, class Arch = simd::default_arch>
void free_gradients(context& ctx, const compound_layout& layout, tensor_view<const T, 2> free, const double* bases, const double* dbases,
                    accumulator<T, 2> to) {
  const index_t n = layout.n();
  ctx.scratch().reserve(static_cast<std::size_t>(2 * n * n) * sizeof(double));
  ctx.executor().parallel_for(layout.bases(), 1, [&](index_t first, index_t last) {
    for (index_t b = first; b < last; ++b) {
      const auto room = ctx.scratch().take();
      const double *const a = bases + b * n * n, *const da = dbases + b * n * n;
      T* const out = to.view.data + b * free.shape[1];
      if (layout.form == rotation_form::cayley) kernel::cayley_gradient<T, Arch>(n, a, da, out, to.beta, room.template as<double>());
      else kernel::pyramid_gradient<T, Arch>(n, free.data + b * free.shape[1], a, da, out, to.beta, room.template as<double>());
    }
  });
}

}  // namespace detail

/// Every row of x turned by R of the layout, whose base matrices follow from the free numbers; they are made once, not for every row.
/// Shapes: x (N, d), free as layout.free_shape() -> (N, d). Saves the base matrices, in double, and retains x if free needs a gradient;
/// compounds are made again in the backward pass. Cost: see kernel/compound_apply.hpp, times the blocks. The layout must
/// outlive the tape. Throws shape_error. Method: compounds of rotations, "Hyper compressed fine-tuning" (2025).
template <class T>
var<T, 2> compound_rotation(tape<T>& t, const var<T, 2>& x, const var<T, 2>& free, const compound_layout& layout) {
  if (x.shape()[1] != layout.coordinates() || free.shape() != layout.free_shape())
    throw_error<shape_error>("compound_rotation: x is ", to_string(x.shape()), ", free is ", to_string(free.shape()), ", the layout turns ",
                             layout.coordinates(), " coordinates by ", to_string(layout.free_shape()));
  const index_t count = layout.bases() * layout.n() * layout.n();
  const auto held = t.template empty<1>({count * static_cast<index_t>(sizeof(double) / sizeof(T))});
  double* const bases = reinterpret_cast<double*>(held.value.data);
  detail::build_bases<T>(t.ctx(), layout, free.value, bases);
  auto y = t.template empty<2>(x.shape());
  detail::turn_by_compounds<T>(t.ctx(), layout, bases, layout.route, detail::turn::by_r, x.value, y.value);

  const bool any = x.needs_grad() || free.needs_grad();
  const auto xs = t.retain_if(free.needs_grad(), x);
  const auto fs = t.save_if(free.needs_grad(), free);
  t.save_if(any, held);
  std::uint64_t flops = 0;
  for (const auto& p : layout.parts()) flops += static_cast<std::uint64_t>(2 * x.shape()[0] * p.size * p.size);
  t.record({"compound_rotation", flops}, y, any, [=, &layout, xi = x.id, fi = free.id](tensor_view<const T, 2> dy, tape<T>& g) {
    accumulator<T, 2> dx{};
    if (xi != no_node) dx = g.grad(xi, dy.shape);
    if (fi == no_node) return detail::compound_gradients<T>(g.ctx(), layout, bases, {}, dy, dx.view, dx.beta, nullptr);
    const kernel::detail::pooled_matrix<double> dbases(g.ctx(), 1, count);
    std::fill_n(dbases.view.data, count, 0.0);
    detail::compound_gradients<T>(g.ctx(), layout, bases, g.value(xs), dy, dx.view, dx.beta, dbases.view.data);
    detail::free_gradients<T>(g.ctx(), layout, fs, bases, dbases.view.data, g.grad(fi, fs.shape));
  });
  return y;
}

/// x itself, where a rotation is left out for one call: the free numbers get a gradient of zero.
template <class T>
var<T, 2> left_out_rotation(tape<T>& t, const var<T, 2>& x, const var<T, 2>& free) {
  auto y = t.template empty<2>(x.shape());
  std::copy_n(x.value.data, x.value.size(), y.value.data);
  const bool any = x.needs_grad() || free.needs_grad();
  t.record({"left_out_rotation"}, y, any, [xi = x.id, fi = free.id, shape = free.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
    if (xi != no_node) g.pass_grad(xi, dy);
    if (fi == no_node) return;
    const auto to = g.grad(fi, shape);
    if (to.beta == T(0)) std::fill_n(to.view.data, to.view.size(), T(0));
  });
  return y;
}

}  // namespace graft
