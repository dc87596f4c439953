// SPDX-License-Identifier: Apache-2.0
// The tour, 1: tensors. The rank is part of the type, views cost nothing, shapes broadcast. Read next: 02_tape.cpp.
// Ends with: the fitted line is y = 2\.00 x \+ 1\.00
#include <cstdio>
#include <iostream>

#include "graft/graft.hpp"

int main() {
  // [excerpt create]
  const auto x = graft::tensor<float, 2>::of({{1, 2, 3}, {4, 5, 7}});  // owns six floats, shape (2, 3)
  graft::random_stream random(7);
  const auto noise = graft::random_normal<float>(random, {2, 3}, 0, 0.01);  // the same numbers for the same seed, everywhere
  std::cout << "x =\n" << x << "\nx + noise =\n" << x + noise << "\n";
  // [/excerpt create]

  // [excerpt views]
  const auto column = x.select(1, 0);                  // shape (2): shares the elements of x, copies nothing
  const auto corner = x.slice(1, 1, 3).transpose();    // columns 1 and 2, turned: shape (2, 2)
  const graft::tensor<float, 2> own = corner.clone();  // a copy is always spelled out
  std::cout << "first column " << column << "\nturned corner =\n" << own << "\n";
  // [/excerpt views]

  // [excerpt broadcast]
  const auto centred = x - graft::mean(x, 0);                          // (2, 3) - (3): off every column its mean
  const auto scaled = x / graft::insert_axis(graft::max(x, 1), 1);     // (2, 3) / (2, 1): every row by its largest
  const auto fused = graft::map([](auto a, auto b) { return graft::simd::exp(a) * b; }, centred, scaled);  // one pass
  std::cout << "softmax of the rows =\n" << graft::softmax(fused) << "\n";
  // [/excerpt broadcast]

  // [excerpt errors]
  try {
    graft::matmul(x, noise);  // (2, 3) times (2, 3)
  } catch (const graft::shape_error& e) {
    std::cout << e.what() << "\n";  // names the operation and both shapes
  }
  // [/excerpt errors]

  // A straight line through 100 noisy points: the normal equations (A^T A) w = A^T y, two unknowns.
  const auto at = graft::linspace<double>(-1, 1, 100);
  const auto y = 2.0 * at + 1.0 + graft::random_normal<double>(random, {100}, 0, 0.01);
  const auto a = graft::stack(1, at, graft::full({100}, 1.0));  // (100, 2)
  const auto m = graft::matmul(a.transpose(), a);               // (2, 2)
  const auto b = graft::matmul(a.transpose(), y);               // (2)
  const double determinant = m(0, 0) * m(1, 1) - m(0, 1) * m(1, 0);
  const double slope = (m(1, 1) * b(0) - m(0, 1) * b(1)) / determinant;
  const double offset = (m(0, 0) * b(1) - m(1, 0) * b(0)) / determinant;
  std::printf("the fitted line is y = %.2f x + %.2f\n", slope, offset);
}
