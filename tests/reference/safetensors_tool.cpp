// SPDX-License-Identifier: Apache-2.0
// What safetensors_check.py asks of graft, as a program: list FILE, rewrite IN OUT, check FILE... Links graft::io.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graft/io/safetensors.hpp"

namespace {

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes)
    for (const int shift : {4, 0}) text += "0123456789abcdef"[std::to_integer<int>(b) >> shift & 15];
  return text;
}

// {"metadata": [[key, value] ...], "tensors": [[name, type, shape, bytes] ...]}, in the order of the file.
nlohmann::json listed(const graft::state_dict& state) {
  nlohmann::json tensors = nlohmann::json::array();
  for (const auto& [name, a] : state.items)
    tensors.push_back({name, std::string(graft::name_of(a.type)), a.shape, hex(a.bytes)});
  nlohmann::json metadata = nlohmann::json::array();
  for (const auto& [key, value] : state.metadata) metadata.push_back({key, value});
  return {{"metadata", metadata}, {"tensors", tensors}};
}

std::string verdict(const char* path) {
  const auto file = graft::map_file(path);
  try {
    graft::view_safetensors(file->bytes(), "file", graft::foreign_types::set_aside);
    return "taken";
  } catch (const graft::format_error& e) {
    return e.what();
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  if (words.size() == 2 && words[0] == "list") {
    std::puts(listed(graft::load_safetensors(words[1])).dump().c_str());
  } else if (words.size() == 3 && words[0] == "rewrite") {
    graft::save_safetensors(words[2], graft::load_safetensors(words[1]));
  } else if (words.size() >= 2 && words[0] == "check") {
    for (int i = 2; i < argc; ++i) std::puts(verdict(argv[i]).c_str());
  } else {
    std::fputs("usage: safetensors_tool list FILE | rewrite IN OUT | check FILE...\n", stderr);
    return 2;
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
