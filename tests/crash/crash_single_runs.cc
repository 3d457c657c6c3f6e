// Cycles with a store of their own: the first start, a full disk, and what backups are worth.
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/record_store.h"
#include "tests/crash/crash_run.h"
#include "tests/support/cluster.h"
#include "tests/support/wait.h"
#include "tests/unit/core/storage/faulty_disk.h"

namespace diffmoe::test {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kLimit = absl::Seconds(60);

}  // namespace

absl::Status CrashRun::FirstStart(const KillPointEntry& entry) {
  CrashCluster fresh(absl::StrCat(dir_, "/first-", ++runs_));
  RETURN_IF_ERROR(fresh.LaunchCoordinator({entry.name, 1}));
  RETURN_IF_ERROR(fresh.coordinator()->Wait(kLimit).status());
  if (EndedAt(*fresh.coordinator(), entry.name)) {
    ++summary_.at_points;
    ++summary_.hits[entry.name];
  }
  RETURN_IF_ERROR(fresh.StartCoordinator());
  fresh.KillCoordinator();
  return absl::OkStatus();
}

absl::Status CrashRun::FullDisk(const KillPointEntry& entry) {
  // Bytes that are in the log although their sync failed are what has to be undone; RocksDB may
  // have dropped them by itself.
  const bool undone = absl::StrContains(entry.name, "undone");
  bool hit = false;
  for (int attempt = 0; attempt < (undone ? 30 : 1) && !hit; ++attempt) {
    ASSIGN_OR_RETURN(hit, FullDiskOnce(entry, /*on_sync=*/undone || Random(2) == 0));
  }
  ++(hit ? summary_.at_points : summary_.at_random);
  if (hit) ++summary_.hits[entry.name];
  return absl::OkStatus();
}

absl::StatusOr<bool> CrashRun::FullDiskOnce(const KillPointEntry& entry, bool on_sync) {
  const std::string store = absl::StrCat(dir_, "/full-", ++runs_);
  ASSIGN_OR_RETURN(
      const RunResult child,
      RunProcess(
          {.argv = {"/proc/self/exe", on_sync ? "--full-on-sync" : "--full-on-append", store},
           .environment = {{"DIFFMOE_KILL_POINT", absl::StrCat(entry.name, ":1")}},
           .working_dir = ""},
          kLimit));
  const bool hit = absl::StrContains(child.err, absl::StrCat("kill point ", entry.name));
  ASSIGN_OR_RETURN(const auto records, RecordStore::Open(store));
  const bool later = absl::StrContains(child.out, "acknowledged later");
  if (records->Get("before").value_or("") != "1" || (later && !records->Get("later").ok()))
    return absl::InternalError("a record that was acknowledged is lost");
  if (absl::StrContains(child.out, "refused") && records->Get("refused").ok() && later)
    return absl::InternalError("a record that was refused is there");
  RETURN_IF_ERROR(records->Verify());
  return hit;
}

int RunFullDiskChild(const std::string& dir, bool on_sync) {
  FaultyDisk disk;
  auto records = RecordStore::Open(dir, {.accept_loss = false, .env = disk.env()});
  if (!records.ok()) return 1;
  const auto put = [&](const std::string& key) {
    const std::vector<RecordWrite> writes{{key, "1"}};
    const absl::Status status = (*records)->Commit(writes);
    std::cout << (status.ok() ? "acknowledged " : "refused ") << key << std::endl;
  };
  put("before");
  disk.Set(on_sync ? Fault::kFullOnSync : Fault::kFullOnAppend);
  put("refused");
  disk.Set(Fault::kNone);
  put("later");
  return 0;
}

absl::Status CrashRun::CheckBackups() {
  for (const std::string& backup : backups_) {
    std::error_code error;
    if (fs::exists(backup, error)) {
      const std::string restored = backup + "-restored";
      ASSIGN_OR_RETURN(const RunResult result,
                       RunProcess({.argv = {Program("diffmoe-coordinator-crash"), "--data-dir",
                                            restored, "--restore-from", backup},
                                   .environment = {},
                                   .working_dir = ""},
                                  kLimit));
      if (result.exit != ExitState{0, 0}) {
        return absl::InternalError(absl::StrCat("a backup can't be restored: ", result.err));
      }
      fs::remove_all(restored, error);
    }
    fs::remove_all(backup, error);
    fs::remove_all(backup + ".incomplete", error);
  }
  backups_.clear();
  return absl::OkStatus();
}

}  // namespace diffmoe::test
