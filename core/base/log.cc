#include "core/base/log.h"

#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace diffmoe {

std::string EscapeForLog(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (unsigned char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&out, "\\x%02x", c);
    } else if (c == '\\') {
      out += "\\\\";
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

namespace {

std::string Quoted(std::string_view value) {
  std::string escaped = EscapeForLog(value);
  bool plain = !escaped.empty();
  for (char c : escaped) plain = plain && c != ' ' && c != '"' && c != '=';
  if (plain) return escaped;
  std::string out = "\"";
  for (char c : escaped) {
    if (c == '"') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace

void Log(Severity severity, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields) {
  static constexpr const char* kNames[] = {"INFO", "WARN", "ERROR"};
  std::string line =
      absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ",
                   kNames[static_cast<int>(severity)], " [", EscapeForLog(component), "] ",
                   EscapeForLog(message));
  for (const LogField& field : fields)
    absl::StrAppend(&line, " ", field.key, "=", Quoted(field.value));
  line += '\n';
  // One write per line keeps lines of several threads and processes whole. A closed stderr loses
  // the line only.
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace diffmoe
