// SPDX-License-Identifier: Apache-2.0
// Fine-tuning with stochastic gates, FineGates: the term of the loss, how sparse the gates are, and cutting what they closed out of
// the model. Read next: peft/gated.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graft/models/bert.hpp"
#include "graft/models/llama.hpp"
#include "graft/nn/penalty.hpp"
#include "graft/ops/columns.hpp"
#include "graft/peft/gated.hpp"

namespace graft {

/// The weight of the gates' penalty over the steps: 0 before `start`, then `weight`.
struct penalty_schedule {
  double weight = 50;       // >= 0
  std::uint64_t start = 0;  // the first step that has it

  double at(std::uint64_t step) const { return step < start ? 0 : weight; }
  void validate() const {
    if (!(weight >= 0 && std::isfinite(weight))) throw_error<option_error>("penalty_schedule: weight is ", weight, ", expected 0 or more");
  }
};

/// task + weight * mean of the layers' penalties, at the step of the tape's batch: what a step of FineGates goes down.
template <module M>
var<typename M::value_type, 0> gated_loss(tape<typename M::value_type>& t, M& model, const var<typename M::value_type, 0>& task,
                                          const penalty_schedule& schedule = {}) {
  schedule.validate();
  const double weight = schedule.at(t.batch.step);
  if (weight == 0) return task;
  const auto penalty = adapter_penalty(t, model);
  return penalty ? add(t, task, scale(t, *penalty, weight)) : task;
}

/// How many gates of every gated layer are open in evaluation.
struct gate_report {
  struct layer {
    std::string path;
    index_t rows, columns, open_rows, open_columns;

    index_t parameters() const { return rows * columns; }
    index_t open_parameters() const { return open_rows * open_columns; }
    /// The share of the weight that closed rows and columns cover.
    double parameter_sparsity() const { return 1 - static_cast<double>(open_parameters()) / static_cast<double>(parameters()); }
  };
  std::vector<layer> layers;

  /// The same over all layers' weights together; 0 without layers.
  double parameter_sparsity() const {
    index_t all = 0, open = 0;
    for (const layer& l : layers) all += l.parameters(), open += l.open_parameters();
    return all == 0 ? 0 : 1 - static_cast<double>(open) / static_cast<double>(all);
  }
  /// The layers that give nothing but zeros, or nothing but their bias: allowed, and worth a warning.
  std::vector<std::string> closed() const {
    std::vector<std::string> paths;
    for (const layer& l : layers)
      if (l.open_parameters() == 0) paths.push_back(l.path);
    return paths;
  }
};

/// Of all gated layers; where a layer has several gated adapters their gates multiply. Throws state_error naming the layer where a
/// logit is NaN.
template <module M>
gate_report report_gates(M& model) {
  using T = typename M::value_type;
  gate_report report;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    std::vector<char> rows(static_cast<std::size_t>(layer.outputs()), 1), columns(static_cast<std::size_t>(layer.inputs()), 1);
    bool any = false;
    for (const auto& a : layer.adapters)
      if (const auto* g = a.adapter.template get<gated<T>>()) {
        any = true;
        const auto r = g->row_gates(), c = g->column_gates();
        for (std::size_t i = 0; i < rows.size(); ++i)
          if (!(r.data()[i] > 0)) rows[i] = 0;
        for (std::size_t j = 0; j < columns.size(); ++j)
          if (!(c.data()[j] > 0)) columns[j] = 0;
      }
    if (any)
      report.layers.push_back({std::string(path), layer.outputs(), layer.inputs(), std::ranges::count(rows, 1), std::ranges::count(columns, 1)});
  });
  return report;
}

/// The slot of a layer that prune() made smaller: y, zeros but for the layer's outputs, is f of some of x's columns. Computes on and
/// passes gradients, and has no parameters of its own.
template <class T>
struct pruned_linear {
  using value_type = T;
  index_t in, out;                                        // of x and y
  std::optional<std::vector<std::int32_t>> takes, gives;  // which columns of x the weight reads, of y it makes; none: all

