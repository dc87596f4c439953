// SPDX-License-Identifier: Apache-2.0
// What graft throws, and how its messages are put together. Read next: core/extents.hpp.
#pragma once
#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include "graft/core/macros.hpp"

namespace graft {

/// Base of everything graft throws. The text names the operation, what was expected, what came, and where.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class shape_error : public error { using error::error; };   ///< extents that do not fit together
class dtype_error : public error { using error::error; };   ///< an element type this operation does not take
class option_error : public error { using error::error; };  ///< an option out of its range, or a name nobody has
class format_error : public error { using error::error; };  ///< bytes from outside (file, peer) that break their format
class state_error : public error { using error::error; };   ///< the right call at the wrong time
class io_error : public error { using error::error; };      ///< the system refused: no such file, disk full

namespace detail {

inline void append(std::string& s, std::string_view v) { s += v; }
inline void append(std::string& s, char c) { s += c; }
inline void append(std::string& s, std::integral auto v) { s += std::to_string(v); }
inline void append(std::string& s, std::floating_point auto v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(v));
  s += text;
}

}  // namespace detail

/// The parts one after another: strings, characters, integers, floating-point numbers.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string s;
  (detail::append(s, parts), ...);
  return s;
}

/// Throws E with the concatenated parts. Out of line and cold, so that checks cost their caller one branch.
template <std::derived_from<error> E, class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void throw_error(const Parts&... parts) {
  throw E(concat(parts...));
}

}  // namespace graft
