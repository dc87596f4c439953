// SPDX-License-Identifier: Apache-2.0
#include "graft/core/dtype.hpp"

#include <cmath>
#include <limits>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("every 16-bit value survives widening and narrowing") {
  index_t wrong = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const f16 h{static_cast<std::uint16_t>(i)};
    const bf16 b{static_cast<std::uint16_t>(i)};
    if (!std::isnan(to_float(h)) && to_f16(to_float(h)) != h) ++wrong;
    if (!std::isnan(to_float(b)) && to_bf16(to_float(b)) != b) ++wrong;
    if (std::isnan(to_float(h)) != std::isnan(to_float(to_f16(to_float(h))))) ++wrong;
    if (std::isnan(to_float(b)) != std::isnan(to_float(to_bf16(to_float(b))))) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("narrowing rounds to nearest and ties to even") {
  CHECK(to_float(to_bf16(1.0f + 0x1p-8f)) == 1.0f);                // halfway: to the even neighbour below
  CHECK(to_float(to_bf16(1.0f + 3 * 0x1p-8f)) == 1.0f + 0x1p-6f);  // halfway: to the even neighbour above
  CHECK(to_float(to_bf16(1.0f + 0x1p-8f + 0x1p-20f)) == 1.0f + 0x1p-7f);
  CHECK(to_float(to_f16(1.0f + 0x1p-11f)) == 1.0f);
  CHECK(to_float(to_f16(1.0f + 3 * 0x1p-11f)) == 1.0f + 0x1p-9f);
  CHECK(to_float(to_f16(65519.0f)) == 65504.0f);
  CHECK(std::isinf(to_float(to_f16(65520.0f))));
  CHECK(to_float(to_f16(0x1p-24f)) == 0x1p-24f);       // the smallest subnormal
  CHECK(to_float(to_f16(0x1p-25f)) == 0.0f);           // halfway to zero: even
  CHECK(to_float(to_f16(0x1.8p-25f)) == 0x1p-24f);
  CHECK(std::isinf(to_float(to_bf16(std::numeric_limits<float>::max()))));
}

TEST_CASE("element types know their size and name") {
  CHECK(bytes_of(dtype::bf16) == 2);
  CHECK(name_of(dtype_of<const float>) == "f32");
  CHECK(visit_dtype(dtype::i16, []<class E>(E*) { return sizeof(E); }) == 2);
  CHECK_THROWS_AS(visit_dtype(static_cast<dtype>(99), []<class E>(E*) { return sizeof(E); }), dtype_error);
}
