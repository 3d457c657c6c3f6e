// Makes the images of a set by many requests in flight.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/api_client.h"
#include "client/interrupt.h"
#include "client/sample_images.h"
#include "client/set/set_directory.h"

namespace diffmoe {

struct SetMakerOptions {
  int in_flight = 4;        // requests at a time
  int request_images = 32;  // most images of a request; has no influence on them
  std::string user;
  // Without a finished request for so long, the last error ends the work.
  absl::Duration patience = absl::Minutes(10);
  absl::Duration clock_step = absl::Milliseconds(500);  // between two calls of on_progress
  // Images that are there, called now and then.
  std::function<void(int64_t)> on_progress;
  // Something worth a line: a repeated request.
  std::function<void(const std::string&)> on_note;
};

// One use. Start: Run makes its threads. Stop: Run joins them. At most `in_flight` + 1 shards are
// in memory.
class SetMaker {
 public:
  // All must outlive it. The directory's set has been begun.
  SetMaker(ApiClient* client, Interrupt* interrupt, SetDirectory* directory,
           SetMakerOptions options);

  // Makes all shards that are missing. Errors: the API's, when no repetition helps; CANCELLED after
  // an interrupt; FAILED_PRECONDITION when weights, thresholds or build are no longer those of the
  // set; those of writing. Complete shards stay in any case.
  absl::Status Run();

 private:
  struct Part {
    int64_t shard = 0;
    int64_t first = 0;  // image of the set
    int count = 0;
  };
  struct OpenShard {
    std::string pixels;
    int64_t missing = 0;
  };

  void Work();
  std::optional<Part> NextPart();
  absl::Status MakePart(const Part& part);
  absl::Status CallOnce(const v1::SampleRequest& request, SampleImages* images,
                        std::optional<v1::Receipt>* receipt);
  // Repeats CallOnce while that may help.
  absl::Status CallUntilDone(const v1::SampleRequest& request, SampleImages* images,
                             std::optional<v1::Receipt>* receipt);
  absl::Status Deliver(const Part& part, const SampleImages& images, const v1::Receipt& receipt);
  bool stopped() const;
  absl::Time last_success() const;

  ApiClient& client_;
  Interrupt& interrupt_;
  SetDirectory& directory_;
  const SetMakerOptions options_;
  const SetManifest start_;
  mutable absl::Mutex mutex_;
  std::vector<int64_t> missing_;  // shards, ascending; set once
  size_t next_shard_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_offset_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<int64_t, OpenShard> open_ ABSL_GUARDED_BY(mutex_);
  int64_t images_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // threads
  absl::Time last_success_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe
