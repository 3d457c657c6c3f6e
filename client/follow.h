// Following a job to its end.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/api_client.h"
#include "client/context.h"
#include "client/interrupt.h"

namespace diffmoe {

// Shows the job's progress on context.err until it ends, then prints a summary on context.out.
// Returns the exit code: 0, job failed, cancelled, or interrupted (the job goes on; how to cancel
// it is said). A lost coordinator is looked for again for up to a minute, which is shown. `name`:
// "jobs/ID".
absl::StatusOr<int> FollowJob(const Context& context, ApiClient* client, Interrupt* interrupt,
                              const std::string& name);

}  // namespace diffmoe
