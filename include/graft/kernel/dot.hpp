// SPDX-License-Identifier: Apache-2.0
// Products with at most eight vectors on one side, computed as dot products along contiguous rows: the path of token by
// token generation and of low-rank projections. Read next: kernel/gemm.hpp.
#pragma once
#include <algorithm>

#include "graft/core/context.hpp"
#include "graft/core/tensor.hpp"
#include "graft/kernel/rounded_row.hpp"

namespace graft::kernel {

/// A second product of small depth R to add to a first, x w^T or x w, while its sums are in registers: nothing goes through memory twice.
/// None when `left` is empty.
template <class T>
struct low_rank_term {
  tensor_view<const T, 2> left;   ///< (N, R)
  tensor_view<const T, 2> right;  ///< beside x w^T: (M, R), beside x w: (R, M)

  index_t rank() const noexcept { return left.shape[1]; }
  static constexpr index_t most = 64;  ///< beyond this rank it takes a pass of its own
};

namespace detail {

/// Whether a pass asks for what lies ahead: where it computes so long over a line, or decodes it, that the processor's own prefetching
/// keeps too close.
template <int Few, class T, class P>
inline constexpr bool asks = Few > 1 || !std::same_as<P, const T*>;
GRAFT_INLINE void ask_ahead(const void* at) noexcept { simd::prefetch_far(static_cast<const char*>(at) + 3072); }
template <class B>
GRAFT_INLINE void ask_ahead(block_pointer<B> at) noexcept { ask_ahead(&at.block()); }

/// acc[r * Few + f] += s[r][k] f[f][k] over k, where rows are stored value by value.
template <int Rows, int Few, class T, class Arch, class P>
GRAFT_INLINE void add_products(index_t depth, P s, index_t row_step, const T* const (&few)[Few], simd::batch<T, Arch> (&acc)[Rows * Few]) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t w = simd::width<T, Arch>;
  index_t k = 0;
  const auto step = [&](auto load_s, auto load_f) GRAFT_INLINED {
    batch sv[Rows];
    GRAFT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      if constexpr (asks<Few, T, P>) ask_ahead(s + (r * row_step + k));
      sv[r] = load_s(s + (r * row_step + k));
      if constexpr (Few > 1) sv[r] = simd::in_register(sv[r]);
    }
    GRAFT_UNROLL
    for (int f = 0; f < Few; ++f) {
      const batch fv = simd::in_register(load_f(few[f] + k));
      GRAFT_UNROLL
      for (int r = 0; r < Rows; ++r) acc[r * Few + f] = simd::fma(sv[r], fv, acc[r * Few + f]);
    }
  };
  for (; k + w <= depth; k += w)
    step([](P p) { return simd::load_as<T, Arch>(p); }, [](const T* p) { return simd::load<T, Arch>(p); });
  if (const index_t rest = depth - k; rest != 0)
    step([rest](P p) { return simd::load_partial_as<T, Arch>(p, rest); },
         [rest](const T* p) { return simd::load_partial<T, Arch>(p, rest); });
}

/// The same where rows are blocks: up to four vectors at a time, which share a scale, as far as blocks are whole. The last block is decoded
/// with what fills it up, against zeros.
template <int Rows, int Few, class Arch, class B>
GRAFT_INLINE void add_block_products(index_t depth, block_pointer<B> s, index_t row_step, const float* const (&few)[Few],
                                     simd::batch<float, Arch> (&acc)[Rows * Few]) {
  constexpr index_t w = simd::width<float, Arch>, part = std::min(B::count, 4 * w);
  const B* const at = &s.block();
  const index_t step = row_step / B::count, whole = depth / B::count;
  for (index_t b = 0; b < whole; ++b)
    for (index_t first = 0; first < B::count; first += part) {
      GRAFT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const B& block = at[r * step + b];
        ask_ahead(&block);
        const auto scale = simd::scale_of<Arch>(block);
        GRAFT_UNROLL
        for (index_t v = first; v < first + part; v += w) {
          const auto values = simd::decode<Arch>(block, v, scale);
          GRAFT_UNROLL
          for (int f = 0; f < Few; ++f) acc[r * Few + f] = simd::fma(values, simd::load<float, Arch>(few[f] + (b * B::count + v)), acc[r * Few + f]);
        }
      }
    }
  for (index_t k = whole * B::count; k < depth; k += w) {
    const index_t rest = depth - k < w ? depth - k : w;
    GRAFT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const B& block = at[r * step + whole];
      const auto v = simd::decode<Arch>(block, k - whole * B::count, simd::scale_of<Arch>(block));
      GRAFT_UNROLL
      for (int f = 0; f < Few; ++f) acc[r * Few + f] = simd::fma(v, simd::load_partial<float, Arch>(few[f] + k, rest), acc[r * Few + f]);
    }
  }
}

