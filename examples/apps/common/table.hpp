// SPDX-License-Identifier: Apache-2.0
// Tab-separated files with errors that name the line. Read next: ../classify.cpp, ../federate.cpp.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "app.hpp"

namespace app {

/// The cells of every line; empty lines are passed over. Throws format_error naming file and line unless each line has at least
/// `columns` cells.
inline std::vector<std::vector<std::string>> read_table(const std::filesystem::path& path, std::size_t columns) {
  const std::string text = read_text(path);
  std::vector<std::vector<std::string>> rows;
  std::size_t line_number = 0;
  for (std::size_t first = 0; first < text.size();) {
    const std::size_t end = std::min(text.find('\n', first), text.size());
    std::string_view line(text.data() + first, end - first);
    first = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    std::vector<std::string> cells;
    for (std::size_t at = 0; at <= line.size();) {
      const std::size_t tab = std::min(line.find('\t', at), line.size());
      cells.emplace_back(line.substr(at, tab - at));
      at = tab + 1;
    }
    if (cells.size() < columns)
      graft::throw_error<graft::format_error>("\"", path.string(), "\" line ", line_number, ": ", cells.size(), " cells, expected at least ", columns);
    rows.push_back(std::move(cells));
  }
  if (rows.empty()) graft::throw_error<graft::format_error>("\"", path.string(), "\" has no rows");
  return rows;
}

/// "\n" written as a backslash and an n becomes a line's end.
inline std::string unescape_lines(std::string_view text) {
  std::string s;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n') {
      s += '\n';
      ++i;
    } else {
      s += text[i];
    }
  }
  return s;
}

}  // namespace app
