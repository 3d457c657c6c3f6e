#include "client/set/set_maker.h"

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/output/text.h"
#include "client/retry.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int64_t kMaxShardBytes = int64_t{2} << 30;

SetOrigin OriginOf(const SampleImages& images, const v1::Receipt& receipt) {
  const ImageAssembly& first = images.at(0);
  SetOrigin origin;
  origin.height = first.height();
  origin.width = first.width();
  origin.channels = first.channels();
  origin.sampler = receipt.sampler();
  origin.steps = receipt.steps();
  origin.guidance = receipt.guidance();
  origin.weights_hash = receipt.weights_hash();
  origin.thresholds_hash = receipt.thresholds_hash();
  origin.build = receipt.build();
  return origin;
}

}  // namespace

SetMaker::SetMaker(ApiClient* client, Interrupt* interrupt, SetDirectory* directory,
                   SetMakerOptions options)
    : client_(*client),
      interrupt_(*interrupt),
      directory_(*directory),
      options_(std::move(options)),
      start_(directory_.manifest()) {
  for (int64_t shard = 0; shard < start_.spec.shards(); ++shard) {
    if (!start_.shards.contains(shard)) missing_.push_back(shard);
  }
}

absl::Status SetMaker::Run() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    images_ = start_.ImagesDone();
    last_success_ = absl::Now();
    running_ = options_.in_flight;
  }
  for (int i = 0; i < options_.in_flight; ++i) threads.emplace_back([this] { Work(); });
  const auto done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  for (bool all_done = false; !all_done;) {
    int64_t images = 0;
    {
      absl::MutexLock lock(&mutex_);
      all_done = mutex_.AwaitWithTimeout(absl::Condition(&done), options_.clock_step);
      images = images_;
    }
    if (options_.on_progress) options_.on_progress(images);
  }
  for (std::thread& thread : threads) thread.join();
  const SetManifest now = directory_.manifest();
  if (now.ImagesDone() == now.spec.count) return absl::OkStatus();
  if (interrupt_.triggered()) return absl::CancelledError("interrupted");
  absl::MutexLock lock(&mutex_);
  return error_;
}

void SetMaker::Work() {
  while (!stopped()) {
    const std::optional<Part> part = NextPart();
    if (!part.has_value()) break;
    const absl::Status status = MakePart(*part);
    if (status.ok()) continue;
    absl::MutexLock lock(&mutex_);
    if (error_.ok()) error_ = status;
  }
  absl::MutexLock lock(&mutex_);
  --running_;
}

bool SetMaker::stopped() const {
  if (interrupt_.triggered()) return true;
  absl::MutexLock lock(&mutex_);
  return !error_.ok();
}

absl::Time SetMaker::last_success() const {
  absl::MutexLock lock(&mutex_);
  return last_success_;
}

std::optional<SetMaker::Part> SetMaker::NextPart() {
  absl::MutexLock lock(&mutex_);
  if (next_shard_ >= missing_.size()) return std::nullopt;
  Part part;
  part.shard = missing_[next_shard_];
  const int64_t images = start_.spec.ImagesOf(part.shard);
  part.first = start_.spec.FirstOf(part.shard) + next_offset_;
  part.count = static_cast<int>(std::min<int64_t>(options_.request_images, images - next_offset_));
  next_offset_ += part.count;
  if (next_offset_ == images) {
    ++next_shard_;
    next_offset_ = 0;
  }
  return part;
}

absl::Status SetMaker::MakePart(const Part& part) {
  v1::SampleRequest request = start_.spec.request;
  request.set_checkpoint(start_.checkpoint);
  request.set_user(options_.user);
  request.set_first_image(static_cast<uint32_t>(part.first));
  request.set_count(part.count);
  for (int i = 0; i < part.count; ++i) request.add_classes(start_.spec.LabelOf(part.first + i));
  SampleImages images(part.count);
  std::optional<v1::Receipt> receipt;
  RETURN_IF_ERROR(CallUntilDone(request, &images, &receipt));
  return Deliver(part, images, *receipt);
}

absl::Status SetMaker::CallOnce(const v1::SampleRequest& request, SampleImages* images,
                                std::optional<v1::Receipt>* receipt) {
  images->Clear();
  receipt->reset();
  const auto on_event = [&](const v1::SampleResponse& event) -> absl::Status {
    if (stopped()) return absl::CancelledError("another request failed");
    if (event.has_image()) return images->Add(event.image());
    if (event.has_finished()) *receipt = event.finished().receipt();
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(client_.Sample(request, &interrupt_, on_event));
  if (!receipt->has_value()) {
    return absl::DataLossError("expected a receipt after the images, got the end of the stream");
  }
  return images->CheckAgainst(**receipt);
}

absl::Status SetMaker::CallUntilDone(const v1::SampleRequest& request, SampleImages* images,
                                     std::optional<v1::Receipt>* receipt) {
  std::minstd_rand random(std::random_device{}());
  std::uniform_real_distribution<double> jitter(0, 1);
  for (int attempt = 1;; ++attempt) {
    const absl::Status status = CallOnce(request, images, receipt);
    if (status.ok() || stopped() || !IsTransient(status)) return status;
    const absl::Duration delay = BackoffDelay(status, attempt, jitter(random));
    if (absl::Now() + delay - last_success() > options_.patience) {
      return absl::Status(status.code(), absl::StrCat("no request finished for ",
                                                      absl::FormatDuration(options_.patience),
                                                      "; the last error: ", status.message()));
    }
    if (options_.on_note) {
      options_.on_note(absl::StrCat("images from ", request.first_image(), ": ",
                                    CleanText(status.message()), "; trying again in ",
                                    DurationText(absl::ToDoubleSeconds(delay))));
    }
    // The coordinator may have moved.
    if (status.code() == absl::StatusCode::kUnavailable) client_.Reconnect();
    if (!interrupt_.WaitFor(delay)) return absl::CancelledError("interrupted");
  }
}

absl::Status SetMaker::Deliver(const Part& part, const SampleImages& images,
                               const v1::Receipt& receipt) {
  const SetOrigin origin = OriginOf(images, receipt);
  RETURN_IF_ERROR(directory_.CheckOrigin(origin));
  const int64_t shard_images = start_.spec.ImagesOf(part.shard);
  const int64_t image_bytes = origin.image_bytes();
  if (shard_images * image_bytes > kMaxShardBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shard-images: expected shards of at most ", BytesText(kMaxShardBytes),
                     ", got ", shard_images, " images of ", BytesText(image_bytes)));
  }
  std::string complete;
  {
    absl::MutexLock lock(&mutex_);
    OpenShard& shard = open_[part.shard];
    if (shard.pixels.empty()) {
      shard.pixels.resize(static_cast<size_t>(shard_images * image_bytes));
      shard.missing = shard_images;
    }
    const int64_t offset = part.first - start_.spec.FirstOf(part.shard);
    for (int i = 0; i < part.count; ++i) {
      shard.pixels.replace(static_cast<size_t>((offset + i) * image_bytes),
                           static_cast<size_t>(image_bytes), images.at(i).bytes());
    }
    shard.missing -= part.count;
    images_ += part.count;
    last_success_ = absl::Now();
    if (shard.missing > 0) return absl::OkStatus();
    complete = std::move(shard.pixels);
    open_.erase(part.shard);
  }
  return directory_.WriteShard(part.shard, complete);
}

}  // namespace diffmoe