  static void visit(auto&, auto&) {}
  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    if (x.shape()[1] != in) throw_error<shape_error>("pruned_linear: x is ", to_string(x.shape()), ", the layer has ", in, " inputs");
    const index_t n = x.shape()[0];
    if (f.outputs() == 0) return zeros(t, n, out);
    auto y = takes && takes->empty() ? zeros(t, n, f.outputs()) : f.without_bias(takes ? take_columns<T>(t, x, *takes) : x);
    if (f.has_bias()) y = add_bias(t, std::move(y), f.bias());
    return gives ? spread_columns<T>(t, y, *gives, out) : y;
  }
  void merge_into(affine<T>) const { throw_error<state_error>("pruned_linear: a pruned layer can neither be merged nor pruned once more"); }
  std::string describe() const {
    return concat("pruned(", takes ? static_cast<index_t>(takes->size()) : in, " of ", in, " inputs, ", gives ? static_cast<index_t>(gives->size()) : out,
                  " of ", out, " outputs)");
  }

 private:
  static var<T, 2> zeros(tape<T>& t, index_t rows, index_t columns) {
    auto y = t.template empty<2>({rows, columns});
    std::fill_n(y.value.data, y.value.size(), T(0));
    return y;
  }
};

struct prune_options {
  double least = 0.05;  // in [0, 1]: where a smaller share is closed, zeros stay in the weight: faster than selecting what is open

  void validate() const {
    if (!(least >= 0 && least <= 1)) throw_error<option_error>("prune: least is ", least, ", expected 0 to 1");
  }
};

struct prune_report {
  gate_report gates;                                   // as they were
  index_t parameters_before = 0, parameters_after = 0;  // of all linear layers of the model, biases included
};

namespace detail {

/// A layer with its adapters folded in, and which rows and columns are not zero: closed gates leave zeros, whatever else is in the slot.
/// A layer without adapters counts as full.
template <class T>
struct dense_layer {
  adapted_linear<T>* layer;
  merged_linear<T> m;
  std::vector<char> rows, columns;

  explicit dense_layer(adapted_linear<T>& l)
      : layer(&l), m(l.merged()), rows(static_cast<std::size_t>(l.outputs()), l.adapters.empty()),
        columns(static_cast<std::size_t>(l.inputs()), l.adapters.empty()) {
    if (l.adapters.empty()) return;
    for (index_t i = 0; i < l.outputs(); ++i) {
      if (m.bias && (*m.bias)(i) != 0) rows[static_cast<std::size_t>(i)] = 1;
      for (index_t j = 0; j < l.inputs(); ++j)
        if (m.weight(i, j) != 0) rows[static_cast<std::size_t>(i)] = columns[static_cast<std::size_t>(j)] = 1;
    }
  }
  bool row(index_t i) const { return rows[static_cast<std::size_t>(i)] != 0; }
  bool column(index_t j) const { return columns[static_cast<std::size_t>(j)] != 0; }
  void multiply(double by) {
    for (T& w : m.weight.span()) w = static_cast<T>(by * static_cast<double>(w));
    if (m.bias)
      for (T& b : m.bias->span()) b = static_cast<T>(by * static_cast<double>(b));
  }
};

/// The rows or columns of a weight that stay, in order, and which columns of the activation, of what width, they stand for.
struct kept_axis {
  std::vector<std::int32_t> from, at;
  index_t width = 0;

  void keep(index_t i, index_t place) {
    from.push_back(static_cast<std::int32_t>(i));
    at.push_back(static_cast<std::int32_t>(place));
  }
  index_t size() const { return static_cast<index_t>(from.size()); }
  bool selects(double least) const { return size() != width && (size() == 0 || static_cast<double>(width - size()) >= least * static_cast<double>(width)); }
  index_t stored(double least) const { return selects(least) ? size() : width; }
  index_t place(std::size_t k, double least) const { return selects(least) ? static_cast<index_t>(k) : at[k]; }
};

/// The indices below n for which open(i), each in its own place.
template <class F>
kept_axis in_place(index_t n, F open) {
  kept_axis a;
  a.width = n;
  for (index_t i = 0; i < n; ++i)
    if (open(i)) a.keep(i, i);
  return a;
}
/// The same, closed up. An activation has one column at least.
template <class F>
kept_axis closed_up(index_t n, F open) {
  kept_axis a;
  for (index_t i = 0; i < n; ++i)
    if (open(i)) a.keep(i, a.size());
  a.width = std::max<index_t>(1, a.size());
  return a;
}

/// Collects the smaller layers of a model, so that an error leaves the model as it is.
template <class T>
class pruning {
 public:
  explicit pruning(const prune_options& o) : options(o) {}
  const prune_options options;

  /// The rows that are not zero, in place.
  static kept_axis rows_of(const dense_layer<T>& d) {
    return in_place(d.m.weight.shape()[0], [&](index_t i) { return d.row(i); });
  }
  /// The columns that the kept rows read, in place.
  static kept_axis columns_of(const dense_layer<T>& d, const kept_axis& rows) {
    return in_place(d.m.weight.shape()[1], [&](index_t j) {
      return d.layer->adapters.empty() || std::ranges::any_of(rows.from, [&](std::int32_t i) { return d.m.weight(i, j) != 0; });
    });
  }
  void replace(const dense_layer<T>& d, const kept_axis& rows, const kept_axis& columns) {
    const double least = options.least;
    const bool same = rows.size() == d.layer->outputs() && rows.width == rows.size() && columns.size() == d.layer->inputs() && columns.width == columns.size();
    if (same && d.layer->adapters.empty()) return;
    auto weight = tensor<T, 2>::zeros({rows.stored(least), columns.stored(least)});
    auto bias = tensor<T, 1>::zeros({weight.shape()[0]});
    for (std::size_t i = 0; i < rows.from.size(); ++i) {
      const index_t to = rows.place(i, least);
      for (std::size_t j = 0; j < columns.from.size(); ++j) weight(to, columns.place(j, least)) = d.m.weight(rows.from[i], columns.from[j]);
      if (d.m.bias) bias(to) = (*d.m.bias)(rows.from[i]);
    }
    change c{d.layer, parameter<T, 2>(std::move(weight)), {}, {}};
    if (d.m.bias) c.bias.emplace(std::move(bias));
    if (rows.selects(least) || columns.selects(least)) {
      pruned_linear<T> slot{columns.width, rows.width, {}, {}};
      if (columns.selects(least)) slot.takes = columns.at;
      if (rows.selects(least)) slot.gives = rows.at;
      c.adapters.push_back({"pruned", std::move(slot)});
    }
    changes_.push_back(std::move(c));
    done_.push_back(d.layer);
  }
  void set_heads(index_t& heads, index_t to) { heads_.emplace_back(&heads, to); }

  /// A layer whose neighbours know nothing of it.
  void alone(adapted_linear<T>& layer) {
    if (layer.adapters.empty() || std::ranges::find(done_, &layer) != done_.end()) return;
    const dense_layer<T> d(layer);
    const auto rows = rows_of(d);
    replace(d, rows, columns_of(d, rows));
  }
  void commit() {
    for (change& c : changes_) {
      c.weight.freeze();
      c.layer->weight = std::move(c.weight);
      if (c.bias) c.bias->freeze();
      c.layer->bias = std::move(c.bias);
      c.layer->adapters = std::move(c.adapters);
    }
    for (const auto& [heads, to] : heads_) *heads = to;
  }

