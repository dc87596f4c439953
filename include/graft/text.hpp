// SPDX-License-Identifier: Apache-2.0
// Tokenizers: everything under text/, the reader of tokenizer.json, and text files as batches. Needs PCRE2, utf8proc and nlohmann_json: link
// graft::text. Read next: text/tokenizer.hpp.
#pragma once
#include "graft/io/text_batches.hpp"
#include "graft/io/tokenizer_json.hpp"
#include "graft/text/stream_decoder.hpp"
#include "graft/text/tokenizer.hpp"
