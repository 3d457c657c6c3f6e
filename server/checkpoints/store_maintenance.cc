#include "server/checkpoints/store_maintenance.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/atomic_file.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/base/version.h"
#include "server/checkpoints/shard_rules.h"
#include "server/state/records.h"

namespace diffmoe::server {
namespace {

namespace fs = std::filesystem;
using worker::v1::Manifest;

constexpr char kSummaryFile[] = "/backup.json";
// Stands in a folder that is being filled.
constexpr char kUnfinishedFile[] = "/unfinished";
constexpr int64_t kProgressBytes = int64_t{16} << 20;

bool IsEmptyOrAbsent(const std::string& path) {
  std::error_code error;
  return !fs::exists(fs::symlink_status(path, error)) ||
         (fs::is_directory(path, error) && fs::is_empty(path, error));
}

// A fresh folder beside `directory`, in place of one that an interrupted run has left.
absl::StatusOr<std::string> MakeUnfinished(const std::string& directory) {
  if (!IsEmptyOrAbsent(directory))
    return absl::AlreadyExistsError(absl::StrCat(directory, " is there and not empty"));
  const std::string path = directory + ".incomplete";
  std::error_code error;
  if (!IsEmptyOrAbsent(path)) {
    if (!fs::exists(path + kUnfinishedFile, error)) {
      return absl::AlreadyExistsError(
          absl::StrCat(path, " is there and not empty; remove it, or choose another directory"));
    }
    fs::remove_all(path, error);
    if (error) return FileError(error.value(), "remove", path);
  }
  fs::create_directories(path, error);
  if (error) return FileError(error.value(), "create", path);
  RETURN_IF_ERROR(WriteFileAtomically(path + kUnfinishedFile, ""));
  return path;
}

absl::Status SyncFolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FileError(errno, "open", path);
  const absl::Cleanup closing = [fd] { close(fd); };
  return fsync(fd) == 0 ? absl::OkStatus() : FileError(errno, "sync", path);
}

// Gives the finished folder its name.
absl::Status Complete(const std::string& unfinished, const std::string& directory) {
  std::error_code error;
  fs::remove(unfinished + kUnfinishedFile, error);
  if (!error) fs::rename(unfinished, directory, error);
  if (error) return FileError(error.value(), "rename to", directory);
  return SyncFolder(fs::path(directory).parent_path().string());
}

absl::StatusOr<int64_t> BytesIn(const std::string& directory) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->is_regular_file(error)) bytes += static_cast<int64_t>(entry->file_size(error));
  }
  if (error) return FileError(error.value(), "read", directory);
  return bytes;
}

struct StoredManifests {
  std::vector<Manifest> manifests;
  std::vector<std::string> damage;  // of records that aren't manifests
  int64_t jobs = 0;
};

absl::StatusOr<StoredManifests> ReadManifests(const RecordStore& records) {
  StoredManifests found;
  RETURN_IF_ERROR(records.Scan(kManifestsPrefix, [&](std::string_view key, std::string_view value) {
    Manifest manifest;
    if (manifest.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      found.manifests.push_back(std::move(manifest));
    } else {
      found.damage.push_back(absl::StrCat("record ", std::string(key), " is no manifest"));
    }
    return true;
  }));
  RETURN_IF_ERROR(records.Scan(kJobsPrefix, [&](std::string_view, std::string_view) {
    ++found.jobs;
    return true;
  }));
  return found;
}

absl::Status CheckPresent(const ChunkStore& chunks, const Manifest& manifest) {
  for (const auto& shard : manifest.shards()) {
    ASSIGN_OR_RETURN(const ShardLayout layout, LayoutOf(manifest, shard.shard()));
    RETURN_IF_ERROR(chunks.CheckPresent(IdOf(manifest), layout));
  }
  return absl::OkStatus();
}

