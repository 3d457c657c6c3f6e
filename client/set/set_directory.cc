#include "client/set/set_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/pixel_hash.h"
#include "client/set/npy.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

constexpr char kManifestFile[] = "set.json";

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return FileError(errno, "open", path);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (file.bad()) return absl::InternalError(absl::StrCat(path, ": reading failed"));
  return bytes;
}

// What is wrong with a file of a shard; empty: nothing.
std::string Damage(const std::string& path, const std::string& hash) {
  const absl::StatusOr<std::string> bytes = ReadWhole(path);
  if (!bytes.ok()) return std::string(bytes.status().message());
  const std::string got = Xxh3Hex(*bytes);
  if (got == hash) return "";
  return absl::StrCat(path, ": expected hash ", hash, ", got ", got);
}

}  // namespace

SetDirectory::SetDirectory(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

SetDirectory::~SetDirectory() { close(lock_); }

absl::StatusOr<std::unique_ptr<SetDirectory>> SetDirectory::Open(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return FileError(error.value(), "make directory", path);
  const int lock = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock < 0) return FileError(errno, "open", path);
  std::unique_ptr<SetDirectory> directory(new SetDirectory(path, lock));
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another process makes the set in ", path, "; wait for it or stop it"));
  }
  RETURN_IF_ERROR(directory->Load());
  return directory;
}

absl::Status SetDirectory::Load() {
  const std::string file = File(kManifestFile);
  RemoveUnfinished(file);
  std::error_code error;
  exists_ = std::filesystem::exists(file, error);
  if (!exists_) {
    if (std::filesystem::is_empty(path_, error) && !error) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(path_, " holds files but no ", kManifestFile,
                                                      ": expected a new folder or that of a set"));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadWhole(file));
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(manifest_, ParseManifest(text, file));
  return absl::OkStatus();
}

SetManifest SetDirectory::manifest() const {
  absl::MutexLock lock(&mutex_);
  return manifest_;
}

absl::Status SetDirectory::Save() {
  ASSIGN_OR_RETURN(const nlohmann::ordered_json json, ManifestJson(manifest_));
  return WriteFileAtomically(File(kManifestFile), json.dump(2) + "\n");
}

absl::Status SetDirectory::Begin(const SetManifest& manifest) {
  absl::MutexLock lock(&mutex_);
  manifest_ = manifest;
  return Save();
}

std::vector<std::string> SetDirectory::DropDamagedShards() {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> lines;
  for (auto shard = manifest_.shards.begin(); shard != manifest_.shards.end();) {
    std::string damage = Damage(File(ImagesFile(shard->first)), shard->second.images_hash);
    if (damage.empty()) {
      damage = Damage(File(LabelsFile(shard->first)), shard->second.labels_hash);
    }
    if (damage.empty()) {
      ++shard;
      continue;
    }
    lines.push_back(damage);
    shard = manifest_.shards.erase(shard);
  }
  return lines;
}

absl::Status SetDirectory::CheckOrigin(const SetOrigin& origin) {
  absl::MutexLock lock(&mutex_);
  if (!manifest_.origin.has_value()) {
    manifest_.origin = origin;
    return Save();
  }
  const std::string difference = manifest_.origin->FirstDifference(origin);
  if (difference.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the images no longer fit the set in ", path_, ": ", difference));
}

absl::Status SetDirectory::WriteShard(int64_t shard, const std::string& images) {
  const SetManifest now = manifest();
  if (!now.origin.has_value()) return absl::InternalError("a shard before its first request");
  const int64_t count = now.spec.ImagesOf(shard);
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < count; ++i) {
    labels.push_back(now.spec.LabelOf(now.spec.FirstOf(shard) + i));
  }
  const std::string images_file =
      NpyBytes({count, now.origin->height, now.origin->width, now.origin->channels}, images);
  const std::string labels_file = NpyInt64(labels);
  const std::string images_path = File(ImagesFile(shard));
  const std::string labels_path = File(LabelsFile(shard));
  RemoveUnfinished(images_path);
  RemoveUnfinished(labels_path);
  RETURN_IF_ERROR(WriteFileAtomically(images_path, images_file));
  RETURN_IF_ERROR(WriteFileAtomically(labels_path, labels_file));
  absl::MutexLock lock(&mutex_);
  manifest_.shards[shard] = {Xxh3Hex(images_file), Xxh3Hex(labels_file)};
  return Save();
}

}  // namespace diffmoe