 private:
  struct change {
    adapted_linear<T>* layer;
    parameter<T, 2> weight;
    std::optional<parameter<T, 1>> bias;
    std::vector<named_adapter<T>> adapters;
  };
  std::vector<change> changes_;
  std::vector<adapted_linear<T>*> done_;
  std::vector<std::pair<index_t*, index_t>> heads_;
};

/// Layers between which nothing but f(0) = 0 happens, column by column: what any of them closes goes out of all.
template <class T>
void prune_shared(pruning<T>& p, std::vector<adapted_linear<T>*> into, adapted_linear<T>& out_of) {
  std::vector<dense_layer<T>> first;
  for (auto* l : into) first.emplace_back(*l);
  const dense_layer<T> last(out_of);
  const auto shared = closed_up(out_of.inputs(), [&](index_t i) {
    return last.column(i) && std::ranges::all_of(first, [&](const auto& d) { return d.row(i); });
  });
  for (const auto& d : first) p.replace(d, shared, pruning<T>::columns_of(d, shared));
  p.replace(last, pruning<T>::rows_of(last), shared);
}

/// Without rotation a head's columns may be dropped by pairs: of queries with keys, of values with the output's inputs. Each head
/// closes up both; all become as wide as the widest. A head without values goes.
template <class T>
void prune_attention(pruning<T>& p, bert_attention<T>& a) {
  dense_layer<T> q(a.self_attention.query);
  const dense_layer<T> k(a.self_attention.key), v(a.self_attention.value), o(a.output.dense);
  const index_t size = q.m.weight.shape()[0] / a.heads;
  std::vector<std::pair<kept_axis, kept_axis>> kept;  // of every head that stays: what its scores and its values need
  std::vector<index_t> first;                         // where it was
  index_t width = 1;
  for (index_t h = 0; h < a.heads * size; h += size) {
    auto values = closed_up(size, [&](index_t i) { return v.row(h + i) && o.column(h + i); });
    if (values.size() == 0) continue;
    auto scores = closed_up(size, [&](index_t i) { return q.row(h + i) && k.row(h + i); });
    width = std::max({width, values.size(), scores.size()});
    kept.emplace_back(std::move(scores), std::move(values));
    first.push_back(h);
  }
  const auto heads = static_cast<index_t>(kept.size());
  kept_axis scores, values;
  scores.width = values.width = std::max<index_t>(1, heads) * width;
  for (std::size_t h = 0; h < kept.size(); ++h) {
    const index_t to = static_cast<index_t>(h) * width;
    for (index_t i = 0; const std::int32_t from : kept[h].first.from) scores.keep(first[h] + from, to + i++);
    for (index_t i = 0; const std::int32_t from : kept[h].second.from) values.keep(first[h] + from, to + i++);
  }
  if (heads != 0 && heads != a.heads) q.multiply(std::sqrt(static_cast<double>(a.heads) / static_cast<double>(heads)));  // the layer's scale follows the number
  p.replace(q, scores, pruning<T>::columns_of(q, scores));
  p.replace(k, scores, pruning<T>::columns_of(k, scores));
  p.replace(v, values, pruning<T>::columns_of(v, values));
  p.replace(o, pruning<T>::rows_of(o), values);
  p.set_heads(a.heads, std::max<index_t>(1, heads));
}

/// With rotation the heads keep their width, for the tables and the cache, and closed columns are not computed. A pair that is
/// rotated counts as closed in the queries of a head, or in its keys, when both its halves are; then the other side needs none of it.
template <class T>
void prune_attention(pruning<T>& p, llama_attention<T>& a) {
  const dense_layer<T> q(a.q_proj), k(a.k_proj), v(a.v_proj), o(a.o_proj);
  const index_t size = a.head_size, half = size / 2, group = a.heads / a.kv_heads;
  const auto pair_open = [&](const dense_layer<T>& d, index_t head, index_t i) {
    return d.row(head * size + i % half) || d.row(head * size + i % half + half);
  };
  const auto value_open = [&](index_t head, index_t i) { return v.row(head / group * size + i) && o.column(head * size + i); };
  std::vector<char> gives(static_cast<std::size_t>(a.heads));  // whether a head's result is read at all
  for (index_t h = 0; h < a.heads; ++h)
    for (index_t i = 0; i < size; ++i)
      if (value_open(h, i)) gives[static_cast<std::size_t>(h)] = 1;
  const auto any_of_group = [&](index_t kv, auto f) {
    for (index_t h = kv * group; h < (kv + 1) * group; ++h)
      if (f(h)) return true;
    return false;
  };
  const auto queries = in_place(a.heads * size, [&](index_t r) {
    const index_t h = r / size;
    return q.row(r) && gives[static_cast<std::size_t>(h)] && pair_open(k, h / group, r % size);
  });
  const auto keys = in_place(a.kv_heads * size, [&](index_t r) {
    return k.row(r) && any_of_group(r / size, [&](index_t h) { return gives[static_cast<std::size_t>(h)] && pair_open(q, h, r % size); });
  });
  const auto values = in_place(a.kv_heads * size, [&](index_t r) { return any_of_group(r / size, [&](index_t h) { return value_open(h, r % size); }); });
  const auto read = in_place(a.heads * size, [&](index_t c) { return value_open(c / size, c % size); });
  p.replace(q, queries, pruning<T>::columns_of(q, queries));
  p.replace(k, keys, pruning<T>::columns_of(k, keys));
  p.replace(v, values, pruning<T>::columns_of(v, values));
  p.replace(o, pruning<T>::rows_of(o), read);
}

template <class T>
void prune_blocks(pruning<T>& p, bert<T>& m) {
  for (auto& layer : m.encoder.layer) {
    prune_attention(p, layer.attention);
    prune_shared<T>(p, {&layer.intermediate.dense}, layer.output.dense);
  }
}
template <class T>
void prune_blocks(pruning<T>& p, bert_classifier<T>& m) { prune_blocks(p, m.bert); }
template <class T>
void prune_blocks(pruning<T>& p, llama<T>& m) {
  for (auto& layer : m.model.layers) {
    prune_attention(p, layer.self_attn);
    prune_shared<T>(p, {&layer.mlp.gate_proj, &layer.mlp.up_proj}, layer.mlp.down_proj);
  }
}

}  // namespace detail

