// A sampling call with its progress shown.
#pragma once

#include "absl/status/statusor.h"
#include "client/api_client.h"
#include "client/context.h"
#include "client/interrupt.h"
#include "client/sample_images.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

// Runs the call to its end; images go to `images`, progress to context.err. Errors: the API's;
// CANCELLED after an interrupt; DATA_LOSS when an image doesn't fit or the receipt is missing.
absl::StatusOr<v1::Receipt> RunSampleCall(const Context& context, ApiClient* client,
                                          Interrupt* interrupt, const v1::SampleRequest& request,
                                          SampleImages* images);

}  // namespace diffmoe
