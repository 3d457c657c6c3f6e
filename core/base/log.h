// One line per event on standard error: time, severity, component, message, key=value fields.
// Control characters in any part are escaped, so that a name from outside can't forge a line.
// Thread-safe.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace diffmoe {

enum class Severity { kInfo, kWarning, kError };

struct LogField {
  LogField(std::string_view key_in, const absl::AlphaNum& value_in)
      : key(key_in), value(value_in.Piece()) {}
  std::string key;
  std::string value;
};

void Log(Severity severity, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields = {});

inline void LogInfo(std::string_view component, std::string_view message,
                    std::initializer_list<LogField> fields = {}) {
  Log(Severity::kInfo, component, message, fields);
}
inline void LogWarning(std::string_view component, std::string_view message,
                       std::initializer_list<LogField> fields = {}) {
  Log(Severity::kWarning, component, message, fields);
}
inline void LogError(std::string_view component, std::string_view message,
                     std::initializer_list<LogField> fields = {}) {
  Log(Severity::kError, component, message, fields);
}

// `text` with control characters, quotes and backslashes escaped.
std::string EscapeForLog(std::string_view text);

}  // namespace diffmoe
