#include "worker/agent/worker_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/atomic_file.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxLogs = 200;
constexpr int64_t kMaxLogBytes = int64_t{1} << 30;
constexpr size_t kMaxSocketPath = sizeof(sockaddr_un{}.sun_path) - 1;

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return absl::OkStatus();
  const absl::Status status = FileError(error.value(), "create folder", path);
  // Whatever lies in its way: a folder that can't be made is one that can't be written.
  return absl::IsNotFound(status) ? absl::PermissionDeniedError(status.message()) : status;
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

bool IsWorkerId(const std::string& text) {
  return text.size() == 10 && text.rfind("w-", 0) == 0 &&
         std::all_of(text.begin() + 2, text.end(), absl::ascii_isxdigit);
}

std::string SafeName(const std::string& text) {
  std::string out = text.substr(0, 100);
  for (char& c : out) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.') c = '_';
  }
  return out.empty() || out[0] == '.' ? absl::StrCat("_", out) : out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerDirectory>> WorkerDirectory::Open(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  if (error) return FileError(error.value(), "find", path);
  auto directory =
      std::unique_ptr<WorkerDirectory>(new WorkerDirectory(absolute.lexically_normal()));
  RETURN_IF_ERROR(MakeFolder(directory->path_));
  RETURN_IF_ERROR(directory->Lock());
  KillPoint("worker.locked");
  for (const char* file : {"/worker.json", "/worker_id"}) RemoveUnfinished(directory->path_ + file);
  RETURN_IF_ERROR(MakeFolder(absl::StrCat(directory->path_, "/logs")));
  RETURN_IF_ERROR(directory->LoadWorkerId());
  KillPoint("worker.identified");
  RETURN_IF_ERROR(directory->ChooseSocket());
  KillPoint("worker.opened");
  return directory;
}

WorkerDirectory::~WorkerDirectory() {
  if (lock_fd_ < 0) return;
  unlink(absl::StrCat(path_, "/worker.json").c_str());
  if (!socket_path_.empty()) unlink(socket_path_.c_str());
  if (!socket_folder_.empty()) rmdir(socket_folder_.c_str());
  close(lock_fd_);
}

absl::Status WorkerDirectory::Lock() {
  const std::string lock_path = absl::StrCat(path_, "/lock");
  const int fd = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return FileError(errno, "open", lock_path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd);
    if (error != EWOULDBLOCK) return FileError(error, "lock", lock_path);
    return absl::AlreadyExistsError(
        absl::StrCat("directory ", path_, " is held by another worker, pid ",
                     std::string(absl::StripAsciiWhitespace(ReadFile(lock_path)))));
  }
  lock_fd_ = fd;
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return FileError(errno, "write", lock_path);
  }
  return absl::OkStatus();
}

absl::Status WorkerDirectory::LoadWorkerId() {
  const std::string path = absl::StrCat(path_, "/worker_id");
  const std::string stored = ReadFile(path);
  worker_id_ = std::string(absl::StripAsciiWhitespace(stored));
  if (IsWorkerId(worker_id_)) return absl::OkStatus();
  std::random_device random;
  worker_id_ = absl::StrFormat("w-%08x", random());
  if (!stored.empty()) {
    LogWarning("worker", "the stored worker id is damaged, made a new one",
               {{"file", path}, {"worker_id", worker_id_}});
  }
  return WriteFileAtomically(path, worker_id_ + "\n");
}

absl::Status WorkerDirectory::ChooseSocket() {
  std::string path = absl::StrCat(path_, "/rank.sock");
  if (path.size() > kMaxSocketPath) {
    std::string folder = absl::StrCat("/tmp/diffmoe-", getuid(), "-", worker_id_);
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
      return FileError(errno, "create folder", folder);
    }
    struct stat info {};
    if (lstat(folder.c_str(), &info) != 0) return FileError(errno, "read", folder);
    if (!S_ISDIR(info.st_mode) || info.st_uid != getuid() || (info.st_mode & 0077) != 0) {
      return absl::PermissionDeniedError(
          absl::StrCat(folder, ": expected a folder of user ", getuid(), " with mode 0700"));
    }
    socket_folder_ = folder;
    path = absl::StrCat(folder, "/rank.sock");
  }
  unlink(path.c_str());
  socket_path_ = path;
  return absl::OkStatus();
}

absl::Status WorkerDirectory::WriteInfo(const std::string& metrics_address) const {
  const nlohmann::json info = {{"worker_id", worker_id_},
                               {"metrics_address", metrics_address},
                               {"socket", socket_path_},
                               {"pid", getpid()}};
  return WriteFileAtomically(absl::StrCat(path_, "/worker.json"), info.dump(2) + "\n");
}

std::string WorkerDirectory::LogPath(const std::string& group, int64_t epoch, int rank) const {
  return absl::StrCat(path_, "/logs/", SafeName(group), "-", epoch, "-", rank, ".log");
}

void WorkerDirectory::PruneLogs(const std::function<bool(const std::string&)>& in_use) const {
  struct RankLog {
    fs::file_time_type time = fs::file_time_type::min();
    int64_t bytes = 0;
    std::vector<fs::path> files;
  };
  constexpr std::string_view kEnd = ".log";
  std::error_code error;
  std::map<std::string, RankLog> logs;  // by path without the number of an older file
  for (const auto& entry : fs::directory_iterator(absl::StrCat(path_, "/logs"), error)) {
    const std::string path = entry.path().string();
    const size_t end = path.rfind(kEnd);
    if (end == std::string::npos) continue;
    RankLog& log = logs[path.substr(0, end + kEnd.size())];
    std::error_code gone;  // by its own rotation
    log.time = std::max(log.time, entry.last_write_time(gone));
    const auto bytes = entry.file_size(gone);
    if (!gone) log.bytes += static_cast<int64_t>(bytes);
    log.files.push_back(entry.path());
  }
  std::vector<const RankLog*> ended;
  int64_t bytes = 0;
  for (const auto& [path, log] : logs) {
    if (in_use(path)) continue;
    ended.push_back(&log);
    bytes += log.bytes;
  }
  std::sort(ended.begin(), ended.end(),
            [](const RankLog* a, const RankLog* b) { return a->time < b->time; });
  size_t count = ended.size();
  for (const RankLog* log : ended) {
    if (count < kMaxLogs && bytes <= kMaxLogBytes) break;
    for (const fs::path& file : log->files) fs::remove(file, error);
    bytes -= log->bytes;
    --count;
  }
}

}  // namespace diffmoe
