#include "core/data/idx_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

gzFile AsGz(void* file) { return static_cast<gzFile>(file); }

uint32_t BigEndian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

absl::StatusOr<int> OpenRegular(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FileError(errno, "open", path);
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  return fd;
}

}  // namespace

IdxReader::IdxReader(std::string path, void* file) : path_(std::move(path)), file_(file) {}

IdxReader::~IdxReader() { gzclose_r(AsGz(file_)); }

absl::StatusOr<std::unique_ptr<IdxReader>> IdxReader::Open(const std::string& path,
                                                           int dimensions) {
  std::string name = path;
  auto fd = OpenRegular(name);
  if (absl::IsNotFound(fd.status())) {
    name = absl::StrCat(path, ".gz");
    fd = OpenRegular(name);
    if (absl::IsNotFound(fd.status())) {
      return absl::NotFoundError(absl::StrCat("neither ", path, " nor ", name, " exists"));
    }
  }
  if (!fd.ok()) return fd.status();
  gzFile file = gzdopen(*fd, "rb");
  if (file == nullptr) {
    ::close(*fd);
    return absl::ResourceExhaustedError(absl::StrCat("no memory to open ", name));
  }
  std::unique_ptr<IdxReader> reader(new IdxReader(name, file));
  gzbuffer(file, 256 << 10);
  uint8_t word[4];
  RETURN_IF_ERROR(reader->Read(absl::MakeSpan(word)));
  const uint32_t magic = BigEndian(word), expected = 0x0800u | static_cast<uint32_t>(dimensions);
  if (magic != expected) {
    return absl::DataLossError(absl::StrFormat(
        "%s: magic number 0x%08x, expected 0x%08x (IDX, unsigned bytes, %d dimensions)", name,
        magic, expected, dimensions));
  }
  for (int i = 0; i < dimensions; ++i) {
    RETURN_IF_ERROR(reader->Read(absl::MakeSpan(word)));
    reader->sizes_.push_back(BigEndian(word));
  }
  return reader;
}

absl::Status IdxReader::Read(absl::Span<uint8_t> out) {
  while (!out.empty()) {
    const unsigned wanted = static_cast<unsigned>(std::min<size_t>(out.size(), 1u << 30));
    const int got = gzread(AsGz(file_), out.data(), wanted);
    int error = Z_OK;
    const char* message = gzerror(AsGz(file_), &error);
    if (got < 0 || (error != Z_OK && error != Z_STREAM_END && error != Z_BUF_ERROR)) {
      return absl::DataLossError(absl::StrCat(path_, " is damaged: ", message));
    }
    if (got == 0) return absl::DataLossError(absl::StrCat(path_, " is truncated"));
    out.remove_prefix(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::Status IdxReader::ExpectEnd() {
  uint8_t extra;
  const int got = gzread(AsGz(file_), &extra, 1);
  int error = Z_OK;
  const char* message = gzerror(AsGz(file_), &error);
  if (got < 0 || (error != Z_OK && error != Z_STREAM_END)) {
    return absl::DataLossError(absl::StrCat(path_, " is damaged: ", message));
  }
  if (got > 0) {
    return absl::DataLossError(absl::StrCat(path_, " has more bytes than its header says"));
  }
  return absl::OkStatus();
}

}  // namespace diffmoe
