// SPDX-License-Identifier: Apache-2.0
// The register tile every large product is made of: a few rows of one operand, broadcast, against a few vectors of the
// other. Read next: kernel/panel.hpp, which feeds it.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>

#include "graft/core/extents.hpp"
#include "graft/simd/fma_in_place.hpp"

namespace graft::kernel {

/// Rows x vectors of accumulators that fill the register file: 8 x 3 of 32 registers, 6 x 2 of 16. Heads of attention may ask for
/// panels of four vectors where there are 32 registers, with 6 rows.
template <class T, class Arch = simd::default_arch>
struct tile_shape {
  static constexpr int rows = simd::registers == 32 ? 8 : 6;
  static constexpr int vectors = simd::registers == 32 ? 3 : 2;
  static constexpr int most_vectors = simd::registers == 32 ? 4 : 2;
  static constexpr index_t lanes = simd::width<T, Arch>;
  static constexpr index_t columns = vectors * lanes;
};

/// How the broadcast operand lies in memory: a(i, k) at a[i * lda + k], or at a[k * lda + i].
enum class broadcast { from_rows, from_columns };
enum class store { straight, transposed };

/// Where a tile goes: c = alpha * product + beta * c; with beta = 0 the old contents are not read.
template <class T>
struct tile_output {
  T* c;
  index_t ldc;
  T alpha, beta;
  index_t columns;  // valid columns of the tile; the rest of the last vector is not stored
};

/// The rows of a matrix that the next panel will be read from, `step` elements apart. Tiles ask for them, a few at a time,
/// while they compute.
template <class T>
struct read_ahead {
  const T* at = nullptr;
  index_t step = 0, rows = 0;
};

/// More terms for a tile to sum while its sums are in registers: a(i, k) b(k, j) over `depth` values of k, both factors lying
/// as those of the tile do. None when depth is 0.
template <class T>
struct more_terms {
  const T* a = nullptr;
  index_t lda = 0;
  const T* b = nullptr;
  index_t ldb = 0, depth = 0;
};

namespace detail {

template <class T, class Arch, int Rows, int Vectors>
GRAFT_INLINE void store_rows(simd::batch<T, Arch> (&acc)[Rows][Vectors], const tile_output<T>& out) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t w = simd::width<T, Arch>;
  const batch alpha(out.alpha), beta(out.beta);
  const bool add = out.beta != T(0), add_as_it_is = out.beta == T(1);
  const index_t whole = out.columns / w, rest = out.columns % w;
  GRAFT_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GRAFT_UNROLL
    for (int j = 0; j < Vectors; ++j) {
      T* p = out.c + i * out.ldc + j * w;
      const auto sum = [&](batch old) GRAFT_INLINED { return simd::fma(alpha, acc[i][j], old); };
      if (j < whole) {
        if (add_as_it_is) simd::store(p, sum(simd::load<T, Arch>(p)));
        else simd::store(p, add ? sum(beta * simd::load<T, Arch>(p)) : alpha * acc[i][j]);
      } else if (j == whole && rest != 0) {
        simd::store_partial(p, add ? sum(beta * simd::load_partial<T, Arch>(p, rest)) : alpha * acc[i][j], rest);
      }
    }
  }
}

/// Column l of the tile becomes `Rows` contiguous elements at c + l * ldc.
template <class T, class Arch, int Rows, int Vectors>
GRAFT_INLINE void store_columns(simd::batch<T, Arch> (&acc)[Rows][Vectors], const tile_output<T>& out) {
  constexpr index_t w = simd::width<T, Arch>;
  constexpr int padded = static_cast<int>(std::bit_ceil(static_cast<unsigned>(Rows)));
  alignas(64) T columns[static_cast<std::size_t>(padded * w)];
  const simd::batch<T, Arch> alpha(out.alpha);
  GRAFT_UNROLL
  for (int j = 0; j < Vectors; ++j) {
    simd::batch<T, Arch> v[padded], next[padded];
    GRAFT_UNROLL
    for (int i = 0; i < padded; ++i) v[i] = i < Rows ? alpha * acc[i < Rows ? i : 0][j] : simd::batch<T, Arch>(T(0));
    GRAFT_UNROLL
    for (int stage = 1; stage < padded; stage *= 2) {  // perfect shuffles move the row number to the lowest index bits
      GRAFT_UNROLL
      for (int i = 0; i < padded / 2; ++i) {
        next[2 * i] = simd::interleave_low(v[i], v[i + padded / 2]);
        next[2 * i + 1] = simd::interleave_high(v[i], v[i + padded / 2]);
      }
      GRAFT_UNROLL
      for (int i = 0; i < padded; ++i) v[i] = next[i];
    }
    GRAFT_UNROLL
    for (int i = 0; i < padded; ++i) simd::store(columns + i * w, v[i]);
    const index_t valid = out.columns - j * w < w ? out.columns - j * w : w;
    for (index_t l = 0; l < valid; ++l) {
      T* p = out.c + (j * w + l) * out.ldc;
      const T* from = columns + l * padded;
      if (out.beta == T(0)) {
        std::memcpy(p, from, Rows * sizeof(T));
      } else {
        GRAFT_UNROLL
        for (int i = 0; i < Rows; ++i) p[i] = from[i] + out.beta * p[i];
      }
    }
  }
}

