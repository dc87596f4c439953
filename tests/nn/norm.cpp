// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/norm.hpp"

#include "graft/nn/filter.hpp"
#include "graft/nn/init.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

TEST_CASE("fresh norms bring rows to size one, by the names of the published checkpoints") {
  context ctx;
  rms_norm_module<double> rms(6, 1e-9);
  layer_norm_module<double> layer(6, 1e-9);
  CHECK(parameters(rms).size() == 1);
  CHECK(parameters(layer)[1].path == "bias");
  initialize(rms, 1);
  initialize(layer, 1);
  const auto x = test::random_tensor<double, 2>({4, 6}, 2);
  tape<double> t(ctx);
  const auto a = rms(t, t.constant(x.view())), b = layer(t, t.constant(x.view()));
  for (index_t n = 0; n < 4; ++n) {
    double squares = 0, sum = 0, centred = 0;
    for (index_t c = 0; c < 6; ++c) {
      squares += a.value(n, c) * a.value(n, c);
      sum += b.value(n, c);
      centred += b.value(n, c) * b.value(n, c);
    }
    CHECK(squares / 6 == Approx(1));
    CHECK(std::abs(sum) < 6 * 8 * std::numeric_limits<double>::epsilon());
    CHECK(centred / 6 == Approx(1));
  }
}

TEST_CASE("epsilon, gain and bias take part, and what is frozen has no node") {
  context ctx;
  layer_norm_module<double> m(2, 3.0);
  m.weight = parameter<double, 1>(tensor<double, 1>::of({2, 3}));
  m.bias = parameter<double, 1>(tensor<double, 1>::of({10, 20}));
  const auto x = tensor<double, 2>::of({{1, -1}});  // mean 0, variance 1, with epsilon 4: half
  tape<double> t(ctx);
  const auto y = m(t, t.constant(x.view()));
  CHECK(y.value(0, 0) == Approx(11));
  CHECK(y.value(0, 1) == Approx(18.5));
  CHECK(y.needs_grad());
  freeze(m);
  CHECK_FALSE(m(t, t.constant(x.view())).needs_grad());
}
