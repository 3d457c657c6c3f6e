// SamplingService: opens the response stream and posts the request; the loop does the rest.
// Thread-safe; nothing is owned.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <functional>
#include <string>

#include "diffmoe/v1/sampling.grpc.pb.h"
#include "server/api/call_traces.h"
#include "server/api/sample_streams.h"
#include "server/call_table.h"
#include "server/loop.h"

namespace diffmoe::server {

struct SamplingParts {
  Loop* loop = nullptr;
  CallTable* calls = nullptr;
  SampleStreams* samples = nullptr;
  CalibrationStreams* calibrations = nullptr;
  CallTraces* traces = nullptr;
  // Makes seeds and ids of requests that have none.
  std::function<uint64_t()> draw;
};

class SamplingService final : public v1::SamplingService::CallbackService {
 public:
  explicit SamplingService(SamplingParts parts);

  grpc::ServerUnaryReactor* CancelSample(grpc::CallbackServerContext* context,
                                         const v1::CancelSampleRequest* request,
                                         v1::CancelSampleResponse* response) override;
  grpc::ServerUnaryReactor* GetCalibration(grpc::CallbackServerContext* context,
                                           const v1::GetCalibrationRequest* request,
                                           v1::Calibration* response) override;

 private:
  // The requests of these two are parsed here: gRPC would answer INTERNAL without a word to a
  // string that isn't UTF-8.
  grpc::ServerWriteReactor<v1::SampleResponse>* SampleBytes(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* bytes);
  grpc::ServerWriteReactor<v1::CalibrateCheckpointResponse>* CalibrateBytes(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* bytes);
  std::string DrawId() const;

  const SamplingParts parts_;
};

}  // namespace diffmoe::server
