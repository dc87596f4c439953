// SPDX-License-Identifier: Apache-2.0
// Several adapters for one model, some in it and some beside it: taken out whole, put back, switched. Read next: peft/served.hpp for
// many at once in one batch.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/nn/linear.hpp"

namespace graft {

/// The adapters of one name, beside their model: an adapter for each of its layers.
template <class T>
struct adapter_set {
  struct item {
    std::string path;  // of the layer
    index_t in = 0, out = 0;
    any_adapter<T> adapter;
  };
  std::string name;
  std::vector<item> items;  // in the order of the layers
};

/// The names of a model's adapters, innermost first where layers have several, each once.
template <module M>
std::vector<std::string> adapter_names(M& model) {
  std::vector<std::string> names;
  visit_layers(model, [&](std::string_view, adapted_linear<typename M::value_type>& layer) {
    for (const auto& a : layer.adapters)
      if (std::find(names.begin(), names.end(), a.name) == names.end()) names.push_back(a.name);
  });
  return names;
}

namespace detail {

/// take(adapter) gives the copy, or the thing itself.
template <module M, class Take>
auto gather_adapters(M& model, std::string_view name, Take take) {
  using T = typename M::value_type;
  require_plain_embeddings(model, "adapters", name);
  adapter_set<T> set{std::string(name), {}};
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    for (auto& a : layer.adapters)
      if (a.name == name) set.items.push_back({std::string(path), layer.inputs(), layer.outputs(), take(a.adapter)});
  });
  if (set.items.empty()) throw_error<option_error>("adapters: the model has no adapter named \"", name, "\"");
  return set;
}

}  // namespace detail

/// A copy of the adapters of this name. Throws option_error when there is none, state_error when an embedding has one: sets hold those
/// of linear layers.
template <module M>
adapter_set<typename M::value_type> copy_adapters(M& model, std::string_view name) {
  return detail::gather_adapters(model, name, [](const auto& a) { return a; });
}

/// Takes the adapters of this name out of the model, which is then as it was without them; values are moved, not copied. What is
/// trainable stays so. Optimisers and replicas made before no longer fit. Throws as copy_adapters().
template <module M>
adapter_set<typename M::value_type> take_adapters(M& model, std::string_view name) {
  using T = typename M::value_type;
  auto set = detail::gather_adapters(model, name, [](auto& a) { return std::move(a); });
  visit_layers(model, [&](std::string_view, adapted_linear<T>& layer) { std::erase_if(layer.adapters, [&](const auto& a) { return a.name == name; }); });
  return set;
}

/// Puts a set into a model's slots, outermost; the set is then empty. Throws option_error where the name is taken or the model has
/// no such layer, shape_error where it has one of other sizes; then nothing has changed.
template <module M>
void put_adapters(M& model, adapter_set<typename M::value_type>& set) {
  using T = typename M::value_type;
  std::vector<adapted_linear<T>*> layers(set.items.size());
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    for (std::size_t i = 0; i < set.items.size(); ++i) {
      const auto& item = set.items[i];
      if (item.path != path) continue;
      if (layer.inputs() != item.in || layer.outputs() != item.out)
        throw_error<shape_error>("adapters: \"", set.name, "\" has an adapter for ", path, " of shape ", to_string(extents<2>{item.out, item.in}),
                                 ", the model's is ", to_string(extents<2>{layer.outputs(), layer.inputs()}));
      for (const auto& a : layer.adapters)
        if (a.name == set.name) throw_error<option_error>("adapters: ", path, " already has an adapter named \"", set.name, "\"");
      layers[i] = &layer;
    }
  });
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i] == nullptr) throw_error<option_error>("adapters: \"", set.name, "\" has an adapter for ", set.items[i].path, ", a layer the model has not");
  for (std::size_t i = 0; i < layers.size(); ++i) layers[i]->adapters.push_back({set.name, std::move(set.items[i].adapter)});
  set.items.clear();
}

/// The adapters that are not in a model now, and which are: `shelf.use(model, {"medical"})` switches, `{"style", "medical"}` applies
/// both, the last outermost, and `{}` leaves the base. Pointers move; no weight is copied.
template <class T>
class adapter_shelf {
 public:
  /// Adds a set. Throws option_error when one of its name is here.
  void add(adapter_set<T> set) {
    if (find(set.name) != sets_.end()) throw_error<option_error>("adapters: the shelf already has \"", set.name, "\"");
    sets_.push_back(std::move(set));
  }
  /// Of the sets that are on the shelf, and in no model.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& set : sets_) names.push_back(set.name);
    return names;
  }

  /// Makes these the model's adapters, in this order; all others go to the shelf. Throws option_error for a name that is neither
  /// in the model nor on the shelf or comes twice, and what put_adapters() throws; then the model has what it had.
  template <module M>
  void use(M& model, const std::vector<std::string>& wanted) {
    const auto had = adapter_names(model);
    for (auto name = wanted.begin(); name != wanted.end(); ++name) {
      if (std::find(wanted.begin(), name, *name) != name) throw_error<option_error>("adapters: \"", *name, "\" is named twice");
      if (find(*name) == sets_.end() && std::find(had.begin(), had.end(), *name) == had.end())
        throw_error<option_error>("adapters: neither the model nor the shelf has \"", *name, "\"");
    }
    for (const auto& name : had)
      if (find(name) != sets_.end()) throw_error<option_error>("adapters: the model and the shelf both have \"", name, "\"");
    clear(model);
    try {
      fill(model, wanted);
    } catch (...) {
      clear(model);
      fill(model, had);  // these fitted before
      throw;
    }
  }

 private:
  auto find(std::string_view name) {
    return std::find_if(sets_.begin(), sets_.end(), [&](const auto& set) { return set.name == name; });
  }
  template <module M>
  void clear(M& model) {
    for (const auto& name : adapter_names(model)) sets_.push_back(take_adapters(model, name));
  }
  template <module M>
  void fill(M& model, const std::vector<std::string>& names) {
    for (const auto& name : names) {
      const auto set = find(name);
      put_adapters(model, *set);
      sets_.erase(set);
    }
  }

  std::vector<adapter_set<T>> sets_;
};

}  // namespace graft
