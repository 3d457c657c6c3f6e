#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/progress.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/model/weights_file.h"
#include "core/spec/spec_convert.h"

namespace diffmoe {
namespace {

struct ExportOptions {
  std::string id;
  std::string step = "latest";
  std::string weights = "ema";
  std::string out;
};

std::string TensorText(const std::string& name, const std::string& dtype, absl::string_view shape) {
  return absl::StrCat(CleanText(name), " ", CleanText(dtype), " [", shape, "]");
}

// Writes the messages of a ReadCheckpoint call to a file.
class Export {
 public:
  Export(const ModelConfig& model, std::string path, ProgressPrinter* printer)
      : model_(model), path_(std::move(path)), printer_(*printer) {}

  absl::Status Add(const v1::ReadCheckpointResponse& message) {
    if (message.has_checkpoint()) RETURN_IF_ERROR(Begin(message.checkpoint()));
    if (writer_ == nullptr) {
      return absl::DataLossError("expected the checkpoint in the first message, got a tensor");
    }
    if (message.has_tensor()) RETURN_IF_ERROR(CheckTensor(message.tensor()));
    done_bytes_ += static_cast<int64_t>(message.data().size());
    printer_.Set(absl::StrCat(
        BarText(static_cast<double>(done_bytes_) / static_cast<double>(all_bytes_), 20), "  ",
        BytesText(done_bytes_), " of ", BytesText(all_bytes_)));
    return writer_->Append(message.data());
  }

  absl::Status Finish() {
    if (writer_ == nullptr || done_bytes_ != all_bytes_) {
      return absl::DataLossError(absl::StrCat("expected ", BytesText(all_bytes_),
                                              " of weights, got the end of the stream after ",
                                              BytesText(done_bytes_)));
    }
    return writer_->Finish();
  }

  const v1::Checkpoint& checkpoint() const { return checkpoint_; }
  int64_t bytes() const { return all_bytes_; }

 private:
  absl::Status Begin(const v1::Checkpoint& checkpoint) {
    checkpoint_ = checkpoint;
    std::vector<std::vector<float>> thresholds;  // per MoE layer
    for (int64_t block = 0; block < model_.depth; ++block) {
      if (!model_.IsMoeBlock(block)) continue;
      thresholds.emplace_back();
      for (const v1::LayerThresholds& layer : checkpoint.thresholds()) {
        if (layer.block() != block) continue;
        thresholds.back().assign(layer.thresholds().begin(), layer.thresholds().end());
      }
    }
    ASSIGN_OR_RETURN(writer_,
                     WeightsWriter::Create(path_, model_, thresholds, DefaultMetadata(model_)));
    for (const StateTensor& tensor : writer_->parameters()) all_bytes_ += 4 * tensor.elements();
    return absl::OkStatus();
  }

  absl::Status CheckTensor(const v1::TensorInfo& tensor) {
    const std::string got =
        TensorText(tensor.name(), tensor.dtype(), absl::StrJoin(tensor.shape(), ", "));
    std::string want = "no more tensors";
    if (next_ < writer_->parameters().size()) {
      const StateTensor& parameter = writer_->parameters()[next_++];
      want = TensorText(parameter.name, "F32", absl::StrJoin(parameter.shape, ", "));
    }
    if (got == want) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(CleanText(checkpoint_.name()), ": expected ", want, ", got ", got));
  }

  const ModelConfig model_;
  const std::string path_;
  ProgressPrinter& printer_;
  v1::Checkpoint checkpoint_;
  std::unique_ptr<WeightsWriter> writer_;
  size_t next_ = 0;  // of the writer's parameters
  int64_t done_bytes_ = 0, all_bytes_ = 0;
};

absl::StatusOr<int> ExportWeights(const Context& context, const ExportOptions& options) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  v1::GetJobRequest job_request;
  ASSIGN_OR_RETURN(*job_request.mutable_name(), JobName(options.id));
  v1::ReadCheckpointRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), CheckpointName(options.id, options.step));
  request.set_weights(options.weights == "model" ? v1::WEIGHT_SET_MODEL : v1::WEIGHT_SET_EMA);
  ASSIGN_OR_RETURN(const v1::Job job, client.GetJob(job_request));

  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  Export file(ToTrainingConfig(job.spec()).model, options.out, &printer);
  absl::Status status = client.ReadCheckpoint(
      request, &interrupt,
      [&file](const v1::ReadCheckpointResponse& message) { return file.Add(message); });
  if (status.ok()) status = file.Finish();
  printer.Finish();
  if (!status.ok() && interrupt.triggered()) {
    context.err << "Interrupted; nothing is written.\n" << std::flush;
    return kExitInterrupted;
  }
  RETURN_IF_ERROR(status);
  return context.PrintMessage(file.checkpoint(), [&] {
    return absl::StrCat("wrote ", options.out, ": ", options.weights, " weights of ",
                        CleanText(file.checkpoint().name()), ", ", BytesText(file.bytes()), "\n");
  });
}

}  // namespace

void AddExportCommand(CLI::App* ckpt, Context* context) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = ckpt->add_subcommand(
      "export", "Write a checkpoint's weights and thresholds as safetensors with published names");
  command->add_option("ID", options->id, "Id of the job")->required();
  command->add_option("STEP", options->step, "Step of the checkpoint, or latest")
      ->capture_default_str();
  command
      ->add_option("--weights", options->weights,
                   "ema: the average, from which images are made; model: as last trained")
      ->check(CLI::IsMember({"ema", "model"}))
      ->capture_default_str();
  command->add_option("--out", options->out, "File to write; replaced when it is there")
      ->type_name("FILE")
      ->required();
  command->callback([context, options] {
    context->action = [context, options] { return ExportWeights(*context, *options); };
  });
}

}  // namespace diffmoe
