// SPDX-License-Identifier: Apache-2.0
// Models are trees of plain structs: one visit() per module gives naming, loading, saving, freezing and training.
// Read next: nn/filter.hpp, nn/linear.hpp.
#pragma once
#include <array>
#include <charconv>
#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graft/core/function_ref.hpp"
#include "graft/nn/parameter.hpp"

namespace graft {

/// A module lists its members: static void visit(auto& self, auto& v) { v("weight", self.weight); v("layers", self.layers); }
template <class M, class V>
concept visitable = requires(M& m, V& v) { std::remove_const_t<M>::visit(m, v); };

namespace detail {

template <class M> inline constexpr bool is_optional = false;
template <class M> inline constexpr bool is_optional<std::optional<M>> = true;
template <class M> inline constexpr bool is_vector_or_array = false;
template <class M> inline constexpr bool is_vector_or_array<std::vector<M>> = true;
template <class M, std::size_t N> inline constexpr bool is_vector_or_array<std::array<M, N>> = true;

/// The dotted path of where a walk stands.
class path_stack {
 public:
  std::string_view str() const noexcept { return path_; }
  std::size_t push(std::string_view name) {
    const std::size_t before = path_.size();
    if (!name.empty()) {
      if (!path_.empty()) path_ += '.';
      path_ += name;
    }
    return before;
  }
  void pop(std::size_t before) { path_.resize(before); }

 private:
  std::string path_;
};

/// Walks a tree: what Derived takes goes to its leaf(member), inside anything else the walk goes on.
template <class Derived>
class tree_walk {
 public:
  template <class Member>
  void operator()(std::string_view name, Member& m) {
    const std::size_t before = path_.push(name);
    visit(m);
    path_.pop(before);
  }
  std::string_view path() const noexcept { return path_.str(); }

 private:
  template <class Member>
  void visit(Member& m) {
    if constexpr (Derived::template takes<Member>) {
      static_cast<Derived*>(this)->leaf(m);
    } else if constexpr (is_optional<Member>) {
      if (m) visit(*m);
    } else if constexpr (is_vector_or_array<Member>) {
      for (std::size_t i = 0; i < m.size(); ++i) {
        char digits[24];
        const auto end = std::to_chars(digits, digits + sizeof digits, i).ptr;
        (*this)({digits, static_cast<std::size_t>(end - digits)}, m[i]);
      }
    } else if constexpr (visitable<Member, Derived>) {
      Member::visit(m, *static_cast<Derived*>(this));
    } else if constexpr (!Derived::template ignores<Member>) {
      static_assert(sizeof(Member) == 0, "graft: a visited member is neither a parameter nor a module: give it a static visit()");
    }
  }
  path_stack path_;
};

}  // namespace detail

/// What a module's visit() receives: hands every parameter below, with its path, to a callback.
template <class T>
class parameter_visitor : public detail::tree_walk<parameter_visitor<T>> {
 public:
  explicit parameter_visitor(function_ref<void(std::string_view path, parameter_base<T>&)> f) : f_(f) {}

  template <class Member>
  static constexpr bool takes = std::derived_from<Member, parameter_base<T>>;
  template <class Member>
  static constexpr bool ignores = false;
  void leaf(parameter_base<T>& p) { f_(this->path(), p); }

 private:
  function_ref<void(std::string_view, parameter_base<T>&)> f_;
};

template <class M>
concept module = requires { typename M::value_type; } && visitable<M, parameter_visitor<typename M::value_type>>;

/// Calls f(path, parameter) for every parameter below a module, in the order of visit().
template <module M>
void visit_parameters(M& m, function_ref<void(std::string_view, parameter_base<typename M::value_type>&)> f) {
  parameter_visitor<typename M::value_type> v(f);
  M::visit(m, v);
}
template <module M>
void visit_parameters(const M& m, function_ref<void(std::string_view, const parameter_base<typename M::value_type>&)> f) {
  visit_parameters(const_cast<M&>(m), [&](std::string_view path, parameter_base<typename M::value_type>& p) { f(path, p); });
}

/// All parameters of a module as references that outlive the walk, though not the module.
template <module M>
std::vector<parameter_ref<typename M::value_type>> parameters(M& m) {
  std::vector<parameter_ref<typename M::value_type>> all;
  visit_parameters(m, [&](std::string_view path, parameter_base<typename M::value_type>& p) { all.push_back({std::string(path), &p}); });
  return all;
}

/// A second model for a second thread: shares what is frozen and clones what is trainable.
template <module M>
M replicate(const M& m) { return M(m); }

}  // namespace graft
