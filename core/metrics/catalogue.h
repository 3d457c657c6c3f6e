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
    "Always 1; the labels say which program and version.", {"program", "version"}};

// Training: the worker that hosts rank 0.
inline constexpr Definition kTrainLoss{"diffmoe_train_loss", Kind::kGauge,
    "Loss of the diffusion process, mean since the last report.", {"job_id"}};
inline constexpr Definition kTrainPredictorLoss{"diffmoe_train_predictor_loss", Kind::kGauge,
    "Loss of the capacity predictor.", {"job_id"}};
inline constexpr Definition kTrainBalanceLoss{"diffmoe_train_balance_loss", Kind::kGauge,
    "Auxiliary load-balancing loss of token choice, summed over layers.", {"job_id"}};
inline constexpr Definition kTrainGradNorm{"diffmoe_train_grad_norm", Kind::kGauge,
    "Global gradient norm before clipping.", {"job_id"}};
inline constexpr Definition kTrainLearningRate{"diffmoe_train_learning_rate", Kind::kGauge,
    "Learning rate of the current step.", {"job_id"}};
inline constexpr Definition kTrainStep{"diffmoe_train_step", Kind::kGauge,
    "Optimiser steps done.", {"job_id"}};
inline constexpr Definition kTrainPlannedSteps{"diffmoe_train_planned_steps", Kind::kGauge,
    "Optimiser steps that the job will do.", {"job_id"}};
inline constexpr Definition kTrainStepDuration{"diffmoe_train_step_duration_seconds", Kind::kGauge,
    "Median time of one step in each phase since the last report.", {"job_id", "phase"}};
inline constexpr Definition kTrainSamples{"diffmoe_train_samples_total", Kind::kCounter,
    "Training samples processed over all ranks.", {"job_id"}};
inline constexpr Definition kTrainSamplesPerSecond{"diffmoe_train_samples_per_second", Kind::kGauge,
    "Training samples per second over all ranks since the last report.", {"job_id"}};
inline constexpr Definition kTrainCheckpointInterval{"diffmoe_train_checkpoint_interval_steps", Kind::kGauge,
    "Steps from one checkpoint to the next, as the job asks.", {"job_id"}};
inline constexpr Definition kTrainTargetCapacity{"diffmoe_train_target_capacity_ratio", Kind::kGauge,
    "Experts per token that training gives.", {"job_id"}};
inline constexpr Definition kTrainBadFiles{"diffmoe_train_bad_files", Kind::kGauge,
    "Data files skipped as broken.", {"job_id"}};

// MoE layers: the worker that hosts rank 0.
inline constexpr Definition kMoeCapacity{"diffmoe_moe_capacity_ratio", Kind::kGauge,
    "Experts per token under the inference rule.", {"job_id", "block"}};
inline constexpr Definition kMoeExpertLoad{"diffmoe_moe_expert_load_ratio", Kind::kGauge,
    "Tokens per expert over the ideal share: least, mean and most loaded expert.", {"job_id", "block", "stat"}};
inline constexpr Definition kMoeDeadExperts{"diffmoe_moe_dead_experts", Kind::kGauge,
    "Experts that no token chose under the inference rule.", {"job_id", "block"}};
inline constexpr Definition kMoeThreshold{"diffmoe_moe_threshold", Kind::kGauge,
    "Capacity threshold over the experts of a layer: min, mean, max.", {"job_id", "block", "stat"}};
inline constexpr Definition kMoePredictorAccuracy{"diffmoe_moe_predictor_accuracy_ratio", Kind::kGauge,
    "Share of routing decisions in which the predictor agrees with the selection.", {"job_id", "block"}};
inline constexpr Definition kMoeZeroExpertTokens{"diffmoe_moe_zero_expert_token_ratio", Kind::kGauge,
    "Share of tokens that no expert takes under the inference rule.", {"job_id", "block"}};
inline constexpr Definition kMoeGateEntropy{"diffmoe_moe_gate_entropy_nats", Kind::kGauge,
    "Entropy of the gate's distribution over experts, mean over tokens; at most the logarithm of the experts.", {"job_id", "block"}};
inline constexpr Definition kMoeExchangeBytes{"diffmoe_moe_exchange_bytes", Kind::kGauge,
    "Payload bytes that rank 0 sends to other ranks in the forward pass of one step.", {"job_id", "block"}};
inline constexpr Definition kMoeExchangeCalls{"diffmoe_moe_exchange_collectives", Kind::kGauge,
    "Collective calls of rank 0 in the forward pass of one step.", {"job_id", "block"}};
inline constexpr Definition kMoeExchangeRows{"diffmoe_moe_exchange_rows", Kind::kGauge,
    "Token rows that rank 0 sends to a rank in the forward pass of one step: min, mean, max over ranks.", {"job_id", "block", "stat"}};

// Checkpoints: coordinator.
inline constexpr Definition kCheckpointCommits{"diffmoe_checkpoint_commits_total", Kind::kCounter,
    "Checkpoints that were committed, or given up, by outcome.", {"outcome"}};
