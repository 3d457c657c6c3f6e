#include "core/base/trace.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"
#include "core/base/version.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kHeaderBytes = 55;  // of version 00
constexpr size_t kMaxEvents = 64;
constexpr absl::Duration kWriteInterval = absl::Milliseconds(200);
constexpr int kErrorCode = 2;  // STATUS_CODE_ERROR

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

Json ValueOf(const SpanValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return {{"stringValue", *text}};
  // 64-bit numbers are texts in protobuf's JSON.
  if (const auto* number = std::get_if<int64_t>(&value)) {
    return {{"intValue", absl::StrCat(*number)}};
  }
  return {{"doubleValue", std::get<double>(value)}};
}

Json AttributesOf(const SpanAttributes& attributes) {
  Json list = Json::array();
  for (const auto& [key, value] : attributes) {
    list.push_back({{"key", key}, {"value", ValueOf(value)}});
  }
  return list;
}

std::string Nanos(absl::Time time) { return absl::StrCat(absl::ToUnixNanos(time)); }

// The file for appending, locked, with room for more; another process may rotate it meanwhile.
absl::StatusOr<int> OpenLocked(const TracerOptions& options) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    const int fd = open(options.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return FileError(errno, "open", options.path);
    struct stat mine {
    }, current{};
    const bool same = flock(fd, LOCK_EX) == 0 && fstat(fd, &mine) == 0 &&
                      stat(options.path.c_str(), &current) == 0 && mine.st_ino == current.st_ino &&
                      mine.st_dev == current.st_dev;
    if (same && mine.st_size < options.file_bytes) return fd;
    if (same) std::rename(options.path.c_str(), (options.path + ".1").c_str());
    close(fd);
  }
  return absl::UnavailableError(absl::StrCat("can't rotate ", options.path));
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(std::string_view header) {
  if (header.size() < kHeaderBytes || header[2] != '-' || header[35] != '-' || header[52] != '-') {
    return std::nullopt;
  }
  const std::string_view version = header.substr(0, 2), trace = header.substr(3, 32),
                         span = header.substr(36, 16), flags = header.substr(53, 2);
  for (const std::string_view part : {version, trace, span, flags}) {
    if (!IsLowerHex(part)) return std::nullopt;
  }
  if (version == "ff" || IsZero(trace) || IsZero(span)) return std::nullopt;
  // A later version may have more parts.
  if (header.size() > kHeaderBytes && (version == "00" || header[kHeaderBytes] != '-')) {
    return std::nullopt;
  }
  const int last = flags[1] <= '9' ? flags[1] - '0' : flags[1] - 'a' + 10;
  return TraceContext{std::string(trace), std::string(span), (last & 1) != 0};
}

std::string FormatTraceparent(const TraceContext& context) {
  return absl::StrCat("00-", context.trace_id, "-", context.span_id,
                      context.sampled ? "-01" : "-00");
}

std::string OtlpLine(const TracerOptions& options, const Span& span) {
  SpanAttributes resource = {{"service.name", options.service},
                             {"service.version", std::string(kVersion)}};
  resource.insert(resource.end(), options.resource.begin(), options.resource.end());
  Json out = {{"traceId", span.context.trace_id}, {"spanId", span.context.span_id}};
  if (!span.parent_id.empty()) out["parentSpanId"] = span.parent_id;
  out["name"] = span.name;
  out["kind"] = static_cast<int>(span.kind);
  out["startTimeUnixNano"] = Nanos(span.start);
  out["endTimeUnixNano"] = Nanos(std::max(span.start, span.end));
  out["attributes"] = AttributesOf(span.attributes);
  Json events = Json::array();
  for (size_t i = 0; i < std::min(span.events.size(), kMaxEvents); ++i) {
    events.push_back({{"timeUnixNano", Nanos(span.events[i].time)}, {"name", span.events[i].name}});
  }
  out["events"] = std::move(events);
  if (span.events.size() > kMaxEvents) out["droppedEventsCount"] = span.events.size() - kMaxEvents;
  out["status"] = Json::object();
  if (!span.status.ok()) {
    out["status"] = {{"code", kErrorCode}, {"message", std::string(span.status.message())}};
  }
  const Json scope = {{"scope", {{"name", "diffmoe"}, {"version", kVersion}}},
                      {"spans", Json::array({std::move(out)})}};
  const Json line = {
      {"resourceSpans", Json::array({{{"resource", {{"attributes", AttributesOf(resource)}}},
                                      {"scopeSpans", Json::array({scope})}}})}};
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::unique_ptr<Tracer>> Tracer::Open(const TracerOptions& options,
                                                     std::function<uint64_t()> random) {
  ASSIGN_OR_RETURN(const int fd, OpenLocked(options));
  close(fd);
  try {
    return std::unique_ptr<Tracer>(new Tracer(options, std::move(random)));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("no thread for traces: ", error.what()));
  }
}

Tracer::Tracer(TracerOptions options, std::function<uint64_t()> random)
    : options_(std::move(options)), random_(std::move(random)) {
  thread_ = std::thread([this] { Run(); });
}

Tracer::~Tracer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

std::string Tracer::Digits(int words) {
  std::string digits;
  absl::MutexLock lock(&mutex_);
  do {
    digits.clear();
    for (int i = 0; i < words; ++i) absl::StrAppendFormat(&digits, "%016x", random_());
  } while (IsZero(digits));
  return digits;
}

TraceContext Tracer::NewSpan(const std::optional<TraceContext>& parent) {
  if (parent.has_value()) return {parent->trace_id, Digits(1), parent->sampled};
  return {Digits(2), Digits(1), true};
}

void Tracer::Record(Span span) {
  if (!span.context.sampled) return;
  absl::MutexLock lock(&mutex_);
  if (waiting_.size() >= options_.max_waiting) {
    ++dropped_;
    return;
  }
  waiting_.push_back(std::move(span));
}

void Tracer::Run() {
  bool stopping = false;
  while (!stopping) {
    std::deque<Span> spans;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kWriteInterval);
      stopping = stopping_;
      spans.swap(waiting_);
    }
    if (!spans.empty()) Write(spans);
  }
}

void Tracer::Write(const std::deque<Span>& spans) {
  std::string lines;
  for (const Span& span : spans) lines += OtlpLine(options_, span);
  const absl::StatusOr<int> fd = OpenLocked(options_);
  // One write keeps the lines of several processes whole.
  const bool written =
      fd.ok() && write(*fd, lines.data(), lines.size()) == static_cast<ssize_t>(lines.size());
  if (!written) dropped_ += static_cast<int64_t>(spans.size());
  if (fd.ok()) close(*fd);
}

ScopedSpan::ScopedSpan(Tracer* tracer, const std::optional<TraceContext>& parent, std::string name,
                       SpanAttributes attributes)
    : tracer_(tracer) {
  if (tracer_ == nullptr) return;
  span_.context = tracer_->NewSpan(parent);
  if (parent.has_value()) span_.parent_id = parent->span_id;
  span_.name = std::move(name);
  span_.attributes = std::move(attributes);
  span_.start = absl::Now();
}

ScopedSpan::~ScopedSpan() {
  if (tracer_ == nullptr) return;
  span_.end = absl::Now();
  tracer_->Record(std::move(span_));
}

std::optional<TraceContext> ScopedSpan::context() const {
  if (tracer_ == nullptr) return std::nullopt;
  return span_.context;
}

}  // namespace diffmoe
