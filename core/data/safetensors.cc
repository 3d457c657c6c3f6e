#include "core/data/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/data/safetensors_header.h"

static_assert(std::endian::native == std::endian::little,
              "tensors are read as little-endian bytes");

namespace diffmoe {
namespace {

constexpr int64_t kLengthBytes = 8;

absl::Status ReadAt(int fd, int64_t offset, absl::Span<char> out, const std::string& path) {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd, out.data(), out.size(), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EIO)
        return absl::DataLossError(absl::StrCat("cannot read ", path, ": I/O error"));
      return FileError(errno, "read", path);
    }
    if (got == 0)
      return absl::DataLossError(absl::StrCat(path, " became shorter while it was read"));
    out.remove_prefix(static_cast<size_t>(got));
    offset += got;
  }
  return absl::OkStatus();
}

// True for what torch.save writes: a zip archive or a bare pickle.
bool LooksLikePickle(std::string_view head) {
  return head.starts_with("PK\x03\x04") ||
         (head.size() >= 2 && head[0] == '\x80' && head[1] >= 1 && head[1] <= 5 && head[2] != 0);
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(
    const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FileError(errno, "open", path);
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader(path, fd));
  struct stat info;
  if (::fstat(fd, &info) != 0) return FileError(errno, "inspect", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  RETURN_IF_ERROR(reader->ParseHeader(info.st_size));
  return reader;
}

SafetensorsReader::~SafetensorsReader() { ::close(fd_); }

absl::Status SafetensorsReader::ParseHeader(int64_t file_bytes) {
  if (file_bytes < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(
        path_, ": ", file_bytes, " bytes are too few for a safetensors file (8 at least)"));
  }
  char head[kLengthBytes];
  RETURN_IF_ERROR(ReadAt(fd_, 0, absl::MakeSpan(head), path_));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, head, sizeof(header_bytes));
  if (LooksLikePickle(std::string_view(head, sizeof(head)))) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_,
                     ": a PyTorch pickle can run code when it is loaded and is refused by design; "
                     "save the weights with safetensors.torch.save_file instead"));
  }
  if (header_bytes > static_cast<uint64_t>(file_bytes - kLengthBytes)) {
    return absl::DataLossError(absl::StrCat(path_, ": header length ", header_bytes,
                                            " is past the end of the file of ", file_bytes,
                                            " bytes"));
  }
  if (header_bytes > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return absl::DataLossError(absl::StrCat(path_, ": header length ", header_bytes,
                                            " is over the limit of ", kMaxHeaderBytes, " bytes"));
  }
  std::string json(header_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(fd_, kLengthBytes, absl::MakeSpan(json), path_));
  data_begin_ = kLengthBytes + static_cast<int64_t>(header_bytes);
  auto header = ParseSafetensorsHeader(json, file_bytes - data_begin_);
  if (!header.ok()) return InFile(path_, header.status());
  metadata_ = std::move(header->metadata);
  tensors_ = std::move(header->tensors);
  for (const SafetensorsInfo& tensor : tensors_) by_name_.emplace(tensor.name, &tensor);
  return absl::OkStatus();
}

const std::string* SafetensorsReader::FindMetadata(std::string_view key) const {
  for (const auto& [name, value] : metadata_) {
    if (name == key) return &value;
  }
  return nullptr;
}

const SafetensorsInfo* SafetensorsReader::Find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

absl::Status SafetensorsReader::ReadInto(const SafetensorsInfo& info, absl::Span<char> out) const {
  if (static_cast<int64_t>(out.size()) != info.bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor '", info.name, "' has ",
                                                   info.bytes, " bytes, the buffer has ",
                                                   out.size()));
  }
  return ReadAt(fd_, data_begin_ + info.offset, out, path_);
}

absl::StatusOr<std::string> SafetensorsReader::Read(const std::string& name) const {
  const SafetensorsInfo* info = Find(name);
  if (info == nullptr) return absl::NotFoundError(absl::StrCat(path_, ": no tensor '", name, "'"));
  std::string bytes(static_cast<size_t>(info->bytes), '\0');
  RETURN_IF_ERROR(ReadInto(*info, absl::MakeSpan(bytes)));
  return bytes;
}

absl::StatusOr<std::vector<float>> SafetensorsReader::ReadFloats(const std::string& name) const {
  const SafetensorsInfo* info = Find(name);
  if (info == nullptr) return absl::NotFoundError(absl::StrCat(path_, ": no tensor '", name, "'"));
  if (info->dtype != "F32") {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": tensor '", name, "' is ", info->dtype, ", expected F32"));
  }
  std::vector<float> values(static_cast<size_t>(info->bytes) / sizeof(float));
  RETURN_IF_ERROR(
      ReadInto(*info, absl::Span<char>(reinterpret_cast<char*>(values.data()), info->bytes)));
  return values;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const SafetensorsMetadata& metadata,
    std::vector<SafetensorsInfo> tensors) {
  auto json = MakeSafetensorsHeader(metadata, tensors);
  if (!json.ok()) return InFile(path, json.status());
  ASSIGN_OR_RETURN(auto file, AtomicFile::Create(path));
  const uint64_t header_bytes = json->size();
  RETURN_IF_ERROR(file->Append(
      std::string_view(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes))));
  RETURN_IF_ERROR(file->Append(*json));
  int64_t data_bytes = 0;
  for (const SafetensorsInfo& tensor : tensors) data_bytes += tensor.bytes;
  return std::unique_ptr<SafetensorsWriter>(
      new SafetensorsWriter(std::move(file), std::move(tensors), data_bytes));
}

absl::Status SafetensorsWriter::Append(std::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > data_bytes_ - written_bytes_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensors have ", data_bytes_, " bytes, got at least ",
                     written_bytes_ + static_cast<int64_t>(bytes.size())));
  }
  RETURN_IF_ERROR(file_->Append(bytes));
  written_bytes_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (written_bytes_ != data_bytes_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensors have ", data_bytes_, " bytes, got ", written_bytes_));
  }
  return file_->Commit();
}

absl::Status WriteSafetensors(const std::string& path, const SafetensorsMetadata& metadata,
                              absl::Span<const SafetensorsData> tensors) {
  std::vector<SafetensorsInfo> infos;
  for (const SafetensorsData& tensor : tensors) {
    infos.push_back({.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape});
  }
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, metadata, std::move(infos)));
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (static_cast<int64_t>(tensors[i].data.size()) != writer->tensors()[i].bytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor '", tensors[i].name,
                                                     "' needs ", writer->tensors()[i].bytes,
                                                     " bytes, got ", tensors[i].data.size()));
    }
    RETURN_IF_ERROR(writer->Append(tensors[i].data));
  }
  return writer->Finish();
}

}  // namespace diffmoe
