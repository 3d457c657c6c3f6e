// Every metric family of the project, declared once. Names follow the Prometheus conventions:
// prefix, base unit last, _total on counters. The label `job_id` is free (Prometheus itself sets
// `job`); all other labels take values from closed sets. Who serves a family stands in its section.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace diffmoe::metrics {

enum class Kind { kGauge, kCounter, kHistogram };

inline constexpr size_t kMaxLabels = 3;
inline constexpr size_t kMaxBuckets = 20;

struct Definition {
  const char* name;
  Kind kind;
  const char* help;
  const char* healthy;                           // what a good value looks like
  std::array<const char*, kMaxLabels> labels{};  // unused ones are nullptr
  std::array<double, kMaxBuckets> buckets{};     // upper bounds, ascending; unused ones are 0
};

// Bounds of durations. kFast: a call or a synced commit. kSlow: a checkpoint or a request.
inline constexpr std::array<double, kMaxBuckets> kFast{
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
inline constexpr std::array<double, kMaxBuckets> kSlow{
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600, 1800};

// clang-format off

// Every process.
inline constexpr Definition kBuildInfo{"diffmoe_build_info", Kind::kGauge,
    "Always 1; the labels say which program and version.",
    "1, and one version in the whole cluster", {"program", "version"}};

// Training: the worker that hosts rank 0.
inline constexpr Definition kTrainLoss{"diffmoe_train_loss", Kind::kGauge,
    "Loss of the diffusion process, mean since the last report; NaN when a rank ended because it was not a finite number.",
    "falls, quickly at first; finite", {"job_id"}};
inline constexpr Definition kTrainPredictorLoss{"diffmoe_train_predictor_loss", Kind::kGauge,
    "Loss of the capacity predictor.",
    "falls below 0.4 within a few hundred steps", {"job_id"}};
inline constexpr Definition kTrainBalanceLoss{"diffmoe_train_balance_loss", Kind::kGauge,
    "Auxiliary load-balancing loss of token choice, summed over layers.",
    "near 0.01 per layer when experts are balanced; 0 for other families", {"job_id"}};
inline constexpr Definition kTrainGradNorm{"diffmoe_train_grad_norm", Kind::kGauge,
    "Global gradient norm before clipping.",
    "steady, within a factor of ten of its own median", {"job_id"}};
inline constexpr Definition kTrainLearningRate{"diffmoe_train_learning_rate", Kind::kGauge,
    "Learning rate of the current step.",
    "follows the schedule of the job", {"job_id"}};
inline constexpr Definition kTrainStep{"diffmoe_train_step", Kind::kGauge,
    "Optimiser steps done.",
    "rises while the job runs", {"job_id"}};
inline constexpr Definition kTrainPlannedSteps{"diffmoe_train_planned_steps", Kind::kGauge,
    "Optimiser steps that the job will do.",
    "constant", {"job_id"}};
inline constexpr Definition kTrainStepDuration{"diffmoe_train_step_duration_seconds", Kind::kGauge,
    "Median time of one step in each phase since the last report.",
    "steady; forward and backward are the largest phases", {"job_id", "phase"}};
inline constexpr Definition kTrainSamples{"diffmoe_train_samples_total", Kind::kCounter,
    "Training samples processed over all ranks.",
    "rises while the job runs", {"job_id"}};
inline constexpr Definition kTrainSamplesPerSecond{"diffmoe_train_samples_per_second", Kind::kGauge,
    "Training samples per second over all ranks since the last report.",
    "steady", {"job_id"}};
inline constexpr Definition kTrainCheckpointInterval{"diffmoe_train_checkpoint_interval_steps", Kind::kGauge,
    "Steps from one checkpoint to the next, as the job asks.",
    "constant", {"job_id"}};
inline constexpr Definition kTrainTargetCapacity{"diffmoe_train_target_capacity_ratio", Kind::kGauge,
    "Experts per token that training gives.",
    "constant", {"job_id"}};
inline constexpr Definition kTrainBadFiles{"diffmoe_train_bad_files", Kind::kGauge,
    "Data files skipped as broken.",
    "0", {"job_id"}};

// MoE layers: the worker that hosts rank 0.
inline constexpr Definition kMoeCapacity{"diffmoe_moe_capacity_ratio", Kind::kGauge,
    "Experts per token under the inference rule.",
    "within 10 % of diffmoe_train_target_capacity_ratio", {"job_id", "block"}};
inline constexpr Definition kMoeExpertLoad{"diffmoe_moe_expert_load_ratio", Kind::kGauge,
    "Tokens per expert over the ideal share, under the inference rule: least loaded expert, 95th percentile, most loaded expert.",
    "min above 0.2, max below 3", {"job_id", "block", "stat"}};
inline constexpr Definition kMoeDeadExperts{"diffmoe_moe_dead_experts", Kind::kGauge,
    "Experts that no token chose under the inference rule.",
    "0 after the first few hundred steps", {"job_id", "block"}};
inline constexpr Definition kMoeThreshold{"diffmoe_moe_threshold", Kind::kGauge,
    "Capacity threshold over the experts of a layer: min, median, max.",
    "between 0.05 and 0.95; drifts slowly", {"job_id", "block", "stat"}};
inline constexpr Definition kMoeThresholdDrift{"diffmoe_moe_threshold_drift", Kind::kGauge,
    "How far an expert's threshold moved since the last report, mean over the experts of a layer.",
    "falls below 0.01 after the first few hundred steps", {"job_id", "block"}};
inline constexpr Definition kMoePredictorAccuracy{"diffmoe_moe_predictor_accuracy_ratio", Kind::kGauge,
    "Share of routing decisions in which the predictor agrees with the selection.",
    "above 0.9", {"job_id", "block"}};
inline constexpr Definition kMoeZeroExpertTokens{"diffmoe_moe_zero_expert_token_ratio", Kind::kGauge,
    "Share of tokens that no expert takes under the inference rule.",
    "about a third with a capacity of 1", {"job_id", "block"}};
inline constexpr Definition kMoeGateEntropy{"diffmoe_moe_gate_entropy_nats", Kind::kGauge,
    "Entropy of the gate's distribution over experts, mean over tokens; at most the logarithm of the experts.",
    "falls from ln E, stays above 0.1", {"job_id", "block"}};
inline constexpr Definition kMoeExchangeBytes{"diffmoe_moe_exchange_bytes", Kind::kGauge,
    "Payload bytes that rank 0 sends to other ranks in the forward pass of one step.",
    "constant; 0 with one rank", {"job_id", "block"}};
inline constexpr Definition kMoeExchangeCalls{"diffmoe_moe_exchange_collectives", Kind::kGauge,
    "Collective calls of rank 0 in the forward pass of one step.",
    "constant", {"job_id", "block"}};
inline constexpr Definition kMoeExchangeRows{"diffmoe_moe_exchange_rows", Kind::kGauge,
    "Token rows that rank 0 sends to a rank in the forward pass of one step: min, mean, max over ranks.",
    "min and max close together", {"job_id", "block", "stat"}};

// Checkpoints: coordinator.
inline constexpr Definition kCheckpointCommits{"diffmoe_checkpoint_commits_total", Kind::kCounter,
    "Checkpoints that were committed, or given up, by outcome.",
    "outcome=\"ok\" rises by one per checkpoint, no other outcome rises", {"outcome"}};
inline constexpr Definition kCheckpointCommitDuration{"diffmoe_checkpoint_commit_duration_seconds", Kind::kHistogram,
    "First byte of a checkpoint to its durable manifest.",
    "well below the time between two checkpoints", {}, kSlow};
inline constexpr Definition kCheckpointReceivedBytes{"diffmoe_checkpoint_received_bytes_total", Kind::kCounter,
    "Checkpoint bytes received from ranks.",
    "rises with each checkpoint"};
inline constexpr Definition kCheckpointReadBytes{"diffmoe_checkpoint_read_bytes_total", Kind::kCounter,
    "Checkpoint bytes sent to ranks.",
    "rises at restarts, sampling and exports"};
inline constexpr Definition kCheckpointDamaged{"diffmoe_checkpoint_damaged_total", Kind::kCounter,
    "Reads that met damaged or missing checkpoint bytes.",
    "0"};
inline constexpr Definition kCheckpointPending{"diffmoe_checkpoint_pending", Kind::kGauge,
    "Checkpoints being received now.",
    "0 or 1 per running job, not for long"};
inline constexpr Definition kCheckpointLastStep{"diffmoe_checkpoint_last_step", Kind::kGauge,
    "Step of the newest committed checkpoint.",
    "less than three intervals behind diffmoe_train_step", {"job_id"}};
inline constexpr Definition kCheckpointLastTime{"diffmoe_checkpoint_last_commit_timestamp_seconds", Kind::kGauge,
    "Unix time of the newest committed checkpoint.",
    "recent", {"job_id"}};

// Jobs and cluster: coordinator.
inline constexpr Definition kJobs{"diffmoe_jobs", Kind::kGauge,
    "Jobs by state.",
    "queued falls while slots are free", {"state"}};
inline constexpr Definition kJobRestarts{"diffmoe_job_restarts_total", Kind::kCounter,
    "Attempts that were started again, by what ended the one before.",
    "rises by a few per day at most", {"cause"}};
inline constexpr Definition kWorkers{"diffmoe_workers", Kind::kGauge,
    "Workers by state.",
    "lost is 0", {"state"}};
inline constexpr Definition kSlots{"diffmoe_slots", Kind::kGauge,
    "Slots of the connected workers by state.",
    "busy as long as jobs wait", {"state"}};

inline constexpr Definition kJobsSubmitted{"diffmoe_jobs_submitted_total", Kind::kCounter,
    "Jobs that this store has accepted in all; a restart doesn't reset it.",
    "the sum of diffmoe_jobs over all states, in every scrape"};
inline constexpr Definition kLoopTime{"diffmoe_loop_last_batch_timestamp_seconds", Kind::kGauge,
    "Unix time at which the coordinator's loop last came by.",
    "less than two seconds ago"};

// Sampling: coordinator.
inline constexpr Definition kSampleSubmitted{"diffmoe_sample_submitted_total", Kind::kCounter,
    "Sampling requests and calibrations that came.",
    "all diffmoe_sample_requests_total, queued and running together, in every scrape"};
inline constexpr Definition kSampleRequests{"diffmoe_sample_requests_total", Kind::kCounter,
    "Sampling requests that ended, by outcome.",
    "outcome=\"ok\" rises; refused and failed stay below 1 %", {"outcome"}};
inline constexpr Definition kSampleImages{"diffmoe_sample_images_total", Kind::kCounter,
    "Images delivered.",
    "rises"};
inline constexpr Definition kSampleQueued{"diffmoe_sample_queued", Kind::kGauge,
    "Sampling requests that wait.",
    "0 most of the time"};
inline constexpr Definition kSampleRunning{"diffmoe_sample_running", Kind::kGauge,
    "Sampling requests in work.",
    "above 0 while requests come"};
inline constexpr Definition kSampleQueueWait{"diffmoe_sample_queue_wait_seconds", Kind::kHistogram,
    "Time from acceptance to the first denoise step.",
    "below a second with a warm sampler", {}, kSlow};
inline constexpr Definition kSampleStepDuration{"diffmoe_sample_step_duration_seconds", Kind::kHistogram,
    "Time of one denoise step.",
    "steady for one model", {}, kFast};
inline constexpr Definition kSampleLatency{"diffmoe_sample_latency_seconds", Kind::kHistogram,
    "Time from acceptance to the end of a request.",
    "steps of the request times the time of a step, and little more", {}, kSlow};

// RPC: coordinator.
inline constexpr Definition kRpcRequests{"diffmoe_rpc_requests_total", Kind::kCounter,
    "RPCs that ended, by method and status code.",
    "code=\"ok\", and codes that callers cause", {"method", "code"}};
inline constexpr Definition kRpcDuration{"diffmoe_rpc_duration_seconds", Kind::kHistogram,
    "Time of an RPC; a stream counts from open to end.",
    "below 20 ms for unary calls", {"method"}, kFast};

// Store: coordinator.
inline constexpr Definition kStoreCommits{"diffmoe_store_commits_total", Kind::kCounter,
    "Synced commits of the record store, by status code.",
    "code=\"ok\" alone", {"code"}};
inline constexpr Definition kStoreCommitDuration{"diffmoe_store_commit_duration_seconds", Kind::kHistogram,
    "Time of one synced commit.",
    "below 10 ms on an SSD", {}, kFast};
inline constexpr Definition kStoreRecords{"diffmoe_store_records_total", Kind::kCounter,
    "Records written by commits.",
    "rises"};
inline constexpr Definition kStoreBytes{"diffmoe_store_size_bytes", Kind::kGauge,
    "Bytes on disk of each store.",
    "steady once retention has set in", {"store"}};
inline constexpr Definition kStoreDiskFree{"diffmoe_store_disk_free_bytes", Kind::kGauge,
    "Bytes that are free on the disk of the data directory.",
    "falls slowly, or not at all once retention has set in"};

// Worker: each worker.
inline constexpr Definition kWorkerConnected{"diffmoe_worker_connected", Kind::kGauge,
    "1 while the session with the coordinator is open.",
    "1"};
inline constexpr Definition kWorkerReconnects{"diffmoe_worker_reconnects_total", Kind::kCounter,
    "Sessions with the coordinator opened after the first.",
    "rises when the coordinator restarts, else steady"};
inline constexpr Definition kWorkerSlots{"diffmoe_worker_slots", Kind::kGauge,
    "Slots of this worker by state.",
    "busy as long as jobs wait", {"state"}};
inline constexpr Definition kWorkerRankStarts{"diffmoe_worker_rank_starts_total", Kind::kCounter,
    "Rank processes started, by role.",
    "rises with each attempt and sampler", {"role"}};
inline constexpr Definition kWorkerRankExits{"diffmoe_worker_rank_exits_total", Kind::kCounter,
    "Rank processes that ended, by cause.",
    "done and stopped; signal, hang and out_of_memory are rare", {"cause"}};
inline constexpr Definition kWorkerBulkBytes{"diffmoe_worker_bulk_bytes_total", Kind::kCounter,
    "Checkpoint bytes forwarded, by direction.",
    "rises with checkpoints and images", {"direction"}};
inline constexpr Definition kWorkerLogLinesDropped{"diffmoe_worker_log_lines_dropped_total", Kind::kCounter,
    "Log lines of ranks that were left out because they came too fast.",
    "0"};
inline constexpr Definition kWorkerDiskFree{"diffmoe_worker_disk_free_bytes", Kind::kGauge,
    "Bytes that are free on the disk of the worker's directory.",
    "steady"};

// All of them, in the order of docs/metrics.md.
inline constexpr const Definition* kAll[] = {
    &kBuildInfo, &kTrainLoss, &kTrainPredictorLoss, &kTrainBalanceLoss, &kTrainGradNorm,
    &kTrainLearningRate, &kTrainStep, &kTrainPlannedSteps, &kTrainStepDuration, &kTrainSamples,
    &kTrainSamplesPerSecond, &kTrainCheckpointInterval, &kTrainTargetCapacity, &kTrainBadFiles,
    &kMoeCapacity, &kMoeExpertLoad, &kMoeDeadExperts, &kMoeThreshold, &kMoeThresholdDrift,
    &kMoePredictorAccuracy, &kMoeZeroExpertTokens, &kMoeGateEntropy, &kMoeExchangeBytes,
    &kMoeExchangeCalls, &kMoeExchangeRows, &kCheckpointCommits, &kCheckpointCommitDuration,
    &kCheckpointReceivedBytes, &kCheckpointReadBytes, &kCheckpointDamaged, &kCheckpointPending,
    &kCheckpointLastStep, &kCheckpointLastTime, &kJobs, &kJobRestarts, &kWorkers, &kSlots,
    &kJobsSubmitted, &kLoopTime, &kSampleSubmitted, &kSampleRequests, &kSampleImages,
    &kSampleQueued, &kSampleRunning, &kSampleQueueWait, &kSampleStepDuration, &kSampleLatency,
    &kRpcRequests, &kRpcDuration, &kStoreCommits, &kStoreCommitDuration, &kStoreRecords,
    &kStoreBytes, &kStoreDiskFree, &kWorkerConnected, &kWorkerReconnects, &kWorkerSlots,
    &kWorkerRankStarts, &kWorkerRankExits, &kWorkerBulkBytes,
    &kWorkerLogLinesDropped, &kWorkerDiskFree,
};

// clang-format on

}  // namespace diffmoe::metrics
