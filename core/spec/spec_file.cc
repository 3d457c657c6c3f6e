#include "core/spec/spec_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

absl::Status TooLarge(const std::string& path, absl::string_view size) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": expected a spec of at most ", kMaxSpecBytes, " bytes, got ", size));
}

absl::StatusOr<std::string> ReadAll(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(info.st_mode)) {
    const char* kind = S_ISDIR(info.st_mode)    ? "a directory"
                       : S_ISFIFO(info.st_mode) ? "a FIFO"
                       : S_ISCHR(info.st_mode)  ? "a device"
                                                : "a special file";
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file, got ", kind));
  }
  if (static_cast<size_t>(info.st_size) > kMaxSpecBytes) {
    return TooLarge(path, absl::StrCat(info.st_size));
  }
  std::string text(kMaxSpecBytes + 1, '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = read(fd, text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("read ", path));
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  if (filled > kMaxSpecBytes) return TooLarge(path, "more");
  text.resize(filled);
  return text;
}

}  // namespace

absl::StatusOr<std::string> ReadSpecFile(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("spec file: expected a path without NUL");
  }
  // O_NONBLOCK: opening a FIFO without a writer returns at once.
  const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  absl::StatusOr<std::string> text = ReadAll(fd, path);
  close(fd);
  return text;
}

}  // namespace diffmoe
