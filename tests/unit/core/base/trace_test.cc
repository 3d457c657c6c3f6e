#include "core/base/trace.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/version.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kSpan = "00f067aa0ba902b7";

TEST(TraceparentTest, TakesWhatTheSpecificationAllows) {
  const auto plain = ParseTraceparent("00-" + kTrace + "-" + kSpan + "-01");
  ASSERT_TRUE(plain.has_value());
  EXPECT_EQ(*plain, (TraceContext{kTrace, kSpan, true}));
  EXPECT_EQ(FormatTraceparent(*plain), "00-" + kTrace + "-" + kSpan + "-01");
  // Other flags are unknown and not passed on.
  EXPECT_TRUE(ParseTraceparent("00-" + kTrace + "-" + kSpan + "-ff")->sampled);
  EXPECT_FALSE(ParseTraceparent("00-" + kTrace + "-" + kSpan + "-fe")->sampled);
  // A later version may have more behind what this one knows.
  EXPECT_TRUE(ParseTraceparent("cc-" + kTrace + "-" + kSpan + "-01").has_value());
  EXPECT_TRUE(ParseTraceparent("cc-" + kTrace + "-" + kSpan + "-01-more").has_value());
}

TEST(TraceparentTest, RefusesEverythingElse) {
  const std::string zeros(32, '0');
  const std::vector<std::string> bad = {
      "",
      "00",
      "00-" + kTrace + "-" + kSpan,
      "00-" + kTrace + "-" + kSpan + "-1",
      "00-" + kTrace + "-" + kSpan + "-01 ",
      "00-" + kTrace + "-" + kSpan + "-01-more",
      "cc-" + kTrace + "-" + kSpan + "-01more",
      "ff-" + kTrace + "-" + kSpan + "-01",
      "0x-" + kTrace + "-" + kSpan + "-01",
      "00-" + zeros + "-" + kSpan + "-01",
      "00-" + kTrace + "-" + zeros.substr(16) + "-01",
      "00-4BF92F3577B34DA6A3CE929D0E0E4736-" + kSpan + "-01",
      "00_" + kTrace + "-" + kSpan + "-01",
      "00-" + kTrace + "-" + kSpan + "-0g",
      "00-" + kTrace + "-" + kSpan + "-0" + std::string(1, '\0'),
  };
  for (const std::string& header : bad) EXPECT_FALSE(ParseTraceparent(header)) << header;
}

