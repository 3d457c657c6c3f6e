// Checkpoint bytes between a rank and its worker. Blocking and bounded in time; thread-safe, since
// each call uses a stream of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

// Sends `header` and the concatenation of `runs` in chunks of 1 MiB, each with its XXH3 and at most
// sixteen without an acknowledgement, and returns when the whole checkpoint is durable. Gives up
// after 5 minutes and 1 s per 100 KB. Errors: those of BulkPlane.PutShard; INTERNAL when the peer
// breaks the protocol. moved: called for every chunk that has gone out.
absl::Status SendShard(worker::v1::BulkPlane::StubInterface& stub,
                       const worker::v1::ShardHeader& header, absl::Span<const TensorRun> runs,
                       const std::function<void()>& moved);

// Fills every target. Gives up after 1 minute and 1 s per 100 KB. Errors: those of
// BulkPlane.ReadExtents; DATA_LOSS when more or fewer bytes come than were asked for. moved: called
// for every message that has come.
absl::Status ReceiveExtents(worker::v1::BulkPlane::StubInterface& stub, const std::string& job_id,
                            int64_t step, absl::Span<const ReadTarget> targets,
                            const std::function<void()>& moved);

}  // namespace diffmoe
