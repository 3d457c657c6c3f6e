// IDX files, plain or gzipped: big-endian magic number and sizes, then bytes
// (http://yann.lecun.com/exdb/mnist, "The IDX file format"). Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace diffmoe {

// Reads one file of unsigned bytes front to back. Memory doesn't depend on what the header says.
class IdxReader {
 public:
  // Opens `path`, or `path`.gz when there is no such file, and checks for unsigned bytes with
  // `dimensions` dimensions. NOT_FOUND, INVALID_ARGUMENT (not a regular file), DATA_LOSS (not an
  // IDX file of that kind, truncated).
  static absl::StatusOr<std::unique_ptr<IdxReader>> Open(const std::string& path, int dimensions);
  ~IdxReader();
  IdxReader(const IdxReader&) = delete;
  IdxReader& operator=(const IdxReader&) = delete;

  const std::vector<int64_t>& sizes() const { return sizes_; }
  // The name of the file that was opened.
  const std::string& path() const { return path_; }
  // The next bytes. DATA_LOSS when the file ends too early or its compressed data are damaged.
  absl::Status Read(absl::Span<uint8_t> out);
  // DATA_LOSS when bytes are left or the compressed data's checksum is wrong.
  absl::Status ExpectEnd();

 private:
  IdxReader(std::string path, void* file);

  std::string path_;
  void* file_;  // gzFile
  std::vector<int64_t> sizes_;
};

}  // namespace diffmoe
