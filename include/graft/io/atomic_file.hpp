// SPDX-License-Identifier: Apache-2.0
// Files that appear whole or not at all: written beside their place, then renamed. Read next: io/safetensors.hpp.
#pragma once
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#if __has_include(<unistd.h>)
#include <fcntl.h>
#include <unistd.h>
#endif

#include "graft/core/error.hpp"
#include "graft/core/function_ref.hpp"

namespace graft {

/// Takes the next bytes of something that is being written.
using byte_sink = function_ref<void(std::span<const std::byte>)>;

namespace detail {

// The sibling under which a file is written. Goes away with its owner unless it has taken its place.
class temporary_file {
 public:
  explicit temporary_file(const std::filesystem::path& place) : place_(place) {
    std::error_code ignored;
    const auto kind = std::filesystem::status(place_, ignored).type();
    if (kind == std::filesystem::file_type::directory) fail("there is a folder of that name");
    if (std::filesystem::exists(std::filesystem::file_status(kind)) && kind != std::filesystem::file_type::regular)
      fail("something of that name is not a regular file");
    open();
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;

  ~temporary_file() {
    if (file_ != nullptr) std::fclose(file_);
    std::error_code ignored;
    if (!taken_place_) std::filesystem::remove(path_, ignored);
  }

  void write(std::span<const std::byte> bytes) {
    check(error_ == 0);  // what failed once stays failed, even if the writer went on
    check(bytes.empty() || std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size());
  }

  // Everything is on the disk, under the sibling's name: what could fail for want of room is over.
  void complete() {
    check(error_ == 0);
    check(std::fflush(file_) == 0);
    sync();
    check(std::fclose(std::exchange(file_, nullptr)) == 0);
  }

  // Only after complete().
  void take_place() {
    std::error_code failure;
    std::filesystem::rename(path_, place_, failure);
    if (failure) fail(failure.message());
    taken_place_ = true;
    sync_folder();
  }

 private:
  [[noreturn]] void fail(std::string_view reason) const {
    throw_error<io_error>("cannot write \"", place_.string(), "\": ", reason);
  }

  void check(bool good) {
    if (good) return;
    if (error_ == 0) error_ = errno != 0 ? errno : EIO;
    fail(std::generic_category().message(error_));
  }

  // Another writer, or one that was killed, may hold a name: take the first that is free.
  void open() {
    for (int attempt = 0; file_ == nullptr; ++attempt) {
      path_ = place_;
      path_ += concat(".tmp", attempt);
      errno = 0;
      file_ = std::fopen(path_.string().c_str(), "wbx");
      check(file_ != nullptr || (errno == EEXIST && attempt < 9999));
    }
  }

  void sync() {
#if __has_include(<unistd.h>)
    check(::fsync(::fileno(file_)) == 0);
#endif
  }

  // Makes the new name outlive a power cut. Not every file system can; the file is then no less whole.
  void sync_folder() const {
#if __has_include(<unistd.h>)
    const std::filesystem::path folder = place_.has_parent_path() ? place_.parent_path() : ".";
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return;
    [[maybe_unused]] const int ignored = ::fsync(descriptor);
    ::close(descriptor);
#endif
  }

  std::filesystem::path place_, path_;
  std::FILE* file_ = nullptr;
  int error_ = 0;
  bool taken_place_ = false;
};

}  // namespace detail

/// Writes a file through `write`, which is handed a sink and may call it any number of times, so that nothing large
/// need stand in memory. Readers see the old file or the new one, whole; a program that has the old one mapped keeps
/// it. On any failure, an exception from `write` included, the old file is untouched and nothing is left beside it. A
/// symbolic link at `path` is replaced, not followed. Throws io_error with the path and the system's reason.
inline void write_file_atomically(const std::filesystem::path& path, function_ref<void(byte_sink)> write) {
  detail::temporary_file file(path);
  const auto sink = [&](std::span<const std::byte> bytes) { file.write(bytes); };
  write(sink);
  file.complete();
  file.take_place();
}

/// The same for bytes that are in memory already.
inline void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  write_file_atomically(path, [&](byte_sink sink) { sink(bytes); });
}
inline void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text)));
}

}  // namespace graft
