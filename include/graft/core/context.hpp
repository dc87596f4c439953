// SPDX-License-Identifier: Apache-2.0
// What an operation needs besides its operands: threads, memory, a meter, a seed. Read next: autograd/tape.hpp.
#pragma once
#include <cstdint>

#include "graft/core/executor.hpp"
#include "graft/core/pool.hpp"

namespace graft {

class meter;

/// In what precision dense products of floats multiply, where the processor has an instruction for it and a product is of that kind; in
/// others nothing changes. int16: up to eight rows that meet a weight in q8_0 or q4_0, as those of one token, are rounded to 16-bit integers
/// with a scale for every 32, and summed in integers, then in float. bf16: that, and both factors of every large product, with matrix
/// registers of attention's products too, are rounded to 8 bits and summed in float.
enum class product_precision : std::uint8_t { full, int16, bf16 };

/// How tapes of floats keep large values for the backward pass. int16: as 16-bit integers with a scale for every 32, in 17 bits a value. What
/// operations give is the same to the bit; gradients are those of values that moved by 1 / 65534 of the largest of their 32 at most.
enum class saved_precision : std::uint8_t { full, int16 };

/// Passed explicitly to everything that computes: there are no globals and no hidden threads. One context serves one
/// thread at a time; programs that work on several tasks at once make one for each.
class context {
 public:
  /// Runs on the calling thread.
  context() : context(executor_ref{}) {}

  /// Runs on an executor of the caller, which must outlive the context.
  template <executor E>
  context(E& e) : context(executor_ref(e)) {}
  explicit context(executor_ref e) : executor_(e), scratch_(e.concurrency()) {}

  const executor_ref& executor() const noexcept { return executor_; }
  activation_pool& pool() noexcept { return pool_; }
  scratch_space& scratch() noexcept { return scratch_; }

  meter* cost = nullptr;   ///< when set, tapes report their work to it
  product_precision products = product_precision::full;
  saved_precision saved = saved_precision::full;
  std::uint64_t seed = 0;  ///< of everything random that happens under this context

 private:
  executor_ref executor_;
  activation_pool pool_;
  scratch_space scratch_;
};

}  // namespace graft
