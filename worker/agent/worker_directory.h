// The worker's directory: who holds it, who the worker is, and where its ranks find it.
//
//   lock         held (flock) by the running worker; contains its pid
//   worker_id    stable across restarts
//   worker.json  worker_id, metrics_address, socket, pid; there while the worker serves
//   rank.sock    socket of the rank plane, mode 0600
//   logs/        stdout and stderr of each rank (core/base/log_file.h), of the newest 200 ranks and
//                at most 1 GiB besides those of ranks that run
//
// Not thread-safe. Destroying it removes worker.json and the socket and lets the lock go.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace diffmoe {

class WorkerDirectory {
 public:
  // Creates what is missing. Errors: ALREADY_EXISTS naming the pid of the worker that holds it;
  // PERMISSION_DENIED and other errors of the file system, naming the path.
  static absl::StatusOr<std::unique_ptr<WorkerDirectory>> Open(const std::string& path);
  ~WorkerDirectory();
  WorkerDirectory(const WorkerDirectory&) = delete;
  WorkerDirectory& operator=(const WorkerDirectory&) = delete;

  const std::string& worker_id() const { return worker_id_; }
  // DIR/rank.sock, or a path under /tmp when that is longer than a socket address may be.
  const std::string& socket_path() const { return socket_path_; }

  absl::Status WriteInfo(const std::string& metrics_address) const;
  // Log file of a rank.
  std::string LogPath(const std::string& group, int64_t epoch, int rank) const;
  // Removes the oldest logs beyond the bounds, but for those that are in use.
  void PruneLogs(const std::function<bool(const std::string& path)>& in_use) const;

 private:
  explicit WorkerDirectory(std::string path) : path_(std::move(path)) {}
  absl::Status Lock();
  absl::Status LoadWorkerId();
  absl::Status ChooseSocket();

  const std::string path_;
  int lock_fd_ = -1;
  std::string worker_id_;
  std::string socket_path_;
  std::string socket_folder_;  // set when it is one of our own under /tmp
};

}  // namespace diffmoe
