// A rank's connection to its worker: assignment, reports, checkpoints, rendezvous; and a sampler's
// to the coordinator. This
// header includes neither Torch nor Protobuf, so that both sides of a rank can include it.
//
// Thread safety: every method may be called from any thread. Order: Connect, use, destroy (which
// closes the session). Twice a second the link tells the worker what activity() holds. When the
// worker or the coordinator is away, bulk calls return UNAVAILABLE and may be retried; reports are
// dropped but for the step records, which are kept (up to 100,000) until they can be sent.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/activity.h"
#include "core/spec/training_config.h"

namespace diffmoe {

enum class RankRole { kTrain, kSample };

struct RankAssignment {
  std::string group_id;  // job id, or sampler id
  int64_t epoch = 0;
  int rank = 0;
  int world_size = 1;
  RankRole role = RankRole::kTrain;
  std::string rank_address;         // where this rank listens for its peers
  std::string coordinator_address;  // of a sampler's session
  std::string device;               // "cpu" or "cuda:0"
  TrainingConfig config;            // training only
  std::string restore_job;          // set when restore_step > 0
  int64_t restore_step = 0;         // 0: from the beginning
};

// Mirrors diffmoe.v1.LayerStats.
struct LayerReport {
  int block = 0;
  double capacity = 0;
  double predictor_accuracy = 0;
  double zero_expert_tokens = 0;
  std::vector<float> thresholds;
  std::vector<float> expert_load;
  double gate_entropy = 0;
  int64_t exchange_bytes = 0, exchange_calls = 0;
  std::vector<int64_t> exchange_rows = {};
};

struct StepReportRecord {
  int64_t step = 0;
  float loss = 0;
  float predictor_loss = 0;
  float grad_norm = 0;
  float learning_rate = 0;
};

// Mirrors diffmoe.v1.Progress.
struct ProgressReport {
  int64_t step = 0;
  int64_t total_steps = 0;
  double loss = 0;
  double predictor_loss = 0;
  double balance_loss = 0;
  double images_per_second = 0;
  double grad_norm = 0;
  double learning_rate = 0;
  double seconds_left = 0;
  double elapsed_seconds = 0;
  int64_t bad_files = 0;
  double data_seconds = 0, forward_seconds = 0, backward_seconds = 0, exchange_seconds = 0,
         reduce_seconds = 0, optimizer_seconds = 0;
  std::vector<LayerReport> layers;
};

// A contiguous run of elements of one logical tensor, with the memory that holds it.
struct TensorRun {
  std::string tensor;
  std::string dtype;  // F32, I64, U8
  std::vector<int64_t> global_shape;
  int64_t first_element = 0;
  int64_t elements = 0;
  const char* data = nullptr;  // little-endian, elements * size of dtype bytes
};

struct CheckpointSummaryData {
  double loss = 0;
  std::vector<int> blocks;
  int experts = 0;
  std::vector<float> thresholds;  // [blocks, experts]
  std::string trainer_state;
};

// Where the elements of a logical tensor lie.
struct TensorPlace {
  std::string tensor;
  std::string dtype;
  std::vector<int64_t> global_shape;
  int64_t first_element = 0;
  int64_t elements = 0;
  int shard = 0;
  int64_t shard_offset = 0;  // bytes
};

struct CheckpointManifest {
  std::string job_id;
  int64_t step = 0;
  int world_size = 0;
  std::vector<TensorPlace> places;
  CheckpointSummaryData summary;
};

struct ReadTarget {
  int shard = 0;
  int64_t offset = 0;  // bytes
  int64_t bytes = 0;
  char* destination = nullptr;
};

// Mirror diffmoe.v1.ThresholdRule, NumericMode and ImageEncoding.
enum class ThresholdRule { kDynamic, kCalibrated, kInterval, kGate };
enum class NumericMode { kExact, kFast };
enum class ImageEncoding { kRaw, kPng };

struct SampleWork {
  std::string request_id;
  std::string job_id;
  int64_t step = 0;
  int64_t checkpoint_epoch = 0;
  TrainingConfig config;
  std::vector<int> classes;  // one per image
  uint64_t seed = 0;
  uint32_t first_image = 0;  // noise of image i is keyed by (seed, first_image + i)
  std::string sampler;       // a name of core/diffusion/sampler_kind.h
  int steps = 50;            // no meaning for dopri5
  double eta = 0;
  double guidance = 2;
  double guidance_begin = 0, guidance_end = 1;
  std::optional<int> negative_class;
  ThresholdRule rule = ThresholdRule::kDynamic;
  std::vector<std::vector<float>> thresholds;  // [MoE layers][experts]; empty: the checkpoint's
  int image_size = 0;                          // 0: as the model was trained
  int preview_every = 0;                       // denoise steps; 0: no previews
  ImageEncoding encoding = ImageEncoding::kRaw;
  NumericMode numeric_mode = NumericMode::kExact;
  std::optional<absl::Time> deadline;
  std::string traceparent = {};  // W3C trace context; empty: not traced
};

struct CalibrateWork {
  std::string request_id;
  std::string job_id;
  int64_t step = 0;
  int64_t checkpoint_epoch = 0;
  TrainingConfig config;
  int images = 256;
  std::vector<double> capacities;  // ascending
};

struct StopCommand {
  std::string reason;
  // Training: a checkpoint at the end of a step that all ranks agree on comes first.
  bool save = false;
};
struct CancelSampleCommand {
  std::string request_id;
};
// The session with the coordinator broke: nobody waits for the requests that came over it.
struct ForgetSamplesCommand {};
using RankCommandData =
    std::variant<StopCommand, SampleWork, CalibrateWork, CancelSampleCommand, ForgetSamplesCommand>;

// Sent in this order per request: started, progress and previews between denoise steps, images in
// ascending index, finished; or error.
struct SampleStarted {};
struct SampleProgressUpdate {
  int step = 0;
  int steps = 0;
  int images_done = 0;
};
struct SampleImage {
  int index = 0;
  int label = 0;
  int height = 0, width = 0, channels = 0;
  std::string pixels;  // uint8 [height, width, channels]
};
// The image that the network expects at this point.
struct SamplePreview {
  int step = 0;
  int steps = 0;
  SampleImage image;
};
// Of an image in the encoding asked for; the link cuts it into messages.
struct EncodedImage {
  SampleImage image;  // `pixels` holds the encoded bytes
  ImageEncoding encoding = ImageEncoding::kRaw;
};
struct SampleFinished {
  std::vector<double> capacity;                   // per MoE layer
  std::vector<std::vector<float>> step_capacity;  // [network calls of an image][MoE layers]
  double zero_expert_tokens = 0;                  // share of (token, layer) pairs
  double seconds = 0;
  std::string thresholds_hash;
  std::string weights_hash;
  std::vector<std::string> image_hashes;
  int64_t network_calls = 0;
};
// Mirror diffmoe.v1.CalibrateCheckpointResponse.Progress, Calibration and SamplerLoad.
struct CalibrationProgress {
  double done = 0;
  std::string doing;
};
struct CalibratedLayerData {
  int block = 0;
  std::vector<float> thresholds;
  double measured = 0;
};
struct CalibratedTargetData {
  ThresholdRule rule = ThresholdRule::kCalibrated;
  double capacity = 0;
  std::vector<CalibratedLayerData> layers;
  double measured = 0;
  double loss = 0;
  double seconds = 0;
};
struct CalibrationFinished {
  int images = 0;
  std::string data;
  std::vector<CalibratedTargetData> targets;
};
struct SamplerLoadUpdate {
  double step_base_seconds = 0;
  double step_row_seconds = 0;
  int64_t rows_waiting = 0;
  int width_rows = 0;
  int requests = 0;
};
using SampleUpdateData =
    std::variant<SampleStarted, SampleProgressUpdate, SamplePreview, EncodedImage, SampleFinished,
                 CalibrationProgress, CalibrationFinished, SamplerLoadUpdate, absl::Status>;

class RankLink {
 public:
  // Connects to the worker's unix socket and waits for the assignment.
  static absl::StatusOr<std::unique_ptr<RankLink>> Connect(const std::string& socket_path,
                                                           const std::string& group_id,
                                                           int64_t epoch, int rank);
  virtual ~RankLink() = default;

