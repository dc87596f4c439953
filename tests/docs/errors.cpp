// SPDX-License-Identifier: Apache-2.0
// What graft throws, and what the messages say.
// Ends with: 4 of 4 mistakes were explained
#include <cstdio>
#include <span>
#include <string_view>

#include "graft/graft.hpp"
#include "graft/io.hpp"

namespace {

int explained = 0;

// [excerpt catch]
template <class Mistake>
void attempt(std::string_view message, Mistake make) {
  try {
    make();
  } catch (const graft::format_error& e) {  // one kind: bytes from a file or a peer that break their format
    explained += e.what() == message;
  } catch (const graft::error& e) {  // any kind
    explained += e.what() == message;
  }
}
// [/excerpt catch]

}  // namespace

int main() {
  graft::context ctx;
  // [excerpt mistakes]
  const auto x = graft::zeros<float>(2, 3);
  attempt("matmul: a has 3 columns, b has 2 rows (a is (2, 3), b is (2, 3))",  // shape_error
          [&] { graft::matmul(x, x); });

  graft::llama<float> model(graft::llama_config::stories_260k());
  attempt("attach: target module \"query\" names no layer; the model has "  // option_error
          "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
          [&] { graft::attach(model, graft::targets({"query"}), graft::lora_options{}); });

  constexpr std::string_view text = "not a safetensors file";
  attempt("reply from client 7: a header of 7021991845529153390 bytes is beyond the limit of 100000000",  // format_error
          [&] { graft::from_safetensors(std::as_bytes(std::span(text)), "reply from client 7"); });

  attempt("backward: the loss depends on no trainable parameter",  // state_error
          [&] {
            graft::tape<float> t(ctx);
            t.backward(graft::sum(t, t.constant(x.view())));
          });
  // [/excerpt mistakes]
  std::printf("%d of 4 mistakes were explained\n", explained);
}
