#include "client/context.h"

#include "absl/strings/str_cat.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {

absl::StatusOr<int> Context::PrintMessage(const google::protobuf::Message& message,
                                          const std::function<std::string()>& table) const {
  if (format == OutputFormat::kTable) {
    out << table() << std::flush;
    return kExitOk;
  }
  ASSIGN_OR_RETURN(const std::string text, MessageText(message, format));
  out << text << std::flush;
  return kExitOk;
}

std::string HintFlags(const Context& context) {
  if (!context.endpoint.server.empty()) {
    return absl::StrCat("--server ", CleanText(context.endpoint.server), " ");
  }
  if (!context.endpoint.data_dir.empty()) {
    return absl::StrCat("--data-dir ", CleanText(context.endpoint.data_dir), " ");
  }
  return "";
}

}  // namespace diffmoe
