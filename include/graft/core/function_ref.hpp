// SPDX-License-Identifier: Apache-2.0
// A callable parameter in two words, without allocation. Read next: core/executor.hpp.
#pragma once
#include <concepts>
#include <type_traits>
#include <utility>

namespace graft {

/// Refers to any callable with the given signature. A parameter type, never a data member: it does not own what it
/// refers to and dangles once the full expression of a temporary lambda ends.
template <class Signature>
class function_ref;

template <class R, class... Args>
class function_ref<R(Args...)> {
 public:
  template <class F>
    requires(!std::same_as<std::remove_cvref_t<F>, function_ref> && std::is_invocable_r_v<R, F&, Args...>)
  function_ref(F&& f) noexcept {
    using Callable = std::remove_reference_t<F>;
    if constexpr (std::is_function_v<Callable>) {
      object_ = reinterpret_cast<void*>(&f);
      call_ = [](void* object, Args... args) -> R {
        return reinterpret_cast<Callable*>(object)(std::forward<Args>(args)...);
      };
    } else {
      object_ = const_cast<void*>(static_cast<const void*>(__builtin_addressof(f)));  // <memory> would cost 0.1 s
      call_ = [](void* object, Args... args) -> R {
        return (*static_cast<Callable*>(object))(std::forward<Args>(args)...);
      };
    }
  }

  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

}  // namespace graft