/// The same where the vectors are rounded: sums of integers within a block, exact, and then of floats.
template <int Rows, int Few, class Arch, class B>
GRAFT_INLINE void add_integer_products(index_t depth, block_pointer<B> s, index_t row_step, const rounded_row (&few)[Few],
                                       simd::batch<float, Arch> (&acc)[Rows * Few]) {
  static_assert(B::count == rounded_row::block);
  const B* const at = &s.block();
  const index_t step = row_step / B::count;
  for (index_t b = 0; b * B::count < depth; ++b) {
    GRAFT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const B& block = at[r * step + b];
      ask_ahead(&block);
      const auto scale = simd::scale_of<Arch>(block);
      const auto codes = simd::int16_codes<Arch>(block);
      GRAFT_UNROLL
      for (int f = 0; f < Few; ++f) {
        const auto by = scale * simd::batch<float, Arch>(few[f].scales[b]);
        acc[r * Few + f] = simd::fma(simd::inner_products<Arch>(codes, few[f].values + b * B::count), by, acc[r * Few + f]);
      }
    }
  }
}

/// Whether P points at blocks that are decoded straight into vectors of T.
template <class T, class P>
inline constexpr bool reads_blocks = std::same_as<T, float> && !std::is_pointer_v<P>;

/// Rows and vectors of a low-rank term, beside those of dot_block. None when depth is 0.
template <int Few, class T>
struct more_products {
  const T* rows = nullptr;
  index_t row_step = 0, depth = 0;
  const T* few[Few] = {};
};

/// out[r * Few + f] = sum over k of s[r][k] f[f][k], and of `more`. Each sum is taken in one accumulator, in the order of k, whatever the
/// storage: equal values give equal bits. The vectors are pointers to T, or rounded rows.
template <int Rows, int Few, class T, class Arch, class P, class V>
__attribute__((noinline)) void dot_block(index_t depth, P s, index_t row_step, const V (&few)[Few], T* out, const more_products<Few, T>& more = {}) {
  using batch = simd::batch<T, Arch>;
  constexpr int count = Rows * Few;
  batch acc[count];
  GRAFT_UNROLL
  for (int i = 0; i < count; ++i) acc[i] = batch(T(0));
  if constexpr (std::same_as<V, rounded_row>) add_integer_products<Rows, Few, Arch>(depth, s, row_step, few, acc);
  else if constexpr (reads_blocks<T, P>) add_block_products<Rows, Few, Arch>(depth, s, row_step, few, acc);
  else add_products<Rows, Few, T, Arch>(depth, s, row_step, few, acc);
  if (more.depth != 0) add_products<Rows, Few, T, Arch>(more.depth, more.rows, more.row_step, more.few, acc);
  constexpr int together = count % 8 == 0 ? 8 : count % 4 == 0 ? 4 : count;  // sums that share one reduction tree
  GRAFT_UNROLL
  for (int g = 0; g < count; g += together) {
    batch group[together];
    GRAFT_UNROLL
    for (int i = 0; i < together; ++i) group[i] = acc[g + i];
    simd::sum_each(group, out + g);
  }
}

/// Vectors that one pass over rows of the streamed matrix takes of `Few`: where registers are few, four at a time, for rows that were just
/// read come out of the first-level cache the second time.
template <int Few>
inline constexpr int dot_vectors = simd::registers == 32 || Few < 8 ? Few : 4;
/// Rows that share a pass: as many as the registers hold, and no more than four, which one vector needs to hide how long an addition takes.
template <int Few>
inline constexpr int dot_rows = Few <= 2 || (Few == 4 && simd::registers == 32) ? 4 : 3;

/// Rows that one task goes over. They are parted into streams, which should be several pages long, and there should be a few tasks for
/// every thread, but none that is done before it has started.
inline index_t dot_grain(index_t rows, index_t bytes_of_row, index_t concurrency) {
  const auto rows_in = [&](index_t bytes) { return 1 + bytes / (bytes_of_row + 1); };
  const index_t share = concurrency == 1 ? rows : rows / (4 * concurrency) + 1;
  return std::clamp(share, rows_in(index_t{1} << 16), rows_in(index_t{1} << 19));
}

