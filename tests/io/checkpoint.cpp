// SPDX-License-Identifier: Apache-2.0
#include "graft/io/checkpoint.hpp"

#include <optional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/safetensors.hpp"

using namespace graft;

namespace {

array numbers(std::vector<index_t> shape, float first) {
  tensor<float, 1> t({volume(shape)});
  for (float& v : t.span()) v = first++;
  array a = to_array(std::as_const(t).view());
  a.shape = std::move(shape);
  return a;
}

void write_index(const test::temporary_folder& folder, std::string_view weight_map) {
  test::write_file(folder / "model.safetensors.index.json",
                   concat(R"({"metadata":{"total_size":1},"weight_map":)", weight_map, "}"));
}

// Two shards of which the index names three tensors of four.
void write_shards(const test::temporary_folder& folder) {
  save_safetensors(folder / "one.safetensors", state_dict{{{"b", numbers({2, 2}, 1)}, {"extra", numbers({1}, 0)}},
                                                          {{"format", "pt"}, {"from", "one"}}});
  save_safetensors(folder / "two.safetensors",
                   state_dict{{{"a", numbers({3}, 10)}, {"c", numbers({}, 7)}}, {{"from", "two"}}});
  write_index(folder, R"({"c":"two.safetensors","b":"one.safetensors","a":"two.safetensors"})");
}

std::vector<std::string> names_of(const checkpoint_files& c) {
  std::vector<std::string> names;
  for (const auto& item : c.arrays()) names.push_back(item.first);
  return names;
}

}  // namespace

TEST_CASE("a checkpoint is a file or a folder with one") {
  const test::temporary_folder folder;
  save_safetensors(folder / "model.safetensors",
                   state_dict{{{"b", numbers({2}, 1)}, {"a", numbers({2, 3}, 5)}}, {{"format", "pt"}}});
  std::filesystem::copy_file(folder / "model.safetensors", folder / "other.safetensors");
  write_index(folder, R"({"a":"none.safetensors"})");  // the single file comes first
  for (const checkpoint_files& c : {checkpoint_files(folder.path()), checkpoint_files(folder / "other.safetensors")}) {
    CHECK(names_of(c) == std::vector<std::string>{"a", "b"});
    CHECK(c.metadata() == records<std::string>{{"format", "pt"}});
    REQUIRE(c.find("a") != nullptr);
    CHECK(c.find("a")->shape == std::vector<index_t>{2, 3});
    CHECK(c.find("c") == nullptr);
    CHECK(c.frozen("b").view<float, 1>()(1) == 2.0f);
  }
}

TEST_CASE("a checkpoint of several files holds what its index names") {
  const test::temporary_folder folder;
  write_shards(folder);
  const checkpoint_files c(folder.path());
  CHECK(names_of(c) == std::vector<std::string>{"a", "b", "c"});
  CHECK(c.frozen("a").view<float, 1>()(2) == 12.0f);
  CHECK(c.frozen("b").matrix().rows == 2);
  CHECK(c.frozen("c").view<float, 0>()() == 7.0f);
  CHECK(c.find("extra") == nullptr);
  CHECK(c.metadata() == records<std::string>{{"format", "pt"}, {"from", "one"}});
}

TEST_CASE("a frozen array is the file itself and outlives the checkpoint") {
  const test::temporary_folder folder;
  save_safetensors(folder / "model.safetensors", state_dict{{{"w", numbers({2, 3}, 1)}}, {}});
  std::optional<checkpoint_files> c(folder.path());
  const frozen_array w = c->frozen("w");
  CHECK(w.bytes().data() == c->find("w")->bytes.data());
  CHECK(c->frozen("w").bytes().data() == w.bytes().data());
  c.reset();
  std::filesystem::remove(folder / "model.safetensors");
  CHECK(w.view<float, 2>()(1, 2) == 6.0f);
}

TEST_CASE("a tensor at an odd address is copied to an even one") {
  const test::temporary_folder folder;
  const float value = 2.5f;
  const auto file = test::safetensors_file(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      std::string("x") + std::string(reinterpret_cast<const char*>(&value), 4));
  for (std::size_t pad = 0; pad < 4; ++pad) {  // the header's length moves the data through every remainder
    std::string header(reinterpret_cast<const char*>(file.data()) + 8, file.size() - 13);
    const auto padded = test::safetensors_file(header + std::string(pad, ' '),
                                               {reinterpret_cast<const char*>(file.data() + file.size() - 5), 5});
    write_file_atomically(folder / "model.safetensors", padded);
    const checkpoint_files c(folder.path());
    const frozen_array b = c.frozen("b");
    REQUIRE(b.holds<float>());
    CHECK(b.view<float, 1>()(0) == 2.5f);
    CHECK((b.bytes().data() == c.find("b")->bytes.data()) ==
          (reinterpret_cast<std::uintptr_t>(c.find("b")->bytes.data()) % 4 == 0));
  }
}

