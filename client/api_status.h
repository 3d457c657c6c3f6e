// Errors of the public API as absl::Status: the canonical code and message, with ErrorDetails as a
// payload.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "diffmoe/v1/error.pb.h"

namespace diffmoe {

// The ErrorDetails inside a serialised StatusDetails (the binary details of a gRPC error); empty
// when there are none.
v1::ErrorDetails ParseErrorDetails(const std::string& status_details);

// Details travel with a status through the client's code.
void SetErrorDetails(const v1::ErrorDetails& details, absl::Status* status);
v1::ErrorDetails GetErrorDetails(const absl::Status& status);

// The file that violations' lines are about.
void SetErrorFile(absl::string_view file, absl::Status* status);
std::string GetErrorFile(const absl::Status& status);

// A mistake in the arguments that only the command itself can see; its exit code is that of a usage
// error.
absl::Status UsageError(absl::string_view message);

// DEADLINE_EXCEEDED for a deadline that the user gave with --deadline.
absl::Status OwnDeadlineError(absl::string_view message);

// The program's exit code for an error.
int ExitCodeForError(const absl::Status& status);

// The whole text that a person gets for an error: what happened, each violation with its place, and
// what to do next. Control characters from outside are escaped. Ends with a newline.
std::string DescribeError(const absl::Status& status);

}  // namespace diffmoe
