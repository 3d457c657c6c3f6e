// Lines of ranks for people and for programs. Pure functions.
#pragma once

#include <string>

#include "client/output/message.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

struct LogTextOptions {
  OutputFormat format = OutputFormat::kTable;
  bool rank = false;   // "[rank 0] " before the line
  bool color = false;  // of that
};

// One line and its end: as it was written, with control characters escaped; or the message as one
// line of JSON, or as an item of a YAML list.
std::string LogText(const v1::LogLine& line, const LogTextOptions& options);

}  // namespace diffmoe