inline constexpr Definition kCheckpointCommitDuration{"diffmoe_checkpoint_commit_duration_seconds", Kind::kHistogram,
    "First byte of a checkpoint to its durable manifest.", {}, kSlow};
inline constexpr Definition kCheckpointReceivedBytes{"diffmoe_checkpoint_received_bytes_total", Kind::kCounter,
    "Checkpoint bytes received from ranks."};
inline constexpr Definition kCheckpointReadBytes{"diffmoe_checkpoint_read_bytes_total", Kind::kCounter,
    "Checkpoint bytes sent to ranks."};
inline constexpr Definition kCheckpointDamaged{"diffmoe_checkpoint_damaged_total", Kind::kCounter,
    "Reads that met damaged or missing checkpoint bytes."};
inline constexpr Definition kCheckpointPending{"diffmoe_checkpoint_pending", Kind::kGauge,
    "Checkpoints being received now."};
inline constexpr Definition kCheckpointLastStep{"diffmoe_checkpoint_last_step", Kind::kGauge,
    "Step of the newest committed checkpoint.", {"job_id"}};
inline constexpr Definition kCheckpointLastTime{"diffmoe_checkpoint_last_commit_timestamp_seconds", Kind::kGauge,
    "Unix time of the newest committed checkpoint.", {"job_id"}};

// Jobs and cluster: coordinator.
inline constexpr Definition kJobs{"diffmoe_jobs", Kind::kGauge,
    "Jobs by state.", {"state"}};
inline constexpr Definition kJobRestarts{"diffmoe_job_restarts_total", Kind::kCounter,
    "Attempts that were started again, by what ended the one before.", {"cause"}};
inline constexpr Definition kWorkers{"diffmoe_workers", Kind::kGauge,
    "Workers by state.", {"state"}};
inline constexpr Definition kSlots{"diffmoe_slots", Kind::kGauge,
    "Slots of the connected workers by state.", {"state"}};

// Sampling: coordinator.
inline constexpr Definition kSampleRequests{"diffmoe_sample_requests_total", Kind::kCounter,
    "Sampling requests that ended, by outcome.", {"outcome"}};
inline constexpr Definition kSampleImages{"diffmoe_sample_images_total", Kind::kCounter,
    "Images delivered."};
inline constexpr Definition kSampleQueued{"diffmoe_sample_queued", Kind::kGauge,
    "Sampling requests that wait."};
inline constexpr Definition kSampleRunning{"diffmoe_sample_running", Kind::kGauge,
    "Sampling requests in work."};
inline constexpr Definition kSampleQueueWait{"diffmoe_sample_queue_wait_seconds", Kind::kHistogram,
    "Time from acceptance to the first denoise step.", {}, kSlow};
inline constexpr Definition kSampleStepDuration{"diffmoe_sample_step_duration_seconds", Kind::kHistogram,
    "Time of one denoise step.", {}, kFast};
inline constexpr Definition kSampleLatency{"diffmoe_sample_latency_seconds", Kind::kHistogram,
    "Time from acceptance to the end of a request.", {}, kSlow};

// RPC: coordinator.
inline constexpr Definition kRpcRequests{"diffmoe_rpc_requests_total", Kind::kCounter,
    "RPCs that ended, by method and status code.", {"method", "code"}};
inline constexpr Definition kRpcDuration{"diffmoe_rpc_duration_seconds", Kind::kHistogram,
    "Time of an RPC; a stream counts from open to end.", {"method"}, kFast};

// Store: coordinator.
inline constexpr Definition kStoreCommits{"diffmoe_store_commits_total", Kind::kCounter,
    "Synced commits of the record store, by status code.", {"code"}};
inline constexpr Definition kStoreCommitDuration{"diffmoe_store_commit_duration_seconds", Kind::kHistogram,
    "Time of one synced commit.", {}, kFast};
inline constexpr Definition kStoreRecords{"diffmoe_store_records_total", Kind::kCounter,
    "Records written by commits."};
inline constexpr Definition kStoreBytes{"diffmoe_store_size_bytes", Kind::kGauge,
    "Bytes on disk of each store.", {"store"}};

// Worker: each worker.
inline constexpr Definition kWorkerConnected{"diffmoe_worker_connected", Kind::kGauge,
    "1 while the session with the coordinator is open."};
inline constexpr Definition kWorkerReconnects{"diffmoe_worker_reconnects_total", Kind::kCounter,
    "Sessions with the coordinator opened after the first."};
inline constexpr Definition kWorkerSlots{"diffmoe_worker_slots", Kind::kGauge,
    "Slots of this worker by state.", {"state"}};
inline constexpr Definition kWorkerRankStarts{"diffmoe_worker_rank_starts_total", Kind::kCounter,
    "Rank processes started, by role.", {"role"}};
inline constexpr Definition kWorkerRankExits{"diffmoe_worker_rank_exits_total", Kind::kCounter,
    "Rank processes that ended, by cause.", {"cause"}};
inline constexpr Definition kWorkerBulkBytes{"diffmoe_worker_bulk_bytes_total", Kind::kCounter,
    "Checkpoint bytes forwarded, by direction.", {"direction"}};

// clang-format on

}  // namespace diffmoe::metrics