/// How many values of k a turn of the loop over a packed panel takes. With 16 registers, counting and stepping are a sixth of the instructions of a
/// turn that takes one, which is felt wherever another program runs on the same core.
template <int Rows, int Vectors, broadcast Lies, class T, class Arch>
inline constexpr int steps_together =
    simd::multiplies_in_place<T, Arch> && Lies == broadcast::from_rows && Rows == tile_shape<T, Arch>::rows && Vectors == tile_shape<T, Arch>::vectors ? 8 : 1;

}  // namespace detail

/// Sums a(i, k) b(k, j) over `depth` values of k, and over those of `more`, for Rows x (Vectors * width) outputs. Row k of b is
/// read at b + k * ldb, whole vectors of it. Cost: 2 Rows Vectors width depth flops; reads depth (Rows + Vectors width) elements.
template <int Rows, int Vectors, broadcast Lies, store Order, class T, class Arch = simd::default_arch>
__attribute__((noinline)) void run_tile(index_t depth, const T* a, index_t lda, const T* b, index_t ldb,
                                        const tile_output<T>& out, const more_terms<T>& more = {}) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t w = simd::width<T, Arch>;
  batch acc[Rows][Vectors];
  GRAFT_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GRAFT_UNROLL
    for (int j = 0; j < Vectors; ++j) acc[i][j] = batch(T(0));
  }
  const auto accumulate = [&acc](more_terms<T> p) GRAFT_INLINED {
    const auto step = [&acc](const T* b_row, auto a_at, auto multiply) GRAFT_INLINED {
      batch bv[Vectors];
      GRAFT_UNROLL
      for (int j = 0; j < Vectors; ++j) bv[j] = simd::in_register(simd::load<T, Arch>(b_row + j * w));
      GRAFT_UNROLL
      for (int i = 0; i < Rows; ++i) {
        const batch av(a_at(i));
        GRAFT_UNROLL
        for (int j = 0; j < Vectors; ++j) acc[i][j] = multiply(av, bv[j], acc[i][j]);
      }
    };
    if constexpr (constexpr int steps = detail::steps_together<Rows, Vectors, Lies, T, Arch>; steps > 1) {
      const T* far = p.a + 3 * p.lda;  // an address takes one or two times lda and a constant, not five times lda
      for (constexpr index_t row = Vectors * w; p.ldb == row && p.depth >= steps; p.depth -= steps) {
        asm("" : "+r"(p.lda), "+r"(far));  // else compilers keep every sum of these in a register of its own, and have too few
        GRAFT_UNROLL
        for (int k = 0; k < steps; ++k)
          step(p.b + k * row, [&](int i) GRAFT_INLINED { return i < 3 ? p.a[i * p.lda + k] : far[(i - 3) * p.lda + k]; },
               [](batch x, batch y, batch sum) GRAFT_INLINED { return simd::fma_in_place(x, y, sum); });
        p.a += steps;
        far += steps;
        p.b += steps * row;
      }
    }
    for (; p.depth > 0; --p.depth) {
      if constexpr (Lies == broadcast::from_columns) simd::prefetch(p.a + 16 * p.lda);  // a line of its own in every step
      step(p.b, [&p](int i) GRAFT_INLINED { return Lies == broadcast::from_rows ? p.a[i * p.lda] : p.a[i]; },
           [](batch x, batch y, batch sum) GRAFT_INLINED { return simd::fma(x, y, sum); });
      p.a += Lies == broadcast::from_rows ? 1 : p.lda;
      p.b += p.ldb;
    }
  };
  accumulate({a, lda, b, ldb, depth});
  if (more.depth != 0) accumulate(more);
  if constexpr (Order == store::straight) detail::store_rows<T, Arch, Rows, Vectors>(acc, out);
  else detail::store_columns<T, Arch, Rows, Vectors>(acc, out);
}

