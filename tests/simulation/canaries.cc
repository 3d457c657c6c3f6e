#include "tests/simulation/canaries.h"

namespace diffmoe {

Fault planted_fault = Fault::kNone;

namespace simulation {
namespace {

constexpr Canary kCanaries[] = {
    {"sync-dropped", Fault::kSyncDropped, "a commit says that it is durable before it is"},
    {"effects-before-commit", Fault::kEffectsBeforeCommit,
     "answers and messages go out first, then the records are written"},
    {"failed-commit-ignored", Fault::kFailedCommitIgnored,
     "a batch that could not be written is acted upon"},
    {"report-epoch-ignored", Fault::kReportEpochIgnored, "steps of an older attempt are taken"},
    {"manifest-epoch-ignored", Fault::kManifestEpochIgnored,
     "checkpoints of an older attempt are taken"},
    {"manifest-before-bytes", Fault::kManifestBeforeBytes,
     "a checkpoint is listed before its bytes are stored"},
    {"cancel-forgotten", Fault::kCancelForgotten, "CANCELLING isn't restored after a restart"},
    {"request-id-forgotten", Fault::kRequestIdForgotten,
     "request ids aren't known after a restart"},
    {"job-number-lost", Fault::kJobNumberLost, "the next job number isn't in the header"},
    {"event-sequence-lost", Fault::kEventSequenceLost,
     "the number of the next event isn't known after a restart"},
    {"slot-never-freed", Fault::kSlotNeverFreed, "a rank that ended keeps its slot"},
    {"slot-freed-early", Fault::kSlotFreedEarly,
     "a slot is free as soon as its rank is told to stop"},
    {"gang-placed-partially", Fault::kGangPlacedPartially,
     "a job starts with one rank less than it needs"},
    {"retention-ignores-use", Fault::kRetentionIgnoresUse,
     "a checkpoint that is being read is deleted"},
    {"backoff-lost", Fault::kBackoffLost, "a job that fails again and again restarts at once"},
    {"silent-worker-kept", Fault::kSilentWorkerKept, "a worker that is gone is never lost"},
    {"missing-rank-unnoticed", Fault::kMissingRankUnnoticed,
     "a worker that comes back without a rank isn't asked about it"},
    {"unwanted-rank-kept", Fault::kUnwantedRankKept,
     "a rank that nobody wants any more isn't stopped when it is announced"},
    {"adoption-grace-ignored", Fault::kAdoptionGraceIgnored,
     "after a restart nobody waits for the ranks that kept running"},
    {"restore-from-beginning", Fault::kRestoreFromBeginning,
     "a new attempt ignores the checkpoints"},
    {"request-not-requeued", Fault::kRequestNotRequeued,
     "a request whose sampler is lost waits for nothing"},
    {"images-sent-again", Fault::kImagesSentAgain,
     "the next sampler's images are relayed from the first one on"},
    {"deadline-forgotten", Fault::kDeadlineForgotten,
     "nobody looks whether the deadline of a sample has passed"},
    {"sample-cancel-forgotten", Fault::kSampleCancelForgotten,
     "a sampler isn't told that its request was cancelled"},
    {"sample-count-lost", Fault::kSampleCountLost,
     "a cancelled sample isn't counted among those that ended"},
    {"calibration-kept", Fault::kCalibrationKept, "a calibration outlives its checkpoint"},
    {"thresholds-not-recorded", Fault::kThresholdsNotRecorded,
     "a checkpoint's thresholds don't enter the history"},
};

}  // namespace

std::span<const Canary> Canaries() { return kCanaries; }

}  // namespace simulation
}  // namespace diffmoe
