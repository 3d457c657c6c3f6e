// How a process writes its log lines (log.h): the form, and what every line carries. For main
// functions; what is set holds for the whole process from then on. Thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "core/base/log.h"

namespace diffmoe {

enum class LogFormat {
  kText,  // TIME SEVERITY [component] message key=value ...
  kJson,  // one object a line: time, severity, component, message, and a text for each field
};

void SetLogFormat(LogFormat format);
// Fields behind those of every later line, for example job, epoch and rank. A line that has a field
// of the same name keeps its own.
void SetLogContext(std::vector<LogField> fields);

// The line that Log writes, newline included. A field named as a part of every JSON line gets "_"
// behind its name there.
std::string FormatLogLine(absl::Time time, Severity severity, std::string_view component,
                          std::string_view message, std::initializer_list<LogField> fields);

// "text" or "json", for flags. False for anything else.
bool ParseLogFormat(std::string_view text, LogFormat* format);
std::string_view LogFormatName(LogFormat format);

// The time of a line that Log made, in either form. False for a line without one.
bool ParseLogTime(std::string_view line, absl::Time* time);

}  // namespace diffmoe
