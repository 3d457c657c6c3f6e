// SamplingService: opens the response stream and posts the request; the loop does the rest.
// Thread-safe; nothing is owned.
#pragma once

#include <cstdint>
#include <functional>

#include "diffmoe/v1/sampling.grpc.pb.h"
#include "server/api/sample_streams.h"
#include "server/call_table.h"
#include "server/loop.h"

namespace diffmoe::server {

class SamplingService final : public v1::SamplingService::CallbackService {
 public:
  // `draw_seed` makes the seed of a request that has none.
  SamplingService(Loop* loop, CallTable* calls, SampleStreams* streams,
                  std::function<uint64_t()> draw_seed)
      : loop_(loop), calls_(calls), streams_(streams), draw_seed_(std::move(draw_seed)) {}

  grpc::ServerWriteReactor<v1::SampleResponse>* Sample(grpc::CallbackServerContext* context,
                                                       const v1::SampleRequest* request) override;

 private:
  Loop* loop_;
  CallTable* calls_;
  SampleStreams* streams_;
  const std::function<uint64_t()> draw_seed_;
};

}  // namespace diffmoe::server
