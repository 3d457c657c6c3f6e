// Traces in the forms of W3C Trace Context (the traceparent header) and of OpenTelemetry (spans as
// OTLP JSON, one ExportTraceServiceRequest per line).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace diffmoe {

// A place in a trace: the trace and one span of it, in lower-case hexadecimal digits.
struct TraceContext {
  std::string trace_id;  // 32 digits, not all 0
  std::string span_id;   // 16 digits, not all 0
  bool sampled = true;
  bool operator==(const TraceContext&) const = default;
};

// Nothing for a header that the specification calls invalid.
std::optional<TraceContext> ParseTraceparent(std::string_view header);
std::string FormatTraceparent(const TraceContext& context);

enum class SpanKind { kInternal = 1, kServer = 2, kClient = 3 };

using SpanValue = std::variant<std::string, int64_t, double>;
using SpanAttributes = std::vector<std::pair<std::string, SpanValue>>;

struct SpanEvent {
  absl::Time time;
  std::string name;
};

struct Span {
  TraceContext context;
  std::string parent_id = {};  // of the span above; empty: a root
  std::string name = {};
  SpanKind kind = SpanKind::kInternal;
  absl::Time start;
  absl::Time end;
  SpanAttributes attributes = {};
  std::vector<SpanEvent> events = {};  // at most 64 are kept
  absl::Status status = {};
};

struct TracerOptions {
  std::string path;     // several processes may write one file
  std::string service;  // "diffmoe-coordinator"
  SpanAttributes resource = {};
  int64_t file_bytes = 16 << 20;  // then the file becomes PATH.1, and the PATH.1 before goes
  size_t max_waiting = 4096;      // spans; more are dropped and counted
};

// Writes spans in the background. Thread-safe. The destructor writes what waits.
class Tracer {
 public:
  // `random` draws 64 bits at a time. Errors: of the file, naming it.
  static absl::StatusOr<std::unique_ptr<Tracer>> Open(const TracerOptions& options,
                                                      std::function<uint64_t()> random);
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // A new span below `parent`, or a new trace without one.
  TraceContext NewSpan(const std::optional<TraceContext>& parent);
  // Nothing is written of a trace that isn't sampled.
  void Record(Span span);
  int64_t dropped() const { return dropped_; }

 private:
  Tracer(TracerOptions options, std::function<uint64_t()> random);
  void Run();
  void Write(const std::deque<Span>& spans);
  std::string Digits(int words);

  const TracerOptions options_;
  std::atomic<int64_t> dropped_{0};
  absl::Mutex mutex_;
  std::function<uint64_t()> random_ ABSL_GUARDED_BY(mutex_);
  std::deque<Span> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// One span's line, newline included.
std::string OtlpLine(const TracerOptions& options, const Span& span);

// A span that ends with its scope; nothing happens with a null tracer. Not thread-safe.
class ScopedSpan {
 public:
  ScopedSpan(Tracer* tracer, const std::optional<TraceContext>& parent, std::string name,
             SpanAttributes attributes = {});
  ~ScopedSpan();
  ScopedSpan(const ScopedSpan&) = delete;
  ScopedSpan& operator=(const ScopedSpan&) = delete;

  void SetStatus(const absl::Status& status) { span_.status = status; }
  // For spans below this one; nothing without a tracer.
  std::optional<TraceContext> context() const;

 private:
  Tracer* const tracer_;
  Span span_;
};

}  // namespace diffmoe
