// Reader and writer of safetensors files: 8 bytes of little-endian header length, a JSON header,
// the tensors' bytes. (https://huggingface.co/docs/safetensors, "Format".)
//
// A file is not trusted: nothing is allocated from a length that it states beyond its own size, and
// every tensor's dtype, shape and offsets are checked on Open. Errors: NOT_FOUND; INVALID_ARGUMENT
// (not a regular file, or a pickle); DATA_LOSS naming the file and the tensor for anything
// malformed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/atomic_file.h"

namespace diffmoe {

struct SafetensorsInfo {
  std::string name;
  std::string dtype;  // "F32", "BF16", "I64", "U8", "BOOL", ...
  std::vector<int64_t> shape;
  int64_t offset = 0;  // from the first byte of the data section; the writer fills it in
  int64_t bytes = 0;   // as above

  int64_t elements() const;
};

// Free text of the header, in the order of the file.
using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

// Bytes of one element, or 0 for an unknown dtype.
int64_t SafetensorsDtypeSize(std::string_view dtype);

// Thread-safe after Open. Holds the file open and reads tensors on demand.
class SafetensorsReader {
 public:
  static constexpr int64_t kMaxHeaderBytes = int64_t{32} << 20;

  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(const SafetensorsReader&) = delete;
  SafetensorsReader& operator=(const SafetensorsReader&) = delete;

  const SafetensorsMetadata& metadata() const { return metadata_; }
  // The value of a metadata key, or nullptr. Lives as long as the reader.
  const std::string* FindMetadata(std::string_view key) const;
  // In the order of their bytes.
  const std::vector<SafetensorsInfo>& tensors() const { return tensors_; }
  // The tensor of that name, or nullptr. Lives as long as the reader.
  const SafetensorsInfo* Find(const std::string& name) const;

  // Little-endian bytes of a tensor. `out` must hold exactly info.bytes.
  absl::Status ReadInto(const SafetensorsInfo& info, absl::Span<char> out) const;
  // NOT_FOUND when there is no such tensor.
  absl::StatusOr<std::string> Read(const std::string& name) const;
  // The values of an F32 tensor; FAILED_PRECONDITION for another dtype.
  absl::StatusOr<std::vector<float>> ReadFloats(const std::string& name) const;

 private:
  SafetensorsReader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status ParseHeader(int64_t file_bytes);

  std::string path_;
  int fd_;
  int64_t data_begin_ = 0;
  SafetensorsMetadata metadata_;
  std::vector<SafetensorsInfo> tensors_;
  std::map<std::string_view, const SafetensorsInfo*> by_name_;
};

// Writes a file in one pass without holding its tensors in memory: Create with the complete list,
// then Append the bytes of all tensors in that order, in pieces of any size, then Finish. The file
// appears at Finish, whole. Not thread-safe. Errors: INVALID_ARGUMENT for an unknown dtype,
// negative dimension, repeated or unprintable name or metadata key, and for too many or too few
// bytes; file errors as in AtomicFile.
class SafetensorsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const SafetensorsMetadata& metadata,
      std::vector<SafetensorsInfo> tensors);

  // The list with offset and bytes filled in.
  const std::vector<SafetensorsInfo>& tensors() const { return tensors_; }
  absl::Status Append(std::string_view bytes);
  absl::Status Finish();

 private:
  SafetensorsWriter(std::unique_ptr<AtomicFile> file, std::vector<SafetensorsInfo> tensors,
                    int64_t data_bytes)
      : file_(std::move(file)), tensors_(std::move(tensors)), data_bytes_(data_bytes) {}

  std::unique_ptr<AtomicFile> file_;
  std::vector<SafetensorsInfo> tensors_;
  int64_t data_bytes_;
  int64_t written_bytes_ = 0;
};

struct SafetensorsData {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string_view data;  // little-endian
};

absl::Status WriteSafetensors(const std::string& path, const SafetensorsMetadata& metadata,
                              absl::Span<const SafetensorsData> tensors);

}  // namespace diffmoe