class TracerTest : public testing::Test {
 protected:
  std::unique_ptr<Tracer> Open() {
    return OpenWith([](TracerOptions*) {});
  }
  std::unique_ptr<Tracer> OpenWith(const std::function<void(TracerOptions*)>& change) {
    TracerOptions options;
    change(&options);
    options.path = path_;
    options.service = "diffmoe-test";
    auto tracer = Tracer::Open(options, [number = uint64_t{0}]() mutable { return number++; });
    EXPECT_TRUE(tracer.ok()) << tracer.status();
    return *std::move(tracer);
  }
  std::vector<nlohmann::json> Lines() {
    std::vector<nlohmann::json> lines;
    for (absl::string_view line : absl::StrSplit(test::ReadFile(path_), '\n', absl::SkipEmpty())) {
      lines.push_back(nlohmann::json::parse(std::string(line)));
    }
    return lines;
  }
  static Span SpanOf(const TraceContext& context) {
    return {.context = context,
            .name = "work",
            .start = absl::FromUnixMillis(1'000),
            .end = absl::FromUnixMillis(3'000)};
  }

  test::TempDir dir_;
  const std::string path_ = dir_.Sub("trace.jsonl");
};

TEST_F(TracerTest, WritesOtlpJson) {
  auto tracer = OpenWith([](TracerOptions* o) { o->resource = {{"diffmoe.rank", int64_t{1}}}; });
  const TraceContext root{kTrace, kSpan, true};
  Span span = SpanOf(tracer->NewSpan(root));
  span.parent_id = kSpan;
  span.kind = SpanKind::kServer;
  span.attributes = {{"text", std::string("a\"b")}, {"int", int64_t{1} << 60}, {"double", 0.5}};
  span.events = {{absl::FromUnixMillis(2'000), "half"}};
  span.status = absl::NotFoundError("none");
  tracer->Record(span);
  tracer.reset();
  ASSERT_EQ(Lines().size(), 1u);
  const auto expected = nlohmann::json::parse(R"({"resourceSpans": [{
    "resource": {"attributes": [
      {"key": "service.name", "value": {"stringValue": "diffmoe-test"}},
      {"key": "service.version", "value": {"stringValue": "VERSION"}},
      {"key": "diffmoe.rank", "value": {"intValue": "1"}}]},
    "scopeSpans": [{"scope": {"name": "diffmoe", "version": "VERSION"}, "spans": [{
      "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "spanId": "0000000000000001",
      "parentSpanId": "00f067aa0ba902b7", "name": "work", "kind": 2,
      "startTimeUnixNano": "1000000000", "endTimeUnixNano": "3000000000",
      "attributes": [{"key": "text", "value": {"stringValue": "a\"b"}},
                     {"key": "int", "value": {"intValue": "1152921504606846976"}},
                     {"key": "double", "value": {"doubleValue": 0.5}}],
      "events": [{"timeUnixNano": "2000000000", "name": "half"}],
      "status": {"code": 2, "message": "none"}}]}]}]})");
  std::string text = expected.dump();
  while (text.find("VERSION") != std::string::npos) text.replace(text.find("VERSION"), 7, kVersion);
  EXPECT_EQ(Lines()[0], nlohmann::json::parse(text));
}

TEST_F(TracerTest, IdsAreNeverZero) {
  auto tracer = Open();
  const TraceContext root = tracer->NewSpan(std::nullopt);
  EXPECT_TRUE(ParseTraceparent(FormatTraceparent(root)).has_value());
  const TraceContext child = tracer->NewSpan(root);
  EXPECT_EQ(child.trace_id, root.trace_id);
  EXPECT_NE(child.span_id, root.span_id);
}

TEST_F(TracerTest, WritesNothingOfATraceThatIsNotSampled) {
  auto tracer = Open();
  tracer->Record(SpanOf(tracer->NewSpan(TraceContext{kTrace, kSpan, false})));
  tracer.reset();
  EXPECT_TRUE(Lines().empty());
}

TEST_F(TracerTest, KeepsEventsSpansAndFilesWithinBounds) {
  auto tracer = OpenWith([](TracerOptions* o) {
    o->file_bytes = 4000;
    o->max_waiting = 20;
  });
  Span span = SpanOf({kTrace, kSpan, true});
  span.events.assign(1000, {absl::FromUnixMillis(2'000), "step"});
  EXPECT_LT(OtlpLine({}, span).size(), 6000u);
  // No span is written meanwhile that isn't counted in the end.
  constexpr int kSpans = 20'000;
  for (int i = 0; i < kSpans; ++i) tracer->Record(SpanOf({kTrace, kSpan, true}));
  EXPECT_GT(tracer->dropped(), 0);
  tracer.reset();
  tracer = OpenWith([](TracerOptions* o) { o->file_bytes = 4000; });
  tracer->Record(SpanOf({kTrace, kSpan, true}));
  tracer.reset();
  EXPECT_TRUE(std::filesystem::exists(path_ + ".1"));
  EXPECT_LT(std::filesystem::file_size(path_), 4000u);
}

TEST_F(TracerTest, TwoProcessesMayWriteOneFile) {
  auto first = Open(), second = Open();
  for (int i = 0; i < 100; ++i) {
    ScopedSpan one(first.get(), std::nullopt, "one");
    ScopedSpan two(second.get(), one.context(), "two");
  }
  first.reset();
  second.reset();
  EXPECT_EQ(Lines().size(), 200u);
}

TEST_F(TracerTest, NoTracerIsNoTrace) {
  ScopedSpan span(nullptr, TraceContext{kTrace, kSpan, true}, "x");
  EXPECT_FALSE(span.context().has_value());
}

TEST_F(TracerTest, AFileThatCantBeUsedIsNamed) {
  const auto tracer = Tracer::Open({.path = dir_.Sub("none/t"), .service = "x"}, [] { return 1; });
  EXPECT_EQ(tracer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(tracer.status().message(), dir_.Sub("none/t")));
}

}  // namespace
}  // namespace diffmoe
