// What the bulk plane needs of the rest of the coordinator. Implemented over the one-writer loop; a
// test double stands in the tests of this folder.
//
// Every method is called from threads of the gRPC server, many at once, and may block until the
// loop has answered. After the loop has stopped they return UNAVAILABLE.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"

namespace diffmoe::server {

class CoordinatorHost {
 public:
  virtual ~CoordinatorHost() = default;

  // OK when this is the current epoch of a living group (training or sampling); ABORTED when it was
  // replaced or has ended.
  virtual absl::Status CheckEpoch(const worker::v1::GroupId& group) = 0;

  // Stores the manifest of (job_id, step) durably, in place of an older one of another epoch, and
  // announces the checkpoint. Its chunks are readable already. Must check manifest.epoch() again,
  // in the loop: ABORTED when stale. INTERNAL or UNAVAILABLE: the outcome is unknown, the chunks
  // are kept. Any other error: the manifest will never be seen, its chunks are deleted.
  virtual absl::Status CommitManifest(const worker::v1::Manifest& manifest) = 0;

  // NOT_FOUND when no checkpoint of this step is committed.
  virtual absl::StatusOr<worker::v1::Manifest> GetManifest(const std::string& job_id,
                                                           int64_t step) = 0;

  // A read met damage: flag the checkpoint, so that the previous one is used. Must not block on the
  // caller.
  virtual void OnDamagedCheckpoint(const std::string& job_id, int64_t step,
                                   const std::string& reason) = 0;
};

}  // namespace diffmoe::server
