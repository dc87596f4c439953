// SPDX-License-Identifier: Apache-2.0
#include "graft/models/llama.hpp"

#include <limits>

#include "graft/models/generate.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

std::vector<std::int32_t> some_tokens(index_t n) { return test::random_batch({n}).ids; }

template <class T>
token_batch one(std::span<const T> ids) {
  token_batch b;
  b.add(ids);
  return b;
}

}  // namespace

TEST_CASE("a cache gives the hidden states of the whole sequence, in steps of any length") {
  auto config = test::small_llama_config();
  config.max_position_embeddings = 200;
  llama<double> model(config);
  initialize(model, 1, 0.15);
  freeze(model);
  const auto ids = some_tokens(150);
  context ctx;
  tape<double> whole(ctx, recording::off);
  const auto expected = model.hidden(whole, one(std::span(ids)));
  auto cache = model.make_cache(150);
  index_t at = 0;
  for (const index_t step : {5, 1, 1, 57, 1, 64, 1, 20}) {  // over the ends of the rotary tables at 64 and 128
    tape<double> t(ctx, recording::off);
    const auto x = model.hidden(t, one(std::span(ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(step))), &cache);
    // Three layers of sums of up to 150 products.
    CHECK(test::near(tensor_view<const double, 2>(x.value), tensor_view<const double, 2>(expected.value).slice(0, at, at + step), 3 * test::tolerance<double>(150)));
    at += step;
    CHECK(cache.length() == at);
  }
  REQUIRE(at == 150);
  tape<double> t(ctx, recording::off);
  CHECK_THROWS_WITH(model.hidden(t, one(std::span(ids).first(1)), &cache), "kv_cache: 150 + 1 tokens exceed the capacity of 150");
  cache.clear();
  const auto again = model.hidden(t, one(std::span(ids).first(5)), &cache);
  CHECK(test::near(tensor_view<const double, 2>(again.value), tensor_view<const double, 2>(expected.value).slice(0, 0, 5), 3 * test::tolerance<double>(150)));
}

TEST_CASE("sequences of one batch do not see each other") {
  auto model = test::small_llama<double>();
  context ctx;
  tape<double> t(ctx, recording::off);
  const auto batch = test::random_batch({7, 12, 3});
  const auto together = model.logits(t, batch);
  for (std::size_t s = 0; s < 3; ++s) {
    const index_t first = batch.offsets[s], last = batch.offsets[s + 1];
    const auto alone = model.logits(t, one(std::span(batch.ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first))));
    CHECK(test::near(tensor_view<const double, 2>(alone.value), tensor_view<const double, 2>(together.value).slice(0, first, last), 3 * test::tolerance<double>(44)));
  }
}

TEST_CASE("a cache takes one sequence, no more positions than the model, and no training") {
  context ctx;
  auto model = test::small_llama<float>();
  auto cache = model.make_cache(100);
  tape<float> t(ctx);
  CHECK_THROWS_WITH(model.hidden(t, test::random_batch({3, 4}), &cache), "llama: a cache continues one sequence, the batch has 2");
  model.hidden(t, test::random_batch({60}), &cache);
  CHECK_THROWS_WITH(model.hidden(t, test::random_batch({5}), &cache), "llama: a sequence of 65 tokens, the model allows 64");
  CHECK_THROWS_WITH(model.hidden(t, token_batch{}, &cache), "llama: the batch has no tokens");
  attach(model, targets({"k_proj"}), lora_options{});
  CHECK_THROWS_WITH(model.hidden(t, test::random_batch({1}), &cache), "a cache takes no part in training; use a tape that does not record");
  tape<float> silent(ctx, recording::off);
  CHECK_NOTHROW(model.hidden(silent, test::random_batch({1}), &cache));
}

TEST_CASE("rotary frequencies follow theta, and are stretched as the config says") {
  const auto plain = rotary_frequencies({.theta = 500000}, 64), linear = rotary_frequencies({.theta = 500000, .scaling = "linear", .factor = 4}, 64);
  REQUIRE(plain.size() == 32);
  for (std::size_t i = 0; i < 32; ++i) {
    CHECK(plain[i] == Approx(std::pow(500000.0, -static_cast<double>(i) / 32)));
    CHECK(linear[i] == Approx(plain[i] / 4));
  }
  // Llama 3.2's settings, worked out apart from this code: kept up to 14, blended at 15 to 17, divided by 32 from 18 on.
  const auto scaled = rotary_frequencies({.theta = 500000, .scaling = "llama3", .factor = 32, .low_frequency_factor = 1, .high_frequency_factor = 4,
                                          .original_max_positions = 8192}, 64);
  for (const auto& [i, f] : std::vector<std::pair<std::size_t, double>>{{0, 1}, {8, 0.03760603093086393}, {14, 0.003211445994752591}, {15, 0.0012905479282092638},
                                                                        {16, 0.0004295567965593682}, {17, 9.70828780262767e-05}, {18, 1.9461638184831125e-05},
                                                                        {24, 1.6619674677953088e-06}, {31, 9.41830672543491e-08}})
    CHECK(scaled[i] == Approx(f).epsilon(1e-12));
  CHECK_THROWS_WITH(rotary_frequencies({.scaling = "yarn"}, 64), "rotary scaling \"yarn\" is not one of default, linear, llama3");
}

TEST_CASE("sampling the likeliest one is greedy, and a seed says which text comes") {
  context ctx;
  auto model = test::small_llama<float>();
  const auto prompt = some_tokens(5);
  const auto text = [&](const sampling_options& o) { return generate(ctx, model, prompt, {.max_tokens = 30, .sampling = o}); };
  const auto greedy = text({});
  CHECK(text({.temperature = 2, .top_k = 1, .seed = 5}) == greedy);
  CHECK(text({.temperature = 2, .top_p = 1e-9, .seed = 6}) == greedy);
  CHECK(text({.temperature = 1e-4, .seed = 7}) == greedy);
  CHECK(text({.temperature = 2, .seed = 1}) == text({.temperature = 2, .seed = 1}));
  CHECK(text({.temperature = 2, .seed = 1}) != text({.temperature = 2, .seed = 2}));
}

TEST_CASE("generation ends at a stop token, when the listener has enough, or with the model's window") {
  context ctx;
  auto model = test::small_llama<float>();
  const auto prompt = some_tokens(5);
  const auto text = generate(ctx, model, prompt, {.max_tokens = 20});
  const auto stopped = generate(ctx, model, prompt, {.max_tokens = 20, .stop = {text[3]}});
  const auto first = static_cast<std::size_t>(std::ranges::find(text, text[3]) - text.begin());
  CHECK(stopped == std::vector<std::int32_t>(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(first) + 1));
  int heard = 0;
  CHECK(generate(ctx, model, prompt, {.max_tokens = 20}, [&](std::int32_t) { return ++heard < 4; }).size() == 4);
  CHECK(generate(ctx, model, prompt, {.max_tokens = 0}).empty());
  CHECK(generate(ctx, model, prompt, {.max_tokens = std::numeric_limits<index_t>::max()}).size() == 60);  // 5 + 59 fill the window of 64
}
