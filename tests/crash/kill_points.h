// Every kill point of the programs (core/base/kill_point.h), and how a crash test gets there.
// tests/lint compares the list with the sources.
#pragma once

#include "absl/types/span.h"

namespace diffmoe::test {

enum class Victim { kCoordinator, kWorker };

// What brings a process to a point, beside jobs that train, save, end and are cancelled.
enum class Scenario {
  kTraining,    // nothing else
  kStart,       // the start of the process
  kFirstStart,  // its start in an empty directory
  kLeftovers,   // its start after a crash that has left unfinished files
  kOrphan,      // its start after a crash between a checkpoint's bytes and its manifest
  kUnmarked,    // its start after a crash between a commit and its mark
  kWorkerGone,  // the end of a worker
  kSample,      // images are asked for
  kFullDisk,    // the disk fills up and has room again
  kAcceptLoss,  // a start with --accept-data-loss
  kBackup,      // a backup is made
  kRepair,      // a start with --accept-data-loss after the list of tables was lost
};

struct KillPointEntry {
  const char* name;
  Victim victim;
  Scenario scenario;
};

absl::Span<const KillPointEntry> KillPoints();

}  // namespace diffmoe::test
