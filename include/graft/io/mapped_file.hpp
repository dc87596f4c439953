// SPDX-License-Identifier: Apache-2.0
// A file as one span of bytes: mapped into memory where the system can, else read. Read next: io/safetensors.hpp.
#pragma once
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <system_error>
#include <utility>

#if __has_include(<sys/mman.h>)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "graft/core/error.hpp"

namespace graft {

/// How a file's bytes come into memory.
enum class file_access {
  map,   ///< pages are fetched when touched and shared between processes; cutting the file short ends whoever reads it
  read,  ///< a private copy, which no change of the file can touch; also what `map` does where nothing can be mapped
};

/// The bytes of a regular file, read-only. They stay where they are for as long as the object lives.
class mapped_file {
 public:
  /// Throws io_error, with the path and the system's reason, for what is absent, unreadable or no regular file.
  explicit mapped_file(std::filesystem::path path, file_access access = file_access::map) : path_(std::move(path)) {
    std::error_code failure;
    const auto kind = std::filesystem::status(path_, failure).type();
    if (kind == std::filesystem::file_type::directory) fail("it is a folder");
    if (kind != std::filesystem::file_type::regular) fail(failure ? failure.message() : "it is not a regular file");
    const auto size = std::filesystem::file_size(path_, failure);
    if (failure) fail(failure.message());
    if (access == file_access::read || !map(static_cast<std::size_t>(size))) read(static_cast<std::size_t>(size));
  }
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;

  ~mapped_file() {
#if __has_include(<sys/mman.h>)
    if (mapped_) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
#endif
  }

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  [[noreturn]] void fail(std::string_view reason) const {
    throw_error<io_error>("cannot read \"", path_.string(), "\": ", reason);
  }
  [[noreturn]] void fail(int code) const { fail(std::generic_category().message(code)); }

  // False where the file has to be read instead: it is empty, or lies on a file system that cannot map.
  bool map([[maybe_unused]] std::size_t size) {
#if __has_include(<sys/mman.h>)
    if (size == 0) return false;
    const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(errno);
    void* first = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);  // the map keeps the file
    if (first == MAP_FAILED) return false;
    bytes_ = {static_cast<const std::byte*>(first), size};
    mapped_ = true;
#endif
    return mapped_;
  }

  void read(std::size_t size) {
    struct closer {
      void operator()(std::FILE* f) const { std::fclose(f); }
    };
    const std::unique_ptr<std::FILE, closer> file(std::fopen(path_.string().c_str(), "rb"));
    if (!file) fail(errno);
    copy_ = std::make_unique_for_overwrite<std::byte[]>(size);
    const std::size_t got = std::fread(copy_.get(), 1, size, file.get());
    if (std::ferror(file.get())) fail(errno);
    if (got != size) fail(concat("it ended after ", got, " of ", size, " bytes"));
    bytes_ = {copy_.get(), size};
  }

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
  std::unique_ptr<std::byte[]> copy_;
  bool mapped_ = false;
};

/// The file as a shared owner of its bytes: what keeps a frozen_array alive. Mapping reads nothing yet.
inline std::shared_ptr<const mapped_file> map_file(const std::filesystem::path& path,
                                                   file_access access = file_access::map) {
  return std::make_shared<const mapped_file>(path, access);
}

}  // namespace graft
