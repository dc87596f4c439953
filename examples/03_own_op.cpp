// SPDX-License-Identifier: Apache-2.0
// The tour, 3: an operation of one's own, from a forward and a backward lambda. Read next: 04_module.cpp.
// Ends with: the gradient of softplus agrees with central differences to better than 1e-8
#include <cmath>
#include <cstdio>

#include "graft/graft.hpp"

// [excerpt op]
/// y = log(1 + exp(x / width)) * width, element by element: a rectifier with a soft corner.
template <class T>
graft::var<T, 2> softplus(graft::tape<T>& t, const graft::var<T, 2>& x, T width) {
  return graft::custom_op(
      t, "softplus", x.shape(),
      [width](auto y, auto in) {
        for (graft::index_t i = 0; i < y.size(); ++i) y.data[i] = width * std::log1p(std::exp(in.data[i] / width));
      },
      [width](auto dy, auto, auto dx, auto in) {  // dx.view = dx.beta * dx.view + the gradient
        for (graft::index_t i = 0; i < dy.size(); ++i) {
          const T old = dx.beta == 0 ? T(0) : dx.view.data[i];  // with beta 0 the memory holds anything
          dx.view.data[i] = old + dy.data[i] / (1 + std::exp(-in.data[i] / width));
        }
      },
      x);
}
// [/excerpt op]

int main() {
  graft::context ctx;
  graft::random_stream random(3);
  graft::parameter<double, 2> x(graft::random_normal<double>(random, {5, 4}));
  const auto weight = graft::random_normal<double>(random, {6, 4});

  // [excerpt check]
  const auto loss = [&](graft::tape<double>& t) {  // it stands among the library's own operations like one of them
    const auto h = softplus(t, t.leaf(x), 0.5);
    return graft::mean(t, graft::tanh(t, graft::linear(t, h, t.constant(weight.view()))));
  };
  const graft::checked_leaf<double> leaves[] = {{x.value(), x.gradient()}};
  const double error = graft::gradient_error<double>(ctx, leaves, loss);
  // [/excerpt check]
  std::printf("the gradient of softplus %s central differences to better than 1e-8\n", error < 1e-8 ? "agrees with" : "DIFFERS FROM");
}