// Opens a copy as a coordinator would, and looks whether every checkpoint has its files. With
// `every_byte`: whether their contents are right; then a damaged checkpoint is an error.
absl::StatusOr<BackupSummary> CheckCopy(const std::string& directory, bool every_byte) {
  ASSIGN_OR_RETURN(const auto records, RecordStore::Open(directory + "/records"));
  ASSIGN_OR_RETURN(const auto chunks, ChunkStore::Open(directory + "/chunks"));
  if (every_byte) RETURN_IF_ERROR(records->Verify());
  ASSIGN_OR_RETURN(const StoredManifests found, ReadManifests(*records));
  if (!found.damage.empty()) return absl::DataLossError(found.damage[0]);
  std::vector<std::string> damage;
  for (const Manifest& manifest : found.manifests) {
    absl::Status status = CheckPresent(*chunks, manifest);
    for (int shard = 0; status.ok() && every_byte && shard < manifest.shards_size(); ++shard) {
      ASSIGN_OR_RETURN(const ShardLayout layout,
                       LayoutOf(manifest, manifest.shards(shard).shard()));
      status = chunks->Verify(IdOf(manifest), layout, [](int64_t) {});
    }
    if (status.ok()) continue;
    if (!absl::IsDataLoss(status)) return status;
    // One that is damaged in the original is damaged in the copy; the others are worth having.
    LogWarning("backup", "holds a damaged checkpoint",
               {{"directory", directory}, {"reason", status.message()}});
    damage.emplace_back(status.message());
  }
  if (every_byte && !damage.empty()) {
    return absl::DataLossError(absl::StrCat(
        damage.size(), damage.size() == 1 ? " checkpoint" : " checkpoints",
        " of the backup damaged: ", absl::StrJoin(damage, "; "),
        "; use another backup, or copy this one by hand and start a coordinator on the copy, which "
        "goes on with the undamaged ones"));
  }
  BackupSummary summary;
  summary.commit = records->sequence();
  summary.jobs = found.jobs;
  summary.checkpoints = static_cast<int64_t>(found.manifests.size());
  ASSIGN_OR_RETURN(summary.bytes, BytesIn(directory));
  return summary;
}

absl::Status WriteSummary(const std::string& directory, const BackupSummary& summary) {
  const nlohmann::json json = {{"version", kVersion},
                               {"commit", summary.commit},
                               {"jobs", summary.jobs},
                               {"checkpoints", summary.checkpoints}};
  return WriteFileAtomically(directory + kSummaryFile, json.dump(2) + "\n");
}

absl::StatusOr<int64_t> ReadSummaryCommit(const std::string& backup) {
  const std::string path = backup + kSummaryFile;
  std::error_code error;
  if (fs::exists(backup + kUnfinishedFile, error)) {
    return absl::FailedPreconditionError(absl::StrCat(backup, " is a backup that was interrupted"));
  }
  if (!fs::exists(path, error))
    return absl::NotFoundError(absl::StrCat(backup, " is no backup: it has no backup.json"));
  std::ifstream file(path);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("commit") || !json["commit"].is_number_integer())
    return absl::DataLossError(absl::StrCat(path, " is damaged"));
  return json["commit"].get<int64_t>();
}

absl::Status CopyFileSynced(const fs::path& from, const std::string& to) {
  std::ifstream in(from, std::ios::binary);
  if (!in) return FileError(errno, "open", from.string());
  ASSIGN_OR_RETURN(const auto out, AtomicFile::Create(to));
  std::vector<char> buffer(size_t{1} << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    RETURN_IF_ERROR(out->Append({buffer.data(), static_cast<size_t>(in.gcount())}));
  }
  if (!in.eof()) return FileError(EIO, "read", from.string());
  return out->Commit();
}

