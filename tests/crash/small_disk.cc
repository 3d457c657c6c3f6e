#include "tests/crash/small_disk.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace diffmoe::test {

absl::StatusOr<std::unique_ptr<SmallDisk>> SmallDisk::Mount(int64_t bytes, int64_t inodes) {
  auto disk = std::unique_ptr<SmallDisk>(new SmallDisk());
  const std::string path = disk->dir_.Sub("disk");
  std::filesystem::create_directory(path);
  std::string options = absl::StrCat("size=", bytes);
  if (inodes > 0) absl::StrAppend(&options, ",nr_inodes=", inodes);
  if (mount("tmpfs", path.c_str(), "tmpfs", 0, options.c_str()) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("a tmpfs can't be mounted here: ", std::strerror(errno)));
  }
  disk->path_ = path;
  std::filesystem::create_directory(path + "/ballast");
  return disk;
}

SmallDisk::~SmallDisk() {
  if (!path_.empty()) umount2(path_.c_str(), MNT_DETACH);
}

void SmallDisk::FillBytes() {
  const std::string file = path_ + "/ballast/bytes";
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  const std::string block(4096, 'x');
  ssize_t written = 1;
  while (written > 0) written = write(fd, block.data(), block.size());
  if (fd < 0 || errno != ENOSPC) std::abort();
  close(fd);
}

void SmallDisk::FillInodes() {
  for (int number = 0;; ++number) {
    const std::string file = absl::StrCat(path_, "/ballast/", number);
    const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 && errno == ENOSPC) return;
    if (fd < 0) std::abort();
    close(fd);
  }
}

void SmallDisk::Free() {
  for (const auto& entry : std::filesystem::directory_iterator(path_ + "/ballast"))
    std::filesystem::remove(entry.path());
}

}  // namespace diffmoe::test