  virtual const RankAssignment& assignment() const = 0;
  // Where the rank's working thread says what it does: the worker kills a rank that doesn't move
  // for longer than the activity's limit. Checkpoint chunks that are sent or read count as work.
  virtual Activity& activity() = 0;

  // Training. Report returns at once.
  virtual void Report(ProgressReport progress, std::vector<StepReportRecord> records) = 0;
  // Blocks until the whole checkpoint is durable (all ranks have sent their shards) or failed.
  // `summary` on rank 0 only.
  virtual absl::Status PutShard(int64_t step, absl::Span<const TensorRun> runs,
                                const std::optional<CheckpointSummaryData>& summary) = 0;
  virtual absl::StatusOr<CheckpointManifest> GetManifest(const std::string& job_id,
                                                         int64_t step) = 0;
  virtual absl::Status ReadExtents(const std::string& job_id, int64_t step,
                                   absl::Span<const ReadTarget> targets) = 0;

  // Last words. Failure is said before exiting with an error; Done after the work is finished.
  virtual void SayFailure(const absl::Status& status, int64_t step) = 0;
  virtual void SayDone(int64_t step) = 0;

  // The next command, or nothing when `timeout` has passed. A lost worker arrives as StopCommand.
  virtual std::optional<RankCommandData> NextCommand(absl::Duration timeout) = 0;
  // True once a StopCommand without `save` has arrived (also when nobody took it yet).
  virtual bool stop_requested() const = 0;
  // True once one with `save` has arrived.
  virtual bool save_requested() const = 0;

  // Sampling. Keeps the order of updates; blocks when 64 MB are waiting. `request_id` is empty for
  // SamplerLoadUpdate. Updates may wait until Flush, so that those of one step travel together.
  virtual absl::Status PushSampleUpdate(const std::string& request_id, SampleUpdateData update) = 0;
  virtual void FlushSampleUpdates() = 0;

  // Rendezvous key-value store of this (group, epoch).
  virtual absl::Status KeySet(const std::string& key, const std::string& value) = 0;
  virtual absl::StatusOr<std::string> KeyGet(const std::string& key, absl::Duration timeout) = 0;
  virtual absl::StatusOr<int64_t> KeyAdd(const std::string& key, int64_t amount) = 0;
  virtual absl::Status KeyWait(const std::vector<std::string>& keys, absl::Duration timeout) = 0;
  virtual absl::StatusOr<bool> KeyCheck(const std::vector<std::string>& keys) = 0;
  virtual absl::StatusOr<bool> KeyDelete(const std::string& key) = 0;
  virtual absl::StatusOr<int64_t> KeyCount() = 0;
};

}  // namespace diffmoe
