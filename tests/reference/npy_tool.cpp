// SPDX-License-Identifier: Apache-2.0
// What npy_check.py asks of graft, as a program: copies .npy files, prints one, and applies operations to some.
//
//   npy_tool copy TYPE RANK IN OUT      reads IN as TYPE (numpy's name) and RANK, and writes it again
//   npy_tool print IN                   a float64 matrix as text
//   npy_tool compute FOLDER             reads FOLDER/{a,b,row,column}.npy, writes one file a result
#include <cstdio>
#include <filesystem>
#include <string>

#include "graft/io/npy.hpp"
#include "graft/tensor/compare.hpp"
#include "graft/tensor/gather.hpp"
#include "graft/tensor/matmul.hpp"
#include "graft/tensor/print.hpp"
#include "graft/tensor/reduce.hpp"
#include "graft/tensor/softmax.hpp"
#include "graft/tensor/sort.hpp"

using namespace graft;

namespace {

template <class T, std::size_t Rank>
void copy(const std::string& in, const std::string& out) { save_npy(out, load_npy<T, Rank>(in)); }

template <class T>
void copy(int rank, const std::string& in, const std::string& out) {
  if (rank == 0) copy<T, 0>(in, out);
  else if (rank == 1) copy<T, 1>(in, out);
  else if (rank == 2) copy<T, 2>(in, out);
  else if (rank == 3) copy<T, 3>(in, out);
  else copy<T, 4>(in, out);
}

void copy(const std::string& type, int rank, const std::string& in, const std::string& out) {
  if (type == "float64") copy<double>(rank, in, out);
  else if (type == "float32") copy<float>(rank, in, out);
  else if (type == "float16") copy<f16>(rank, in, out);
  else if (type == "int64") copy<std::int64_t>(rank, in, out);
  else if (type == "int32") copy<std::int32_t>(rank, in, out);
  else if (type == "int16") copy<std::int16_t>(rank, in, out);
  else if (type == "int8") copy<std::int8_t>(rank, in, out);
  else copy<std::uint8_t>(rank, in, out);
}

/// Shapes: a, b (4, 5, 6), row (6), column (5, 1), all float32.
void compute(const std::filesystem::path& folder) {
  const auto a = load_npy<float, 3>(folder / "a.npy"), b = load_npy<float, 3>(folder / "b.npy");
  const auto row = load_npy<float, 1>(folder / "row.npy");
  const auto column = load_npy<float, 2>(folder / "column.npy");
  const auto save = [&](const std::string& name, const auto& x) { save_npy(folder / (name + ".npy"), x); };
  save("add", a + row);
  save("subtract", column - a);
  save("multiply", row * column);
  save("divide", a / b);
  save("less", less(a, b));
  save("fused", map([](auto x, auto y) { return simd::exp(x) * y; }, a, row));
  for (const index_t axis : {0, 1, 2}) {
    const auto named = [&](const char* name) { return concat(name, axis); };
    save(named("sum"), sum(a, axis));
    save(named("mean"), mean(a, axis));
    save(named("var"), variance(a, axis, {.correction = 1}));
    save(named("max"), max(a, axis));
    save(named("argmin"), argmin(a, axis));
    save(named("logsumexp"), logsumexp(a, axis));
    save(named("softmax"), softmax(a, axis));
    save(named("log_softmax"), log_softmax(a, axis));
    save(named("sort"), sort(a, axis));
    save(named("argsort"), argsort(a, axis));
    save(named("concatenate"), concatenate(axis, a, b));
    save(named("take"), take(a, {3, 0, 3}, axis));
    save(named("stack"), stack(axis, a, b));
  }
  save("matmul", matmul(a, b.permute({0, 2, 1})));
  save("matvec", matmul(a, row));
  save("top_values", top_k(a, 4).values);
  save("top_indices", top_k(a, 4).indices);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string job = argc > 1 ? argv[1] : "";
  try {
    if (job == "copy" && argc == 6) copy(argv[2], std::stoi(argv[3]), argv[4], argv[5]);
    else if (job == "print" && argc == 3) std::printf("%s\n", to_string(load_npy<double, 2>(argv[2])).c_str());
    else if (job == "compute" && argc == 3) compute(argv[2]);
    else return std::fprintf(stderr, "usage: npy_tool copy TYPE RANK IN OUT | print IN | compute FOLDER\n"), 2;
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "npy_tool: %s\n", e.what()), 1;
  }
}
