// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/print.hpp"

#include <limits>
#include <sstream>

#include "graft/tensor/create.hpp"
#include "support/catch.hpp"

using namespace graft;

TEST_CASE("columns line up at the point") {
  CHECK(to_string(tensor<float, 2>::of({{1, 2.5, -3}, {4, 5, 6.125}})) ==
        "[[ 1.     2.5   -3.   ]\n"
        " [ 4.     5.     6.125]]");
  CHECK(to_string(tensor<double, 1>::of({0.1, 1.0 / 3, 20})) == "[ 0.1     0.3333 20.    ]");
  CHECK(to_string(tensor<double, 1>::of({0.1, 1.0 / 3, 20}), {.precision = 2}) == "[ 0.1   0.33 20.  ]");
  CHECK(to_string(tensor<double, 1>::of({0.6, 2}), {.precision = 0}) == "[1. 2.]");
  CHECK(to_string(tensor<int, 2>::of({{1, -20}, {300, 4}})) == "[[  1 -20]\n [300   4]]");
  CHECK(to_string(tensor<std::uint8_t, 1>::of({65, 0})) == "[65  0]");
  CHECK(to_string(eye<bf16>(2)) == "[[1. 0.]\n [0. 1.]]");
  CHECK(to_string(full({2}, std::numeric_limits<std::int64_t>::min())) == "[-9223372036854775808 -9223372036854775808]");
}

TEST_CASE("sizes that plain digits would hide are printed with exponents") {
  CHECK(to_string(tensor<double, 1>::of({1e-6, 2.5})) == "[1.0e-06 2.5e+00]");
  CHECK(to_string(tensor<double, 1>::of({-1e10, 1e10})) == "[-1.e+10  1.e+10]");
  CHECK(to_string(tensor<double, 1>::of({0, 12345678})) == "[       0. 12345678.]");
  CHECK(to_string(tensor<double, 1>::of({1e-300, 1e300})) == "[1.e-300 1.e+300]");
}

TEST_CASE("what is not finite is named") {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(to_string(tensor<double, 1>::of({1.5, infinity, -infinity, nan})) == "[ 1.5  inf -inf  nan]");
  CHECK(to_string(tensor<double, 1>::of({nan, nan})) == "[nan nan]");
  CHECK(to_string(tensor<double, 1>::of({-infinity, 100.25})) == "[  -inf 100.25]");
}

TEST_CASE("every rank has its brackets") {
  CHECK(to_string(tensor<int, 0>::full({}, 7)) == "7");
  CHECK(to_string(zeros<int>(1, 2, 2)) == "[[[0 0]\n  [0 0]]]");
  CHECK(to_string(zeros<int>(2, 1, 2)) == "[[[0 0]]\n\n [[0 0]]]");
  CHECK(to_string(zeros<int>(2, 2, 1, 1)) == "[[[[0]]\n\n  [[0]]]\n\n\n [[[0]]\n\n  [[0]]]]");
  CHECK(to_string(zeros<float>(0)) == "[]");
  CHECK(to_string(zeros<float>(3, 0)) == "[]");
}

TEST_CASE("the middle of long axes is left out") {
  CHECK(to_string(arange<int>(1001)) == "[   0    1    2 ...  998  999 1000]");
  CHECK(to_string(arange<int>(10), {.edge = 2, .limit = 9}) == "[0 1 ... 8 9]");
  CHECK(to_string(arange<int>(10), {.edge = 5, .limit = 9}) == "[0 1 2 3 4 5 6 7 8 9]");
  CHECK(to_string(arange<int>(40).reshape(8, 5), {.edge = 1, .limit = 9}) == "[[ 0 ...  4]\n ...\n [35 ... 39]]");
  CHECK(to_string(arange<int>(7), {.edge = 0, .limit = 1}) == "[0 ... 6]");
}

TEST_CASE("views print as they look, and streams take tensors") {
  std::ostringstream out;
  out << arange<int>(6).reshape(2, 3).transpose() << '\n' << zeros<float>(1);
  CHECK(out.str() == "[[0 3]\n [1 4]\n [2 5]]\n[0.]");
}