/// dot_product for vectors that of_row(f) gives, f < few.
template <class T, class Arch, class View, class Row>
void dot_with(context& ctx, View s, index_t few, Row of_row, tensor_view<T, 2> out, T alpha, T beta, low_rank_term<T> term) {
  using P = stored_pointer<typename View::value_type>;
  const index_t depth = s.shape[1];
  const auto run = [&]<int Few>(std::integral_constant<int, Few>) {
    constexpr int rows = dot_rows<Few>, together = dot_vectors<Few>;
    decltype(of_row(0)) vectors[Few / together][together];
    const T* of_term[Few / together][together];
    for (int f = 0; f < Few; ++f) {
      const index_t row = f < few ? f : 0;
      vectors[f / together][f % together] = of_row(row);
      of_term[f / together][f % together] = term.left.data + row * term.left.stride[0];
    }
    const index_t grain = dot_grain(s.shape[0], row_bytes(dtype_of<typename View::value_type>, depth), ctx.executor().concurrency());
    ctx.executor().parallel_for(s.shape[0], grain, [&](index_t first, index_t last) {
      // Each of the rows that share a pass starts where that of the pass before ended: to the processor's prefetching that is a stream,
      // where neighbouring rows would be streams that end too soon.
      const index_t apart = (last - first) / rows;
      const auto pass = [&]<int Rows>(index_t r, std::integral_constant<int, Rows>) {
        alignas(64) T sums[Rows * together];
        for (int g = 0; g < Few; g += together) {
          more_products<together, T> more{term.right.data + r * term.right.stride[0], apart * term.right.stride[0], term.rank(), {}};
          std::copy_n(of_term[g / together], together, more.few);
          dot_block<Rows, together, T, Arch>(depth, P(s.data) + r * s.stride[0], apart * s.stride[0], vectors[g / together], sums, more);
          if (together == 8 && few == 8 && beta == T(0) && out.stride[1] == 1) {  // what adapters of rank 8 ask for, often of short rows
            constexpr index_t lanes = std::min<index_t>(8, simd::width<T, Arch>);
            for (int i = 0; i < Rows; ++i)
              for (index_t f = 0; f < 8; f += lanes)
                simd::store_first(&out(r + i * apart, f), simd::batch<T, Arch>(alpha) * simd::load_first<T, Arch>(sums + i * 8 + f, lanes), lanes);
            continue;
          }
          for (int i = 0; i < Rows; ++i)
            for (index_t f = 0; f < together && g + f < few; ++f) {
              T& to = out(r + i * apart, g + f);
              to = beta == T(0) ? alpha * sums[i * together + f] : alpha * sums[i * together + f] + beta * to;
            }
        }
      };
      for (index_t r = first; r < first + apart; ++r) pass(r, std::integral_constant<int, rows>{});
      for (index_t r = first + rows * apart; r < last; ++r) pass(r, std::integral_constant<int, 1>{});
    });
  };
  if (few == 1) run(std::integral_constant<int, 1>{});
  else if (few == 2) run(std::integral_constant<int, 2>{});
  else if (few <= 4) run(std::integral_constant<int, 4>{});
  else run(std::integral_constant<int, 8>{});
}

}  // namespace detail

/// out(r, f) = alpha * sum over k of s(r, k) few(f, k) + beta * out(r, f), for at most eight rows of `few`; with a term, that of
/// right(r, k) left(f, k) is added to the sum. s: (N, K), a tensor_view of any storage type with contiguous rows or a block_view;
/// few: (F, K), F <= 8; out: (N, F), any strides. Streams s once. Where the context asks for int16 products or fewer bits, `few` is
/// rounded for q8_0 and q4_0.
template <class T, class Arch = simd::default_arch, class View>
void dot_product(context& ctx, View s, tensor_view<const T, 2> few, tensor_view<T, 2> out, T alpha, T beta, low_rank_term<T> term = {}) {
  GRAFT_ASSERT(few.shape[0] <= 8 && few.shape[1] == s.shape[1]);
  if constexpr (std::same_as<T, float> && simd::multiplies_int16<typename View::value_type, Arch>)
    if (ctx.products != product_precision::full) {
      const detail::rounded_rows_of<Arch> rounded(ctx, few);
      return detail::dot_with<T, Arch>(ctx, s, few.shape[0], [&](index_t f) { return rounded(f); }, out, alpha, beta, term);
    }
  detail::dot_with<T, Arch>(ctx, s, few.shape[0], [&](index_t f) { return few.data + f * few.stride[0]; }, out, alpha, beta, term);
}

}  // namespace graft::kernel
