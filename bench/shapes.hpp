// SPDX-License-Identifier: Apache-2.0
// The sizes every benchmark runs at, each from a published model. Read next: support/report.hpp.
#pragma once
#include "graft/core/extents.hpp"

namespace bench {

using graft::index_t;

/// A linear layer's weight, (out, in), and where it is found.
struct linear_shape {
  index_t out, in;
  const char* model;
};

inline constexpr linear_shape linear_layers[] = {
    {384, 384, "MiniLM attention"},         {1536, 384, "MiniLM feed-forward"},   {384, 1536, "MiniLM feed-forward"},
    {576, 576, "SmolLM-135M q, o"},         {192, 576, "SmolLM-135M k, v"},       {1536, 576, "SmolLM-135M gate, up"},
    {576, 1536, "SmolLM-135M down"},        {768, 768, "BERT base attention"},    {3072, 768, "BERT base feed-forward"},
    {768, 3072, "BERT base feed-forward"},  {2048, 2048, "1B attention"},         {8192, 2048, "1B gate, up"},
    {32000, 288, "stories-15M vocabulary"}, {49152, 576, "SmolLM-135M vocabulary"}};

/// The gate and up projections of SmolLM-135M, where a benchmark takes one layer.
inline constexpr linear_shape one_layer = linear_layers[5];

/// The two sides of a LoRA update of rank r: A is (r, in), B is (out, r).
inline constexpr linear_shape low_rank_layers[] = {
    {8, 576, "A, rank 8"}, {16, 576, "A, rank 16"}, {8, 1536, "A, rank 8"}, {576, 8, "B, rank 8"}, {576, 16, "B, rank 16"}, {1536, 8, "B, rank 8"}};

/// Rows (tokens) of a product: one is generation, a few a short query, hundreds a training batch.
inline constexpr index_t token_counts[] = {1, 8, 16, 32, 128, 256, 512};

/// Rows and columns of arrays between layers: one that stays in cache, one that does not.
struct activation_shape {
  index_t rows, columns;
};
inline constexpr activation_shape activations[] = {{256, 576}, {8192, 2304}};

/// Heads of an attention layer, causal.
struct attention_shape {
  index_t sequence, heads, kv_heads, head_size;
  const char* model;
};
inline constexpr attention_shape attention_layers[] = {
    {256, 9, 3, 64, "SmolLM-135M"}, {1024, 9, 3, 64, "SmolLM-135M"}, {256, 12, 12, 64, "BERT base"},
    {1024, 12, 12, 64, "BERT base"}, {256, 12, 12, 32, "MiniLM"},     {1024, 12, 12, 32, "MiniLM"}};

}  // namespace bench
