// What every command gets from main.
#pragma once

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "client/output/message.h"
#include "client/output/progress.h"
#include "core/base/clock.h"

namespace diffmoe {

// A command's work; returns the exit code of success, or the error that main describes and maps to
// an exit code.
using CommandAction = std::function<absl::StatusOr<int>()>;

struct Context {
  // Results go to `out`, progress and hints to `err`.
  std::ostream& out;
  std::ostream& err;
  const Clock& clock;
  ProgressOptions progress;  // of `err`
  bool out_terminal = false;
  std::string executable;    // path of this program
  EndpointOptions endpoint;  // global flags
  OutputFormat format = OutputFormat::kTable;
  CommandAction action;  // set by the subcommand that the arguments chose

  // Prints a message as JSON or YAML if that was asked for, else the table that `table` makes.
  absl::StatusOr<int> PrintMessage(const google::protobuf::Message& message,
                                   const std::function<std::string()>& table) const;
};

// "--data-dir DIR " or "--server ADDRESS " when the commands shown in hints need it, else "".
std::string HintFlags(const Context& context);

}  // namespace diffmoe
