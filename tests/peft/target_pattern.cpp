// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/target_pattern.hpp"

#include "graft/peft/attach.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"

using namespace graft;

TEST_CASE("a pattern must match the whole path") {
  const auto t = target_pattern(R"(model\.layers\.[0-3]\.self_attn\.(q|v)_proj)");
  CHECK(t.how() == target_modules::kind::pattern);
  CHECK(t.matches("model.layers.3.self_attn.q_proj"));
  CHECK(t.matches("model.layers.0.self_attn.v_proj"));
  CHECK_FALSE(t.matches("model.layers.4.self_attn.q_proj"));
  CHECK_FALSE(t.matches("model.layers.3.self_attn.k_proj"));
  CHECK_FALSE(t.matches("model.layers.13.self_attn.q_proj"));
  CHECK_FALSE(t.matches("base.model.layers.3.self_attn.q_proj"));      // more in front
  CHECK_FALSE(t.matches("model.layers.3.self_attn.q_proj.inner"));     // more behind
  CHECK_FALSE(t.matches("modelxlayersx3xself_attnxq_proj"));           // a dot with a backslash is a dot
  CHECK_FALSE(target_pattern("q_proj").matches("model.layers.3.self_attn.q_proj"));  // a suffix is for lists
  CHECK(target_pattern(".*q_proj").matches("model.layers.3.self_attn.q_proj"));
  CHECK(target_pattern(R"(.*\.(?!k_)\w+_proj)").matches("model.layers.3.self_attn.q_proj"));
  CHECK_FALSE(target_pattern(R"(.*\.(?!k_)\w+_proj)").matches("model.layers.3.self_attn.k_proj"));
}

TEST_CASE("attaching by a pattern takes the layers it names, and complains when it names none") {
  auto model = test::small_llama<float>();
  CHECK(attach(model, target_pattern(R"(model\.layers\.[12]\.mlp\..*_proj)"), lora_options{.rank = 2}) == 6);
  CHECK(model.model.layers[0].mlp.up_proj.adapters.empty());
  CHECK(model.model.layers[1].mlp.up_proj.adapters.size() == 1);
  CHECK(model.model.layers[1].self_attn.q_proj.adapters.empty());
  CHECK_THROWS_WITH(attach(model, target_pattern("_proj"), lora_options{}),
                    "attach: the target modules name no layer; the model has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
}

TEST_CASE("one string is all-linear in any case, else a pattern") {
  CHECK(parse_target_modules("all-linear").how() == target_modules::kind::all_linear);
  CHECK(parse_target_modules("All-LINEAR").how() == target_modules::kind::all_linear);
  CHECK(parse_target_modules("all-linea.").how() == target_modules::kind::pattern);
}

TEST_CASE("what is no pattern is refused and quoted") {
  CHECK_THROWS_WITH(target_pattern("(q|v"), Catch::Matchers::StartsWith("target_modules: the pattern \"(q|v\" is not a regular expression: "));
  for (const char* bad : {"(", ")", "[a", "*a", "a{2", "a{3,2}", "(?P<name>a)", "(?i)a", "\\"}) {
    INFO(bad);
    CHECK_THROWS_AS(target_pattern(bad), option_error);
  }
  CHECK_THROWS_WITH(target_pattern("model\\Z"), "target_modules: the pattern \"model\\Z\" has an unknown escape \\Z");
}

TEST_CASE("hostile patterns end soon: with an answer or with an error") {
  CHECK_THROWS_WITH(target_pattern(std::string(4097, 'a')), "target_modules: a pattern of 4097 bytes, expected at most 4096");
  CHECK_THROWS_AS(target_pattern(std::string(2000, '(') + std::string(2000, ')')), option_error);
  CHECK_THROWS_AS(target_pattern("(((a{99}){99}){99}){99}"), option_error);
  CHECK_THROWS_AS(target_pattern("a{99999999999999999999}"), option_error);
  const std::string path(500, 'a');
  for (const char* slow : {"(a|a)*b", "(a*)*b", "(.*)*(.*)*(.*)*b", "(a?){1000}b"}) {
    INFO(slow);
    CHECK_FALSE(target_pattern(slow).matches(path));
    CHECK(target_pattern(slow).matches(path + "b"));
  }
  CHECK(target_pattern(std::string(4096, 'a')).matches(std::string(4096, 'a')));
  std::string many = "a";
  for (int i = 0; i < 2000; ++i) many += "|a";
  CHECK(target_pattern(many).matches("a"));
}
