// SPDX-License-Identifier: Apache-2.0
// Tensors as text for people: aligned columns, nested brackets, and the middle of long axes left out.
// Read next: io/npy.hpp for files.
#pragma once
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iosfwd>
#include <limits>
#include <string>
#include <vector>

#include "graft/tensor/operand.hpp"

namespace graft {

struct print_options {
  int precision = 4;     ///< digits after the point at most, 0 to 17; zeros at the end are dropped
  index_t edge = 3;      ///< elements shown at either end of an axis that is shortened; > 0
  index_t limit = 1000;  ///< tensors with more elements than this are shortened
};

namespace detail {

/// Turns numbers into text of one width: points under points, exponents only where plain digits would mislead.
class number_format {
 public:
  explicit number_format(int precision) : precision_(std::clamp(precision, 0, 17)) {}

  /// Takes notice of a number that will be shown.
  void see(double v) {
    if (!std::isfinite(v)) {
      widen_other(other(v).size());
      return;
    }
    const double size = std::abs(v);
    if (size != 0) least_ = std::min(least_, size), most_ = std::max(most_, size);
    seen_.push_back(v);
  }
  void see(std::int64_t v) { widen_other(std::to_string(v).size()); }
  void see_all() {
    scientific_ = most_ >= 1e8 || least_ < 1e-4 || (most_ > 0 && most_ / least_ > 1000);
    std::size_t fraction = 0;
    for (const double v : seen_) {
      const std::string text = trimmed(digits(v, precision_));
      fraction = std::max(fraction, std::min(text.find('e'), text.size()) - text.find('.') - 1);
    }
    if (scientific_) precision_ = static_cast<int>(fraction);  // exponents line up when every fraction is as long
    for (const double v : seen_) {
      const std::string text = plain(v);
      before_ = std::max(before_, text.find('.'));
      after_ = std::max(after_, text.size() - text.find('.'));
    }
    if (seen_.empty()) return;
    before_ = std::max(before_, other_ - std::min(other_, after_));
  }

  std::string text(double v) const {
    if (!std::isfinite(v)) return padded(other(v), seen_.empty() ? other_ : before_ + after_);
    std::string s = plain(v);
    s.insert(0, before_ - s.find('.'), ' ');
    s.resize(before_ + after_, ' ');
    return s;
  }
  std::string text(std::int64_t v) const { return padded(std::to_string(v), other_); }

 private:
  static std::string other(double v) { return std::isnan(v) ? "nan" : v < 0 ? "-inf" : "inf"; }
  static std::string padded(std::string s, std::size_t width) { return s.insert(0, width - std::min(width, s.size()), ' '); }
  void widen_other(std::size_t n) { other_ = std::max(other_, n); }

  // With a point always, so that there is something to line up.
  std::string digits(double v, int precision) const {
    char text[400];
    const auto form = scientific_ ? std::chars_format::scientific : std::chars_format::fixed;
    const auto end = std::to_chars(text, text + sizeof text, v, form, precision).ptr;
    std::string s(text, end);
    if (s.find('.') == std::string::npos) s.insert(std::min(s.find('e'), s.size()), ".");
    return s;
  }
  static std::string trimmed(std::string s) {
    const std::size_t end = std::min(s.find('e'), s.size());
    const std::size_t last = s.find_last_not_of('0', end - 1);
    return s.erase(last + 1, end - last - 1);
  }
  std::string plain(double v) const { return scientific_ ? digits(v, precision_) : trimmed(digits(v, precision_)); }

  int precision_;
  bool scientific_ = false;
  double least_ = std::numeric_limits<double>::infinity(), most_ = 0;
  std::size_t before_ = 0, after_ = 0, other_ = 0;
  std::vector<double> seen_;
};

/// An element as one of the two numbers that number_format knows.
template <class T>
auto shown(T v) {
  if constexpr (std::integral<T>) return static_cast<std::int64_t>(v);
  else return convert<double>(v);
}

/// Calls item(i) for every position of an axis that is shown, and gap() where some are left out.
template <class Item, class Gap>
void for_each_shown(index_t extent, index_t edge, Item item, Gap gap) {
  for (index_t i = 0; i < extent; ++i) {
    if (i == edge && extent > 2 * edge) {
      gap();
      i = extent - edge;
    }
    item(i);
  }
}

template <class T, std::size_t Rank>
void see_shown(tensor_view<const T, Rank> x, index_t edge, number_format& format) {
  if constexpr (Rank == 0) format.see(shown(*x.data));
  else for_each_shown(x.shape[0], edge, [&](index_t i) { see_shown(x.row(i), edge, format); }, [] {});
}

template <class T, std::size_t Rank>
void append_shown(std::string& s, tensor_view<const T, Rank> x, index_t edge, const number_format& format, std::size_t depth) {
  if constexpr (Rank == 0) {
    s += format.text(shown(*x.data));
  } else {
    // Numbers stand in a line; rows each begin one, and blocks of rows have an empty line between them.
    const std::string between = Rank == 1 ? " " : std::string(Rank - 1, '\n') + std::string(depth + 1, ' ');
    bool first = true;
    const auto separate = [&] {
      if (!first) s += between;
      first = false;
    };
    s += '[';
    for_each_shown(x.shape[0], edge, [&](index_t i) { separate(), append_shown(s, x.row(i), edge, format, depth + 1); },
                   [&] { separate(), s += "..."; });
    s += ']';
  }
}

}  // namespace detail

/// The elements in nested brackets, columns aligned.
template <tensor_like X>
std::string to_string(const X& x, print_options o = {}) {
  const auto v = detail::const_view(x);
  if (v.size() == 0) return "[]";
  const index_t edge = v.size() > o.limit ? std::max<index_t>(1, o.edge) : std::numeric_limits<index_t>::max() / 2;
  detail::number_format format(o.precision);
  detail::see_shown(v, edge, format);
  format.see_all();
  std::string s;
  detail::append_shown(s, v, edge, format, 0);
  return s;
}

template <class Traits, tensor_like X>
std::basic_ostream<char, Traits>& operator<<(std::basic_ostream<char, Traits>& out, const X& x) { return out << to_string(x); }

}  // namespace graft