TEST_CASE("a tensor of a foreign element type is in nobody's way until it is asked for") {
  const test::temporary_folder folder;
  write_file_atomically(
      folder / "model.safetensors",
      test::safetensors_file(
          R"({"attn.bias":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
          R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          "ab"));
  write_index(folder, R"({"attn.bias":"model.safetensors","w":"model.safetensors"})");
  const auto check = [&] {
    const checkpoint_files c(folder.path());
    CHECK(names_of(c) == std::vector<std::string>{"w"});
    CHECK_THROWS_WITH(c.find("attn.bias"),
                      "checkpoint \"" + folder.path().string() + "\": tensor \"attn.bias\" has unsupported dtype BOOL");
    CHECK_THROWS_AS(c.frozen("attn.bias"), dtype_error);
  };
  check();
  std::filesystem::rename(folder / "model.safetensors", folder / "shard");
  write_index(folder, R"({"attn.bias":"shard","w":"shard"})");
  check();
}

TEST_CASE("what is missing is named") {
  const test::temporary_folder folder;
  const std::string where = folder.path().string();
  CHECK_THROWS_AS(checkpoint_files(folder / "none"), io_error);
  CHECK_THROWS_WITH(checkpoint_files(folder.path()),
                    "cannot read \"" + where +
                        "\": the folder has neither model.safetensors nor "
                        "model.safetensors.index.json (pickled .bin files are not read)");
  write_shards(folder);
  CHECK_THROWS_WITH(checkpoint_files(folder.path()).frozen("d"), "checkpoint \"" + where + "\" has no tensor \"d\"");
  write_index(folder, R"({"a":"one.safetensors"})");
  CHECK_THROWS_WITH(checkpoint_files(folder.path()),
                    where + "/one.safetensors: the index names tensor \"a\", which is not in it");
  write_index(folder, R"({"a":"three.safetensors"})");
  CHECK_THROWS_WITH(checkpoint_files(folder.path()),
                    "cannot read \"" + where + "/three.safetensors\": No such file or directory");
}

TEST_CASE("an index reaches only plain names in its own folder") {
  const test::temporary_folder outer, folder;
  write_shards(outer);
  const std::string outside = (outer / "one.safetensors").string();
  const std::string near = "../" + outer.path().filename().string() + "/one.safetensors";
  for (const std::string& name : {outside, near, std::string(".."), std::string("."), std::string(),
                                  std::string("sub/one"), std::string("sub\\\\one"), std::string("a\\u0000b")}) {
    write_index(folder, concat(R"({"b":")", name, R"("})"));
    CHECK_THROWS_AS(checkpoint_files(folder.path()), format_error);
  }
  write_index(folder, R"({"b":"../x"})");
  CHECK_THROWS_WITH(checkpoint_files(folder.path()),
                    (folder / "model.safetensors.index.json").string() +
                        ": weight_map.b: expected the plain name of a file in the same folder, got \"../x\"");
  for (const char* map : {"[]", "null", R"({"b":1})", R"({"b":["one.safetensors"]})", R"({"b":"x","b":"x"})"}) {
    write_index(folder, map);
    CHECK_THROWS_AS(checkpoint_files(folder.path()), format_error);
  }
  test::write_file(folder / "model.safetensors.index.json", "{}");
  CHECK_THROWS_WITH(checkpoint_files(folder.path()),
                    (folder / "model.safetensors.index.json").string() + ": has no \"weight_map\"");
}

TEST_CASE("a tensor of more than four dimensions is listed but cannot be frozen") {
  const test::temporary_folder folder;
  save_safetensors(folder / "model.safetensors", state_dict{{{"conv", numbers({1, 1, 1, 1, 2}, 0)}}, {}});
  const checkpoint_files c(folder.path());
  CHECK(c.find("conv")->shape.size() == 5);
  CHECK_THROWS_WITH(c.frozen("conv"), "checkpoint \"" + folder.path().string() +
                                          "\": tensor \"conv\" of shape (1, 1, 1, 1, 2) has more than 4 dimensions");
}

TEST_CASE("a published model folder opens") {
  GRAFT_REQUIRE_DATA(path, "stories260K");
  const checkpoint_files c(path);
  CHECK(c.arrays().size() == 47);
  CHECK(c.frozen().size() == 47);
  CHECK(find(c.frozen(), "model.embed_tokens.weight")->matrix().rows == 512);
}
