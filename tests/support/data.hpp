// SPDX-License-Identifier: Apache-2.0
// Where tests find data and put files.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

namespace graft::test {

/// A file or folder below the folder the variable GRAFT_DATA names; nothing when that is unset or lacks it.
inline std::optional<std::filesystem::path> data(std::string_view name) {
  const char* root = std::getenv("GRAFT_DATA");
  if (root == nullptr || *root == '\0') return std::nullopt;
  std::filesystem::path p = std::filesystem::path(root) / name;
  if (!std::filesystem::exists(p)) return std::nullopt;
  return p;
}

/// A fresh folder that goes away with its owner.
class temporary_folder {
 public:
  temporary_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "graft-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  temporary_folder(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& p, std::string_view bytes) {
  std::ofstream(p, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
inline std::string read_file(const std::filesystem::path& p) {
  std::ifstream in(p, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Ends a test case that lacks its data: prints SKIPPED, which is not a failure and not a pass in silence.
#define GRAFT_REQUIRE_DATA(variable, name)                                              \
  const auto variable##_found = ::graft::test::data(name);                              \
  if (!variable##_found) {                                                              \
    WARN("SKIPPED: set GRAFT_DATA to the data folder to test with " name);              \
    return;                                                                             \
  }                                                                                     \
  const std::filesystem::path& variable = *variable##_found

}  // namespace graft::test