absl::Status CopyFolder(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::create_directories(to, error);
  if (error) return FileError(error.value(), "create", to);
  for (fs::directory_iterator entry(from, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (entry->is_directory(error)) {
      RETURN_IF_ERROR(CopyFolder(entry->path().string(), absl::StrCat(to, "/", name)));
    } else {
      RETURN_IF_ERROR(CopyFileSynced(entry->path(), absl::StrCat(to, "/", name)));
    }
  }
  return error ? FileError(error.value(), "read", from) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<BackupSummary> StoreMaintenance::BackUp(const std::string& directory) {
  const fs::path path = fs::path(directory).lexically_normal();
  std::error_code error;
  const fs::path data = fs::weakly_canonical(data_dir_, error);
  if (!path.is_absolute()) {
    return absl::InvalidArgumentError(
        absl::StrCat("directory: expected an absolute path, got \"", directory, "\""));
  }
  if (absl::StartsWith(fs::weakly_canonical(path, error).string() + "/", data.string() + "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("directory: ", directory, " lies in the data directory ", data_dir_));
  }
  if (backing_up_.exchange(true)) return absl::AbortedError("another backup is being written");
  const absl::Cleanup done = [this] { backing_up_ = false; };
  // Without a slash at the end, which would make the name beside it one inside it.
  return WriteCopy(path.has_filename() ? path.string() : path.parent_path().string());
}

absl::StatusOr<BackupSummary> StoreMaintenance::WriteCopy(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string unfinished, MakeUnfinished(directory));
  absl::Cleanup discard = [&unfinished] {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
  };
  KillPoint("backup.begun");
  {
    const CheckpointStore::DeletionHold hold(checkpoints_);
    RETURN_IF_ERROR(records_->BackUp(unfinished + "/records").status());
    KillPoint("backup.records_copied");
    RETURN_IF_ERROR(chunks_->BackUp(unfinished + "/chunks"));
    KillPoint("backup.chunks_copied");
  }
  ASSIGN_OR_RETURN(const BackupSummary summary, CheckCopy(unfinished, /*every_byte=*/false));
  RETURN_IF_ERROR(WriteSummary(unfinished, summary));
  KillPoint("backup.before_rename");
  RETURN_IF_ERROR(Complete(unfinished, directory));
  KillPoint("backup.renamed");
  std::move(discard).Cancel();
  LogInfo("backup", "written",
          {{"directory", directory}, {"commit", summary.commit}, {"bytes", summary.bytes}});
  return summary;
}

absl::StatusOr<int64_t> StoreMaintenance::Verify(
    absl::FunctionRef<bool(const VerifyProgress&)> on_progress) const {
  ASSIGN_OR_RETURN(const StoredManifests found, ReadManifests(*records_));
  VerifyProgress progress;
  const int64_t record_bytes = records_->size_bytes();
  progress.total_bytes = record_bytes;
  for (const Manifest& manifest : found.manifests) {
    for (const auto& shard : manifest.shards()) progress.total_bytes += shard.bytes();
  }
  int64_t damaged = 0;
  bool goes_on = true;
  const auto report = [&](std::string damage) {
    damaged += !damage.empty();
    progress.damage = std::move(damage);
    goes_on = goes_on && on_progress(progress);
  };
  for (const std::string& damage : found.damage) report(damage);
  const absl::Status records = records_->Verify();
  progress.bytes += record_bytes;
  if (!records.ok() && !absl::IsDataLoss(records)) return records;
  report(std::string(records.message()));
  const absl::Status index = chunks_->VerifyIndex();
  if (!index.ok() && !absl::IsDataLoss(index)) return index;
  if (!index.ok()) report(std::string(index.message()));
  for (const Manifest& manifest : found.manifests) {
    int64_t unreported = 0;
    const absl::Status status = checkpoints_->Verify(manifest, [&](int64_t bytes) {
      progress.bytes += bytes;
      unreported += bytes;
      if (unreported < kProgressBytes) return;
      unreported = 0;
      report("");
    });
    report(status.ok() ? "" : std::string(status.message()));
    if (!goes_on) return absl::CancelledError("the verification was ended");
  }
  return damaged;
}

absl::StatusOr<BackupSummary> RestoreBackup(const std::string& backup,
                                            const std::string& data_dir) {
  ASSIGN_OR_RETURN(const int64_t commit, ReadSummaryCommit(backup));
  std::error_code error;
  const fs::path target = fs::absolute(data_dir, error).lexically_normal();
  const std::string directory =
      target.has_filename() ? target.string() : target.parent_path().string();
  ASSIGN_OR_RETURN(const std::string unfinished, MakeUnfinished(directory));
  absl::Cleanup discard = [&unfinished] {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
  };
  for (const char* part : {"/records", "/chunks"}) {
    RETURN_IF_ERROR(CopyFolder(backup + part, unfinished + part));
  }
  ASSIGN_OR_RETURN(const BackupSummary summary, CheckCopy(unfinished, /*every_byte=*/true));
  if (summary.commit != commit) {
    return absl::DataLossError(
        absl::StrCat("backup ", backup, " ends at commit ", summary.commit, ", expected ", commit));
  }
  RETURN_IF_ERROR(Complete(unfinished, directory));
  std::move(discard).Cancel();
  return summary;
}

}  // namespace diffmoe::server
