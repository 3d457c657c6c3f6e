// Crash cycles: each kills the coordinator or the worker at a kill point or at a random moment,
// starts it again, and compares what it knows with what was acknowledged.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tests/crash/crash_cluster.h"
#include "tests/crash/expected_state.h"
#include "tests/crash/kill_points.h"

namespace diffmoe::test {

struct CrashSummary {
  int cycles = 0;
  int at_points = 0;                // cycles that ended at their kill point
  int at_random = 0;                // killed at a random moment instead
  int checks = 0;                   // comparisons of the whole state
  std::map<std::string, int> hits;  // by "point (process)"
  ExpectedTotals totals;
};

// Use from one thread.
class CrashRun {
 public:
  // Everything lies below `dir`, which exists. The same seed makes the same choices, but not the
  // same interleavings.
  CrashRun(std::string dir, uint64_t seed);
  ~CrashRun();

  // Runs cycles and a last check in which every job ends. The first thing that is lost, doubled or
  // changed is the error; its message names the cycle and the kill point. `only`: kill points whose
  // name holds it.
  absl::Status Run(int cycles, const std::string& only = "");
  // Ends one process at this point and checks.
  absl::Status RunPoint(const KillPointEntry& entry);
  const CrashSummary& summary() const { return summary_; }

 private:
  absl::Status Start();
  absl::Status RandomMoment();
  absl::Status FirstStart(const KillPointEntry& entry);
  absl::Status FullDisk(const KillPointEntry& entry);
  absl::StatusOr<bool> FullDiskOnce(const KillPointEntry& entry, bool on_sync);
  // Ends the coordinator at this point while jobs run, so that its next start finds what that has
  // left.
  absl::Status Prepare(const std::string& point);
  // Starts the victim armed and keeps the cluster busy until it has ended. When it doesn't in time,
  // it is killed. Returns whether it ended at the point.
  absl::StatusOr<bool> RunUntilKilled(const KillPointEntry& entry, const Armed& armed);
  absl::Status Recover(Victim victim, bool accept_loss = false);

  // One call to the cluster; failures for want of a coordinator are no errors.
  absl::Status Act();
  absl::Status Submit();
  absl::Status SubmitAgain(const std::string& request_id);
  // Change a job or one of its checkpoints. What the API refuses has no effect and is no error.
  absl::Status Change(const std::string& job_id);
  absl::Status Fork(const std::string& job_id);
  absl::Status Cancel(const std::string& job_id);
  absl::Status Pause(const std::string& job_id);
  absl::Status Resume(const std::string& job_id);
  absl::Status Label(const std::string& job_id);
  absl::Status Pin(const std::string& job_id);
  absl::Status Delete(const std::string& job_id);
  // Reads a job and compares it. UNAVAILABLE when the coordinator is gone.
  absl::Status Look(const std::string& job_id);
  absl::Status LookOnce(const std::string& job_id);
  void StartScenario(const KillPointEntry& entry);
  void FinishScenario();
  absl::Status CheckBackups();

  // Compares everything: the list of jobs, each job that hasn't ended and some that have (or all),
  // every byte of the store.
  absl::Status Check(bool all_jobs);
  absl::Status ListAll();
  absl::Status VerifyStore();
  absl::Status AwaitAllEnds();
  // Temporary files that nobody will remove.
  absl::Status CheckLeftovers() const;
  int Random(int below) { return static_cast<int>(random_() % static_cast<uint64_t>(below)); }

  const std::string dir_;
  std::mt19937_64 random_;
  CrashCluster cluster_;
  ExpectedState expected_;
  CrashSummary summary_;
  std::set<std::string> unanswered_;          // request ids
  std::map<std::string, std::string> forks_;  // request id -> checkpoint
  int64_t requests_ = 0;
  int64_t labels_ = 0;
  int runs_ = 0;  // numbers the directories of single runs
  std::vector<std::string> backups_;
  std::thread scenario_;
  std::unique_ptr<CrashCluster> rival_;  // a second worker with the first one's identity
};

// The child of a full-disk cycle: commits, meets a full disk, commits again, dying where its
// environment says. Prints a line per answer. Returns the exit code.
int RunFullDiskChild(const std::string& dir, bool on_sync);

}  // namespace diffmoe::test
