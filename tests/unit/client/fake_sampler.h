// A sampler for tests of the client: images that are functions of the request, as real ones are.
#pragma once

#include <string>

#include "client/pixel_hash.h"
#include "diffmoe/v1/sampling.pb.h"
#include "grpcpp/grpcpp.h"

namespace diffmoe {

inline constexpr int kFakeSide = 4;

// Raw pixels of image `i` of the request: a function of (seed, first_image + i, class).
inline std::string FakePixels(const v1::SampleRequest& request, int i) {
  const int label = request.classes(request.classes_size() > 1 ? i : 0);
  uint64_t state = request.seed() * 0x9e3779b97f4a7c15 + (request.first_image() + i) * 1000003 +
                   static_cast<uint64_t>(label) * 7919;
  std::string pixels;
  for (int k = 0; k < kFakeSide * kFakeSide; ++k) {
    state = state * 6364136223846793005 + 1442695040888963407;
    pixels.push_back(static_cast<char>(state >> 56));
  }
  return pixels;
}

inline v1::SampleResponse FakeImage(const v1::SampleRequest& request, int i) {
  v1::SampleResponse event;
  v1::SampleResponse::Image& image = *event.mutable_image();
  image.set_index(i);
  image.set_label(request.classes(request.classes_size() > 1 ? i : 0));
  image.set_height(kFakeSide);
  image.set_width(kFakeSide);
  image.set_channels(1);
  image.set_encoding(v1::RAW);
  image.set_pixels(FakePixels(request, i));
  image.set_total_bytes(kFakeSide * kFakeSide);
  return event;
}

inline v1::Receipt FakeReceipt(const v1::SampleRequest& request) {
  v1::Receipt receipt;
  receipt.set_checkpoint("jobs/a-1/checkpoints/200");
  receipt.set_seed(request.seed());
  receipt.set_sampler(request.sampler().empty() ? "euler" : request.sampler());
  receipt.set_steps(request.has_steps() ? request.steps() : 50);
  receipt.set_guidance(request.has_guidance() ? request.guidance() : 2);
  *receipt.mutable_classes() = request.classes();
  receipt.set_count(request.count());
  receipt.set_first_image(request.first_image());
  receipt.set_weights_hash("aaaa");
  receipt.set_thresholds_hash("bbbb");
  receipt.set_build("0.1.0");
  for (int i = 0; i < request.count(); ++i) {
    receipt.add_image_hashes(Xxh3Hex(FakePixels(request, i)));
  }
  return receipt;
}

// A whole call.
inline grpc::Status FakeSample(const v1::SampleRequest& request,
                               grpc::ServerWriter<v1::SampleResponse>* writer) {
  v1::SampleResponse event;
  event.mutable_started()->set_checkpoint("jobs/a-1/checkpoints/200");
  writer->Write(event);
  event.mutable_progress()->set_step(1);
  event.mutable_progress()->set_steps(2);
  writer->Write(event);
  for (int i = 0; i < request.count(); ++i) writer->Write(FakeImage(request, i));
  *event.mutable_finished()->mutable_receipt() = FakeReceipt(request);
  writer->Write(event);
  return grpc::Status::OK;
}

}  // namespace diffmoe
