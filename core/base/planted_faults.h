// Faults that the mutation test and the simulator plant one at a time, to show that the proofs of
// correctness can fail. Outside of them `Planted` is a constant false.
#pragma once

namespace diffmoe {

enum class Fault {
  kNone,
  kTieOrderReversed,          // equal scores: the larger token id first
  kTokensOfOneRankDropped,    // rows of the last rank are zeros at the expert
  kExpertGradientTimesRanks,  // gradients of experts scaled by the number of ranks
  kThresholdFromLocalPool,    // quantile over the tokens of one rank
  kPredictorLeaksIntoTrunk,   // the predictor's gradient reaches the tokens

  // The coordinator's; found by the simulator.
  kEffectsBeforeCommit,    // answers and messages go out first, then the records are written
  kFailedCommitIgnored,    // a batch that could not be written is acted upon
  kReportEpochIgnored,     // steps of an older attempt are taken
  kManifestEpochIgnored,   // so are its checkpoints
  kCancelForgotten,        // CANCELLING isn't restored after a restart
  kRequestIdForgotten,     // request ids aren't known after a restart
  kSlotNeverFreed,         // a rank that ended keeps its slot
  kSlotFreedEarly,         // a slot is free as soon as its rank is told to stop
  kRetentionIgnoresUse,    // a checkpoint that is being read is deleted
  kBackoffLost,            // a job that fails again and again restarts at once
  kEventSequenceLost,      // the next event's number isn't known after a restart
  kSilentWorkerKept,       // a worker that is gone is never lost
  kAdoptionGraceIgnored,   // after a restart nobody waits for the ranks that kept running
  kGangPlacedPartially,    // a job starts with one rank less than it needs
  kJobNumberLost,          // the next job number isn't in the header
  kMissingRankUnnoticed,   // a worker that comes back without a rank isn't asked about it
  kUnwantedRankKept,       // a rank that nobody wants any more isn't stopped when announced
  kRestoreFromBeginning,   // a new attempt ignores the checkpoints
  kThresholdsNotRecorded,  // a checkpoint's thresholds don't enter the history
  kRequestNotRequeued,     // a request whose sampler is lost waits for nothing
  kImagesSentAgain,        // the next sampler's images are relayed from the first one on
  kDeadlineForgotten,      // nobody looks whether the deadline of a sample has passed
  kSampleCancelForgotten,  // a sampler isn't told that its request was cancelled
  kSampleCountLost,        // a cancelled sample isn't counted among those that ended
  kCalibrationKept,        // a calibration outlives its checkpoint

  // Of the simulator's models of the stores.
  kSyncDropped,          // a commit says that it is durable before it is
  kManifestBeforeBytes,  // a checkpoint is listed before its bytes are stored
};

#ifdef DIFFMOE_PLANTED_FAULTS
extern Fault planted_fault;
inline bool Planted(Fault fault) { return planted_fault == fault; }
#else
constexpr bool Planted(Fault) { return false; }
#endif

}  // namespace diffmoe
