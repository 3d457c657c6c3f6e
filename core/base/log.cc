#include "core/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "core/base/log_setup.h"
#include "nlohmann/json.hpp"

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

constexpr const char* kSeverities[] = {"INFO", "WARN", "ERROR"};
constexpr char kTimeFormat[] = "%Y-%m-%dT%H:%M:%E3SZ";
constexpr size_t kTimeBytes = sizeof("2026-01-01T00:00:00.000Z") - 1;
constexpr std::string_view kJsonStart = "{\"time\":\"";

// Of the process, as standard error is. Never destroyed: threads may log to the very end.
struct Setup {
  absl::Mutex mutex;
  LogFormat format ABSL_GUARDED_BY(mutex) = LogFormat::kText;
  std::vector<LogField> context ABSL_GUARDED_BY(mutex);
};

Setup& TheSetup() {
  static Setup* setup = new Setup();
  return *setup;
}

// Lines that standard error did not take.
std::atomic<int64_t> lost_lines{0};

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

bool HasField(std::initializer_list<LogField> fields, const std::string& key) {
  return std::any_of(fields.begin(), fields.end(),
                     [&key](const LogField& field) { return field.key == key; });
}

std::string TextLine(const std::string& time, Severity severity, std::string_view component,
                     std::string_view message) {
  return absl::StrCat(time, " ", kSeverities[static_cast<int>(severity)], " [",
                      EscapeForLog(component), "] ", EscapeForLog(message));
}

// One write per line keeps lines of several threads and processes whole. A closed stderr loses the
// line only.
bool WriteLine(const std::string& line) {
  ssize_t written;
  do {
    written = ::write(STDERR_FILENO, line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  return written >= 0 || errno != EAGAIN;
}

}  // namespace

void SetLogFormat(LogFormat format) {
  absl::MutexLock lock(&TheSetup().mutex);
  TheSetup().format = format;
}

void SetLogContext(std::vector<LogField> fields) {
  absl::MutexLock lock(&TheSetup().mutex);
  TheSetup().context = std::move(fields);
}

std::string FormatLogLine(absl::Time time, Severity severity, std::string_view component,
                          std::string_view message, std::initializer_list<LogField> fields) {
  const std::string stamp = absl::FormatTime(kTimeFormat, time, absl::UTCTimeZone());
  Setup& setup = TheSetup();
  absl::MutexLock lock(&setup.mutex);
  if (setup.format == LogFormat::kText) {
    std::string line = TextLine(stamp, severity, component, message);
    const auto add = [&line](const LogField& field) {
      absl::StrAppend(&line, " ", field.key, "=", Quoted(field.value));
    };
    for (const LogField& field : fields) add(field);
    for (const LogField& field : setup.context) {
      if (!HasField(fields, field.key)) add(field);
    }
    return line + "\n";
  }
  nlohmann::ordered_json object = {{"time", stamp},
                                   {"severity", kSeverities[static_cast<int>(severity)]},
                                   {"component", std::string(component)},
                                   {"message", std::string(message)}};
  const auto add = [&object](const LogField& field) {
    object[object.contains(field.key) ? field.key + "_" : field.key] = field.value;
  };
  for (const LogField& field : fields) add(field);
  for (const LogField& field : setup.context) {
    if (!HasField(fields, field.key)) add(field);
  }
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

bool ParseLogFormat(std::string_view text, LogFormat* format) {
  for (const LogFormat known : {LogFormat::kText, LogFormat::kJson}) {
    if (text != LogFormatName(known)) continue;
    *format = known;
    return true;
  }
  return false;
}

std::string_view LogFormatName(LogFormat format) {
  return format == LogFormat::kJson ? "json" : "text";
}

bool ParseLogTime(std::string_view line, absl::Time* time) {
  if (line.starts_with(kJsonStart)) line.remove_prefix(kJsonStart.size());
  if (line.size() < kTimeBytes || line[4] != '-' || line[kTimeBytes - 1] != 'Z') return false;
  return absl::ParseTime("%Y-%m-%dT%H:%M:%E*SZ", absl::string_view(line.data(), kTimeBytes),
                         absl::UTCTimeZone(), time, nullptr);
}

void Log(Severity severity, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields) {
  if (const int64_t lost = lost_lines.exchange(0); lost > 0) {
    const std::string notice =
        FormatLogLine(absl::Now(), Severity::kWarning, "log",
                      "lines were lost: their reader is too slow", {{"lines", lost}});
    if (!WriteLine(notice)) lost_lines += lost;
  }
  if (!WriteLine(FormatLogLine(absl::Now(), severity, component, message, fields))) ++lost_lines;
}

}  // namespace diffmoe