/// Cuts the rows and columns that the gates of evaluation close out of a model's linear layers, and folds the other gates, with all
/// else in the slots, into the weights. Nothing is approximated: the model computes what merge_adapters() would make it compute, up to
/// rounding. In BERT and Llama models the dimensions between layers shrink: that of the feed-forward part, and of BERT's heads.
/// Where the residual stream is read or written, and in any other layer, open columns are gathered and results scattered, by a
/// pruned_linear in the slot, unless so few are closed that zeros are faster. The result is frozen, in the compute type, and can compute,
/// be trained around (its head, say), and generate; folders of models and adapters do not know its shapes.
/// Throws state_error, and leaves the model as it is, when no layer has a gated adapter, when a logit is NaN, when a slot holds what
/// cannot be merged, or when the model is pruned already. Memory: the smaller layers beside the model, and a block's dense ones.
template <module M>
prune_report prune(M& model, const prune_options& o = {}) {
  using T = typename M::value_type;
  o.validate();
  prune_report report;
  report.gates = report_gates(model);
  if (report.gates.layers.empty()) throw_error<state_error>("prune: no layer of the model has a gated adapter");
  const auto count = [&] {
    index_t n = 0;
    visit_layers(model, [&](std::string_view, adapted_linear<T>& l) { n += l.weight.size() + (l.bias ? l.bias->size() : 0); });
    return n;
  };
  report.parameters_before = count();
  detail::pruning<T> p(o);
  if constexpr (requires { detail::prune_blocks(p, model); }) detail::prune_blocks(p, model);
  visit_layers(model, [&](std::string_view, adapted_linear<T>& layer) { p.alone(layer); });
  p.commit();
  report.parameters_after = count();
  return report;
}

}  // namespace graft
