// SPDX-License-Identifier: Apache-2.0
#include "graft/io/atomic_file.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <vector>

#include "graft/io/mapped_file.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/small_disk.hpp"

using namespace graft;

namespace {

std::vector<std::string> names_in(const test::temporary_folder& folder) {
  std::vector<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(folder.path()))
    names.push_back(e.path().filename().string());
  std::ranges::sort(names);
  return names;
}

}  // namespace

TEST_CASE("a file is written in parts, and replaces the one that was there") {
  const test::temporary_folder folder;
  const std::string part(70'000, 'x');
  write_file_atomically(folder / "file", [&](byte_sink sink) {
    for (int i = 0; i < 3; ++i) sink(std::as_bytes(std::span(part)));
    sink({});
  });
  CHECK(test::read_file(folder / "file") == part + part + part);
  write_file_atomically(folder / "file", "short");
  CHECK(test::read_file(folder / "file") == "short");
  write_file_atomically(folder / "file", std::span<const std::byte>());
  CHECK(test::read_file(folder / "file").empty());
  CHECK(names_in(folder) == std::vector<std::string>{"file"});
}

TEST_CASE("a program that has the old file mapped keeps it") {
  const test::temporary_folder folder;
  const std::string old(10'000, 'o');
  write_file_atomically(folder / "file", old);
  const auto mapped = map_file(folder / "file");
  write_file_atomically(folder / "file", "n");
  CHECK(std::ranges::equal(mapped->bytes(), std::as_bytes(std::span(old))));
}

TEST_CASE("a full disk leaves the old file as it was and nothing beside it") {
  const test::temporary_folder folder;
  const std::string old = "the old file, bit for bit";
  write_file_atomically(folder / "file", old);
  const std::string large(1 << 20, 'n'), small(3000, 'n');  // fails while writing; fails when the buffer is emptied
  std::string message;
  for (const std::string& text : {large, small}) {
    {
      const test::small_disk limit(2000);
      try {
        write_file_atomically(folder / "file", text);
      } catch (const io_error& e) {
        message = e.what();
      }
    }
    CHECK(message == "cannot write \"" + (folder / "file").string() + "\": File too large");
    CHECK(test::read_file(folder / "file") == old);
    CHECK(names_in(folder) == std::vector<std::string>{"file"});
  }
}

TEST_CASE("a writer that ignores a full disk does not get its file either") {
  const test::temporary_folder folder;
  const std::string large(1 << 20, 'n');
  bool failed = false, refused = false;
  {
    const test::small_disk limit(2000);
    try {
      write_file_atomically(folder / "file", [&](byte_sink sink) {
        try {
          sink(std::as_bytes(std::span(large)));
        } catch (const io_error&) {
          failed = true;
        }
      });
    } catch (const io_error&) {
      refused = true;
    }
  }
  CHECK(failed);
  CHECK(refused);
  CHECK(names_in(folder).empty());
}

TEST_CASE("an exception from the writer leaves the old file and nothing beside it") {
  const test::temporary_folder folder;
  write_file_atomically(folder / "file", "old");
  const auto broken = [](byte_sink sink) {
    sink(std::as_bytes(std::span("new")));
    throw std::runtime_error("no more");
  };
  CHECK_THROWS_WITH(write_file_atomically(folder / "file", broken), "no more");
  CHECK(test::read_file(folder / "file") == "old");
  CHECK(names_in(folder) == std::vector<std::string>{"file"});
}

TEST_CASE("a name that another writer holds is left alone") {
  const test::temporary_folder folder;
  test::write_file(folder / "file.tmp0", "not ours");
  write_file_atomically(folder / "file", "new");
  CHECK(test::read_file(folder / "file") == "new");
  CHECK(test::read_file(folder / "file.tmp0") == "not ours");
  CHECK(names_in(folder) == std::vector<std::string>{"file", "file.tmp0"});
}

TEST_CASE("places that no file can take are named and left as they are") {
  const test::temporary_folder folder;
  std::filesystem::create_directory(folder / "sub");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_WITH(write_file_atomically(folder / "sub", "x"),
                    "cannot write \"" + (folder / "sub").string() + "\": there is a folder of that name");
  CHECK_THROWS_WITH(
      write_file_atomically(folder / "pipe", "x"),
      "cannot write \"" + (folder / "pipe").string() + "\": something of that name is not a regular file");
  CHECK_THROWS_WITH(write_file_atomically(folder / "none" / "file", "x"),
                    "cannot write \"" + (folder / "none" / "file").string() + "\": No such file or directory");
  CHECK(names_in(folder) == std::vector<std::string>{"pipe", "sub"});
}

TEST_CASE("a link gives way to the file, and what it led to is untouched") {
  const test::temporary_folder folder;
  test::write_file(folder / "target", "shared");
  std::filesystem::create_symlink("target", folder / "link");
  write_file_atomically(folder / "link", "mine");
  CHECK(test::read_file(folder / "link") == "mine");
  CHECK(test::read_file(folder / "target") == "shared");
}