namespace detail {

template <int Vectors, broadcast Lies, store Order, class T, class Arch>
void run_strip(index_t rows, index_t depth, const T* a, index_t lda, const T* b, index_t ldb, tile_output<T> out,
               read_ahead<T> next, more_terms<T> more) {
  constexpr int most = Vectors > tile_shape<T, Arch>::vectors ? 6 : tile_shape<T, Arch>::rows;
  const auto advance = [&](int done) {
    a += Lies == broadcast::from_rows ? done * lda : done;
    more.a += Lies == broadcast::from_rows ? done * more.lda : done;
    out.c += Order == store::straight ? done * out.ldc : done;
    rows -= done;
  };
  const index_t share = next.rows / ((rows + most - 1) / most) + 1;
  const auto look_ahead = [&] {
    for (index_t n = share; n > 0 && next.rows > 0; --n, --next.rows, next.at += next.step) {
      GRAFT_UNROLL
      for (int j = 0; j < Vectors; ++j) simd::prefetch_far(next.at + j * simd::width<T, Arch>);
    }
  };
  while (rows >= most && !(most == 6 && rows == 8)) {  // eight rows are better two fours than a six and a two
    look_ahead();
    run_tile<most, Vectors, Lies, Order, T, Arch>(depth, a, lda, b, ldb, out, more);
    advance(most);
  }
  look_ahead();
  while (rows >= 4) {
    run_tile<4, Vectors, Lies, Order, T, Arch>(depth, a, lda, b, ldb, out, more);
    advance(4);
  }
  if (rows >= 2) {
    run_tile<2, Vectors, Lies, Order, T, Arch>(depth, a, lda, b, ldb, out, more);
    advance(2);
  }
  if (rows >= 1) run_tile<1, Vectors, Lies, Order, T, Arch>(depth, a, lda, b, ldb, out, more);
}

}  // namespace detail

/// All rows of `a` against one panel of at most tile_shape::columns columns, given by out.columns. `next` is asked for meanwhile;
/// `more`, where there is any, starts at the same rows and the same columns.
template <broadcast Lies, store Order, class T, class Arch = simd::default_arch>
void run_panel(index_t rows, index_t depth, const T* a, index_t lda, const T* b, index_t ldb, const tile_output<T>& out,
               const read_ahead<T>& next = {}, const more_terms<T>& more = {}) {
  const index_t vectors = (out.columns + simd::width<T, Arch> - 1) / simd::width<T, Arch>;
  if (vectors == 1) return detail::run_strip<1, Lies, Order, T, Arch>(rows, depth, a, lda, b, ldb, out, next, more);
  if constexpr (tile_shape<T, Arch>::vectors >= 3)
    if (vectors == 3) return detail::run_strip<3, Lies, Order, T, Arch>(rows, depth, a, lda, b, ldb, out, next, more);
  detail::run_strip<2, Lies, Order, T, Arch>(rows, depth, a, lda, b, ldb, out, next, more);
}

/// The same for any number of columns, a tile's width of them at a time.
template <broadcast Lies, store Order, class T, class Arch = simd::default_arch>
void run_wide_panel(index_t rows, index_t depth, const T* a, index_t lda, const T* b, index_t ldb, tile_output<T> out) {
  constexpr index_t width = tile_shape<T, Arch>::columns;
  for (index_t left = out.columns; left > 0; left -= width, b += width, out.c += Order == store::straight ? width : width * out.ldc) {
    out.columns = std::min(left, width);
    run_panel<Lies, Order, T, Arch>(rows, depth, a, lda, b, ldb, out);
  }
}

/// The same for a panel of exactly `Vectors` vectors, up to tile_shape::most_vectors.
template <int Vectors, broadcast Lies, class T, class Arch = simd::default_arch>
void run_whole_panel(index_t rows, index_t depth, const T* a, index_t lda, const T* b, index_t ldb, const tile_output<T>& out) {
  detail::run_strip<Vectors, Lies, store::straight, T, Arch>(rows, depth, a, lda, b, ldb, out, {}, {});
}

}  // namespace graft::kernel
