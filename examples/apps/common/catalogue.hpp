// SPDX-License-Identifier: Apache-2.0
// Clients out of the package catalogue, or out of whatever text there is. Read next: ../quickstart.cpp, ../../catalogue.sh.
#pragma once
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "corpus.hpp"
#include "federation.hpp"
#include "table.hpp"

namespace app {

struct client_data {
  std::string description;
  ids common;  // text of no client
  std::vector<client_text> clients;
};

inline constexpr std::size_t least_heldout = 16 << 10;  // bytes of every client

inline void append_bytes(ids& to, std::string_view text) {
  for (const char c : text) to.push_back(static_cast<unsigned char>(c));
}

/// The maintainers with the most text, one for every main section, each with at least 16 KiB held out: the last fifth of its
/// source packages, whole, so that what is scored was not learned. All other text is common.
inline client_data clients_of_catalogue(const std::filesystem::path& tsv, std::size_t wanted) {
  struct package {
    std::size_t source;
    std::string text;
  };
  struct maintainer {
    std::vector<package> packages;
    std::map<std::string, std::size_t> sections;
    std::size_t bytes = 0;
  };
  std::map<std::size_t, maintainer> all;
  for (auto& row : read_table(tsv, 5)) {
    maintainer& m = all[std::stoul(row[1])];
    m.packages.push_back({std::stoul(row[2]), row[3] + "\n" + unescape_lines(row[4]) + "\n\n"});
    ++m.sections[row[0]];
    m.bytes += m.packages.back().text.size();
  }
  std::vector<std::pair<std::size_t, const maintainer*>> by_size;
  for (const auto& [number, m] : all) by_size.emplace_back(number, &m);
  std::ranges::stable_sort(by_size, [](const auto& a, const auto& b) { return a.second->bytes > b.second->bytes; });

  client_data data;
  std::set<std::string> taken;
  for (const auto& [number, m] : by_size) {
    const auto section = std::ranges::max_element(m->sections, {}, [](const auto& s) { return s.second; })->first;
    const bool chosen = data.clients.size() < wanted && m->bytes >= 5 * least_heldout && taken.insert(section).second;
    if (!chosen) {
      for (const auto& p : m->packages) append_bytes(data.common, p.text);
      continue;
    }
    std::set<std::size_t> sources, held;
    for (const auto& p : m->packages) sources.insert(p.source);
    std::size_t held_bytes = 0;
    for (auto s = sources.rbegin(); s != sources.rend() && held_bytes < std::max(least_heldout, m->bytes / 5); ++s) {
      held.insert(*s);
      for (const auto& p : m->packages) held_bytes += p.source == *s ? p.text.size() : 0;
    }
    client_text c{"client " + std::to_string(number) + " (" + section + ")", {}, {}};
    for (const auto& p : m->packages) append_bytes(held.contains(p.source) ? c.heldout : c.train, p.text);
    c.heldout.resize(std::min(c.heldout.size(), least_heldout));
    data.clients.push_back(std::move(c));
  }
  if (data.clients.size() < wanted)
    graft::throw_error<graft::format_error>("\"", tsv.string(), "\" has ", data.clients.size(), " maintainers with text enough, expected ", wanted);
  data.description = graft::concat("package catalogue: ", wanted, " clients are maintainers, each with a main section of its own");
  return data;
}

/// One text: its first half common, the second cut into equal clients.
inline client_data clients_of_text(const std::string& text, std::size_t wanted, const std::string& description) {
  const std::size_t share = text.size() / 2 / wanted;
  if (share < 2 * 1024)
    graft::throw_error<graft::format_error>(description, ": ", text.size(), " bytes are too few for ", wanted, " clients, expected ", wanted * 4096, " or more");
  client_data data;
  data.description = description;
  append_bytes(data.common, std::string_view(text).substr(0, text.size() / 2));
  for (std::size_t c = 0; c < wanted; ++c) {
    const auto own = std::string_view(text).substr(text.size() / 2 + c * share, share);
    client_text t{"client " + std::to_string(c + 1), {}, {}};
    append_bytes(t.train, own.substr(0, share * 4 / 5));
    append_bytes(t.heldout, own.substr(share * 4 / 5));
    t.heldout.resize(std::min(t.heldout.size(), least_heldout));
    data.clients.push_back(std::move(t));
  }
  return data;
}

/// From a catalogue, else from a text file, else from the licences and documentation every Debian machine has.
inline client_data read_clients(const std::string& catalogue, const std::string& text, std::size_t wanted) {
  if (!text.empty()) return clients_of_text(read_text(text), wanted, "\"" + text + "\"");
  if (!catalogue.empty()) return clients_of_catalogue(catalogue, wanted);
  std::vector<std::filesystem::path> files;
  for (const char* root : {"/usr/share/common-licenses", "/usr/share/doc"}) {
    std::error_code ignored;
    for (const auto& e : std::filesystem::recursive_directory_iterator(root, std::filesystem::directory_options::skip_permission_denied, ignored))
      if (e.is_regular_file(ignored) && !e.is_symlink(ignored) && (e.path().parent_path() == root || e.path().filename() == "copyright" || e.path().extension() == ".txt"))
        files.push_back(e.path());
  }
  std::ranges::sort(files);
  std::string all;
  for (const auto& f : files)
    if (std::filesystem::file_size(f) > 0 && all.size() < (std::size_t{16} << 20)) all += read_text(f) + "\n";
  return clients_of_text(all, wanted, "no package catalogue: text under /usr/share/common-licenses and /usr/share/doc");
}

}  // namespace app
