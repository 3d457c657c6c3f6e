// The folder of a set of images: shards and set.json, each file whole or not there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/set/set_manifest.h"

namespace diffmoe {

// Thread-safe. Holds a lock on the folder for its life, so that one process at a time writes there.
class SetDirectory {
 public:
  // Makes the folder when there is none. Errors: FAILED_PRECONDITION when another process works
  // there, or when it holds files but no set; those of making it.
  static absl::StatusOr<std::unique_ptr<SetDirectory>> Open(const std::string& path);
  ~SetDirectory();
  SetDirectory(const SetDirectory&) = delete;
  SetDirectory& operator=(const SetDirectory&) = delete;

  // Whether set.json was there. The set can be read then; DATA_LOSS when that failed.
  bool exists() const { return exists_; }
  SetManifest manifest() const;
  const std::string& path() const { return path_; }

  // Begins a new set: writes set.json without shards.
  absl::Status Begin(const SetManifest& manifest);
  // Compares every complete shard with its hash. Those that differ are no longer part of the set;
  // returns a line about each.
  std::vector<std::string> DropDamagedShards();
  // The first finished request says what all must agree on. FAILED_PRECONDITION that names the
  // difference when `origin` is another one than the set has.
  absl::Status CheckOrigin(const SetOrigin& origin);
  // Writes both files of a shard, then set.json. images: the pixels of all its images in order.
  absl::Status WriteShard(int64_t shard, const std::string& images);

 private:
  SetDirectory(std::string path, int lock);
  absl::Status Load();
  absl::Status Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  const std::string path_;
  const int lock_;
  bool exists_ = false;
  mutable absl::Mutex mutex_;
  SetManifest manifest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe
