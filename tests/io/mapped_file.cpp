// SPDX-License-Identifier: Apache-2.0
#include "graft/io/mapped_file.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <string>

#include "graft/core/frozen_array.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"

using namespace graft;

namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

TEST_CASE("a file's bytes are the same mapped and read") {
  const test::temporary_folder folder;
  const std::string text = std::string(100'000, 'a') + "the end";
  test::write_file(folder / "file", text);
  test::write_file(folder / "empty", "");
  for (const file_access access : {file_access::map, file_access::read}) {
    CHECK(text_of(map_file(folder / "file", access)->bytes()) == text);
    CHECK(map_file(folder / "empty", access)->bytes().empty());
  }
  CHECK(map_file(folder / "file")->path() == folder / "file");
}

TEST_CASE("a mapped file outlives its name, and is not the file that takes its place") {
  const test::temporary_folder folder;
  test::write_file(folder / "file", "old");
  test::write_file(folder / "new", "new");
  const auto file = map_file(folder / "file");
  std::filesystem::rename(folder / "new", folder / "file");
  CHECK(text_of(file->bytes()) == "old");
  std::filesystem::remove(folder / "file");
  CHECK(text_of(file->bytes()) == "old");
}

TEST_CASE("a file that was read does not follow the file when that is rewritten") {
  const test::temporary_folder folder;
  test::write_file(folder / "file", "old");
  const auto file = map_file(folder / "file", file_access::read);
  test::write_file(folder / "file", "");  // cuts it short: a map would no longer be readable
  CHECK(text_of(file->bytes()) == "old");
}

TEST_CASE("a frozen array keeps its file") {
  const test::temporary_folder folder;
  test::write_file(folder / "file", "12345678");
  frozen_array a;
  std::weak_ptr<const mapped_file> watched;
  {
    const auto file = map_file(folder / "file");
    watched = file;
    const index_t shape[] = {8};
    a = frozen_array(dtype::u8, shape, file->bytes().data(), file);
  }
  CHECK_FALSE(watched.expired());
  CHECK(a.view<std::uint8_t, 1>()(7) == '8');
  a = frozen_array();
  CHECK(watched.expired());
}

TEST_CASE("what cannot be read is named with the reason") {
  const test::temporary_folder folder;
  const std::string none = (folder / "none").string(), pipe = (folder / "pipe").string();
  for (const file_access access : {file_access::map, file_access::read}) {
    CHECK_THROWS_WITH(map_file(none, access), "cannot read \"" + none + "\": No such file or directory");
    CHECK_THROWS_WITH(map_file(folder.path(), access),
                      "cannot read \"" + folder.path().string() + "\": it is a folder");
    CHECK_THROWS_AS(map_file(folder / "none" / "below", access), io_error);
  }
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);  // opening it would wait for a writer for ever
  CHECK_THROWS_WITH(map_file(pipe), "cannot read \"" + pipe + "\": it is not a regular file");
  CHECK_THROWS_AS(map_file("/dev/null"), io_error);
}

TEST_CASE("a link is followed") {
  const test::temporary_folder folder;
  test::write_file(folder / "file", "text");
  std::filesystem::create_symlink("file", folder / "link");
  CHECK(text_of(map_file(folder / "link")->bytes()) == "text");
}
