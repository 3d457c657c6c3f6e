// One image out of the messages that bring it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

// Not thread-safe. Every number from the coordinator is checked before it is used; memory grows
// with the bytes that came, not with those that were announced.
class ImageAssembly {
 public:
  // Takes the next part. A message without total_bytes brings the whole image. Errors: DATA_LOSS
  // that names the image: sizes out of bounds or unlike those of the parts before, an offset that
  // doesn't follow, more bytes than announced, a raw image whose bytes don't fit its size.
  absl::Status Add(const v1::SampleResponse::Image& part);

  bool started() const { return started_; }
  bool complete() const { return complete_; }
  int height() const { return first_.height(); }
  int width() const { return first_.width(); }
  int channels() const { return first_.channels(); }
  v1::ImageEncoding encoding() const { return first_.encoding(); }
  // All bytes in the encoding they came in; only when complete.
  const std::string& bytes() const { return bytes_; }
  // "32x32x1".
  std::string SizeText() const;

 private:
  absl::Status Fault(const v1::SampleResponse::Image& part, const std::string& what) const;
  absl::Status CheckFirst(const v1::SampleResponse::Image& part) const;

  bool started_ = false;
  bool complete_ = false;
  v1::SampleResponse::Image first_;  // without its bytes
  int64_t total_bytes_ = 0;
  std::string bytes_;
};

}  // namespace diffmoe
