#include "core/storage/chunk_repair.h"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/storage/chunk_key.h"
#include "core/storage/rocksdb_support.h"
#include "rocksdb/db.h"
#include "rocksdb/sst_file_reader.h"

namespace diffmoe::storage {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> TablesIn(const std::string& folder) {
  std::vector<fs::path> tables;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".sst") tables.push_back(entry->path());
  }
  return tables;
}

absl::Status Move(const fs::path& file, const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) fs::rename(file, folder / file.filename(), error);
  return error ? FileError(error.value(), "move", file.string()) : absl::OkStatus();
}

std::set<std::string> ListedTables(rocksdb::DB& db) {
  std::vector<rocksdb::LiveFileMetaData> files;
  db.GetLiveFilesMetaData(&files);
  std::set<std::string> names;
  for (const rocksdb::LiveFileMetaData& file : files) names.insert(fs::path(file.name).filename());
  return names;
}

// The checkpoint of a table; nothing when it can't be read or holds no chunk.
std::optional<CheckpointId> CheckpointOf(const fs::path& table, const rocksdb::Options& options) {
  rocksdb::SstFileReader reader(options);
  if (!reader.Open(table.string()).ok()) return std::nullopt;
  const std::unique_ptr<rocksdb::Iterator> iterator(reader.NewIterator(rocksdb::ReadOptions()));
  iterator->SeekToFirst();
  if (!iterator->Valid()) return std::nullopt;
  const auto key = DecodeChunkKey(iterator->key().ToStringView());
  return key.has_value() ? std::make_optional(key->id) : std::nullopt;
}

std::set<CheckpointId> ListedCheckpoints(rocksdb::DB& db) {
  std::vector<rocksdb::LiveFileMetaData> files;
  db.GetLiveFilesMetaData(&files);
  std::set<CheckpointId> ids;
  for (const rocksdb::LiveFileMetaData& file : files) {
    if (const auto key = DecodeChunkKey(file.smallestkey)) ids.insert(key->id);
  }
  return ids;
}

// Takes over the tables of one checkpoint, all or none.
absl::Status TakeOver(rocksdb::DB& db, const std::vector<std::string>& tables) {
  rocksdb::IngestExternalFileOptions ingest;
  ingest.move_files = true;
  ingest.failed_move_fall_back_to_copy = false;
  ingest.write_global_seqno = false;
  return FromRocksDb(db.IngestExternalFile(tables, ingest),
                     absl::StrCat("take over ", tables.front()));
}

}  // namespace

absl::Status SetUnlistedAside(const std::string& directory, const rocksdb::Options& options) {
  const std::string path = directory + "/db";
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, path, &opened);
  const std::unique_ptr<rocksdb::DB> db(opened);
  if (!status.ok()) return absl::OkStatus();
  const std::set<std::string> listed = ListedTables(*db);
  for (const fs::path& table : TablesIn(path)) {
    if (!listed.contains(table.filename().string()))
      RETURN_IF_ERROR(Move(table, directory + "/unlisted"));
  }
  return absl::OkStatus();
}

bool HasUnlisted(const std::string& directory) {
  return !TablesIn(directory + "/unlisted").empty();
}

absl::Status ForgetUnlisted(const std::string& directory) {
  std::error_code error;
  fs::remove_all(directory + "/unlisted", error);
  return error ? FileError(error.value(), "remove", directory + "/unlisted") : absl::OkStatus();
}

bool IsHalfRebuilt(const std::string& directory) {
  std::error_code error;
  return fs::exists(directory + "/repair", error);
}

absl::StatusOr<RebuildResult> RebuildFromTables(const std::string& directory,
                                                const rocksdb::Options& options) {
  const std::string repair = directory + "/repair";
  std::error_code error;
  if (!IsHalfRebuilt(directory)) fs::rename(directory + "/db", repair, error);
  if (error) return FileError(error.value(), "rename", directory + "/db");
  KillPoint("repair.begun");
  for (const fs::path& table : TablesIn(directory + "/unlisted")) {
    RETURN_IF_ERROR(Move(table, repair));
  }
  RebuildResult result;
  std::map<CheckpointId, std::vector<std::string>> tables;
  for (const fs::path& table : TablesIn(repair)) {
    const std::optional<CheckpointId> id = CheckpointOf(table, options);
    if (id.has_value()) tables[*id].push_back(table.string());
  }
  rocksdb::DB* opened = nullptr;
  RETURN_IF_ERROR(FromRocksDb(rocksdb::DB::Open(options, directory + "/db", &opened),
                              absl::StrCat("create ", directory, "/db")));
  const std::unique_ptr<rocksdb::DB> db(opened);
  const std::set<CheckpointId> there = ListedCheckpoints(*db);
  for (const auto& [id, paths] : tables) {
    // Taken over before an interruption, but for removing the names here.
    const absl::Status taken = there.contains(id) ? absl::OkStatus() : TakeOver(*db, paths);
    if (!taken.ok()) {
      LogWarning("chunks", "tables can't be used", {{"reason", taken.message()}});
      continue;
    }
    for (const std::string& path : paths) fs::remove(path, error);
    result.tables += static_cast<int64_t>(paths.size());
    KillPoint("repair.checkpoint_taken_over");
  }
  RETURN_IF_ERROR(FromRocksDb(db->Close(), absl::StrCat("close ", directory, "/db")));
  for (const fs::path& table : TablesIn(repair)) {
    ++result.unreadable;
    RETURN_IF_ERROR(Move(table, directory + "/repair-failed"));
  }
  KillPoint("repair.before_end");
  fs::remove_all(repair, error);
  if (error) return FileError(error.value(), "remove", repair);
  return result;
}

}  // namespace diffmoe::storage
