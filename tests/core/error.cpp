// SPDX-License-Identifier: Apache-2.0
#include "graft/core/error.hpp"

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("messages are put together from texts and numbers") {
  CHECK(concat("x is ", 3, ", y is ", 0.5, ", z is ", 1e-10, '!', std::string("?"), std::size_t{18446744073709551615u}) ==
        "x is 3, y is 0.5, z is 1e-10!?18446744073709551615");
  CHECK(concat().empty());
}

TEST_CASE("whoever catches graft's error catches every kind") {
  const auto caught = [](auto thrower) -> std::string {
    try {
      thrower();
    } catch (const error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(caught([] { throw_error<shape_error>("a ", 1); }) == "a 1");
  CHECK(caught([] { throw_error<dtype_error>("b"); }) == "b");
  CHECK(caught([] { throw_error<option_error>("c"); }) == "c");
  CHECK(caught([] { throw_error<format_error>("d"); }) == "d");
  CHECK(caught([] { throw_error<state_error>("e"); }) == "e");
  CHECK(caught([] { throw_error<io_error>("f"); }) == "f");
}
