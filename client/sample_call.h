// A sampling call with its progress shown.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/api_client.h"
#include "client/context.h"
#include "client/interrupt.h"
#include "client/preview_grid.h"
#include "client/sample_images.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

struct SampleCallOptions {
  // For the whole call with all its waiting.
  absl::Duration limit = absl::InfiniteDuration();
  // A refusal for load is followed by another try after the delay that it names, while the limit
  // allows it.
  bool wait = false;
  PreviewGrid* previews = nullptr;  // gets previews and finished images; may be null
};

// Runs the call to its end; images go to `images`, progress to context.err. The images are checked
// against the hashes of the receipt. Errors: the API's; CANCELLED after an interrupt;
// DEADLINE_EXCEEDED that says how far it came; DATA_LOSS when an image doesn't fit or the receipt
// is missing.
absl::StatusOr<v1::Receipt> RunSampleCall(const Context& context, ApiClient* client,
                                          Interrupt* interrupt, const v1::SampleRequest& request,
                                          SampleImages* images,
                                          const SampleCallOptions& options = {});

// "queued, 3 ahead, about 12s: starting a sampler".
std::string QueuedLine(const v1::SampleResponse::Queued& queued);
// "[####------]  denoise step 20/50  4 images done".
std::string DenoiseLine(const v1::SampleResponse::SampleProgress& progress);

}  // namespace diffmoe
