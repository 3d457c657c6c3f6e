#include "client/replay/receipt_file.h"

#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_fields.h"
#include "google/protobuf/util/json_util.h"

namespace diffmoe {
namespace {

constexpr int kMaxImages = 1024;
// The capacity per step and layer makes receipts long.
constexpr size_t kMaxBytes = 64 << 20;

absl::StatusOr<std::string> ReadAtMost(std::istream& in, const std::string& name) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    text.append(buffer.data(), static_cast<size_t>(in.gcount()));
    if (text.size() > kMaxBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected a receipt of at most ", kMaxBytes, " bytes, got more"));
    }
  }
  if (in.bad()) return absl::InternalError(absl::StrCat(name, ": reading failed"));
  return text;
}

bool IsCheckpointName(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  int64_t step = 0;
  return parts.size() == 4 && parts[0] == "jobs" && !parts[1].empty() &&
         parts[2] == "checkpoints" && absl::SimpleAtoi(parts[3], &step) && step >= 0;
}

bool IsHash(const std::string& text) {
  for (char c : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c)) && (c < 'a' || c > 'f')) return false;
  }
  return text.size() == 32;
}

class Checker {
 public:
  explicit Checker(const std::string& file) : file_(file) {}
  void Expect(bool condition, absl::string_view field, absl::string_view expected,
              const std::string& got) {
    if (condition || !status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(file_, ": ", field, ": expected ", expected, ", got ", got));
  }
  const absl::Status& status() const { return status_; }

 private:
  const std::string& file_;
  absl::Status status_;
};

}  // namespace

absl::Status CheckReceipt(const v1::Receipt& receipt, const std::string& file) {
  Checker check(file);
  check.Expect(IsCheckpointName(receipt.checkpoint()), "checkpoint", "jobs/ID/checkpoints/STEP",
               QuoteForMessage(receipt.checkpoint()));
  check.Expect(receipt.count() >= 1 && receipt.count() <= kMaxImages, "count",
               absl::StrCat("1 to ", kMaxImages), absl::StrCat(receipt.count()));
  check.Expect(receipt.classes_size() == 1 || receipt.classes_size() == receipt.count(), "classes",
               absl::StrCat("1 or ", receipt.count(), " classes"),
               absl::StrCat(receipt.classes_size()));
  check.Expect(!receipt.sampler().empty(), "sampler", "the name of a sampler", "nothing");
  const bool own_steps = receipt.sampler() == "dopri5";
  check.Expect(own_steps || (receipt.steps() >= 1 && receipt.steps() <= 1000), "steps", "1 to 1000",
               absl::StrCat(receipt.steps()));
  check.Expect(std::isfinite(receipt.guidance()) && receipt.guidance() >= 0, "guidance",
               "a number from 0", absl::StrCat(receipt.guidance()));
  check.Expect(receipt.image_hashes_size() == receipt.count(), "image_hashes",
               absl::StrCat(receipt.count(), " hashes"), absl::StrCat(receipt.image_hashes_size()));
  for (int i = 0; i < receipt.image_hashes_size(); ++i) {
    check.Expect(IsHash(receipt.image_hashes(i)), absl::StrCat("image_hashes[", i, "]"),
                 "32 hexadecimal digits", QuoteForMessage(receipt.image_hashes(i)));
  }
  return check.status();
}

absl::StatusOr<v1::Receipt> ParseReceipt(const std::string& text, const std::string& file) {
  v1::Receipt receipt;
  const auto parsed = google::protobuf::util::JsonStringToMessage(text, &receipt);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": expected a receipt as JSON, got: ", std::string(parsed.message())));
  }
  RETURN_IF_ERROR(CheckReceipt(receipt, file));
  return receipt;
}

absl::StatusOr<v1::Receipt> ReadReceipt(const std::string& path) {
  if (path == "-") {
    ASSIGN_OR_RETURN(const std::string text, ReadAtMost(std::cin, "standard input"));
    return ParseReceipt(text, "standard input");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return FileError(errno, "open", path);
  ASSIGN_OR_RETURN(const std::string text, ReadAtMost(file, path));
  return ParseReceipt(text, path);
}

v1::SampleRequest RequestOfReceipt(const v1::Receipt& receipt) {
  v1::SampleRequest request;
  request.set_checkpoint(receipt.checkpoint());
  *request.mutable_classes() = receipt.classes();
  request.set_count(receipt.count());
  request.set_seed(receipt.seed());
  if (receipt.steps() > 0 && receipt.sampler() != "dopri5") request.set_steps(receipt.steps());
  request.set_guidance(receipt.guidance());
  request.set_sampler(receipt.sampler());
  // Only ddim takes it; receipts of other samplers name it as 0 at most.
  if (receipt.has_eta() && (receipt.eta() != 0 || receipt.sampler() == "ddim")) {
    request.set_eta(receipt.eta());
  }
  if (receipt.has_guidance_interval()) {
    *request.mutable_guidance_interval() = receipt.guidance_interval();
  }
  if (receipt.has_target_capacity()) request.set_capacity(receipt.target_capacity());
  request.set_threshold_rule(receipt.threshold_rule());
  if (receipt.image_size() > 0) request.set_image_size(receipt.image_size());
  if (receipt.has_negative_class()) request.set_negative_class(receipt.negative_class());
  request.set_numeric_mode(receipt.numeric_mode());
  request.set_first_image(receipt.first_image());
  return request;
}

}  // namespace diffmoe
