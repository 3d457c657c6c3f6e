#include "core/metrics/metrics_server.h"

#include <algorithm>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/metrics/catalogue.h"
#include "prometheus/collectable.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace diffmoe::metrics {
namespace {

// Scrapers that come more often share a text, and making texts takes a twentieth of a core at most.
constexpr absl::Duration kShareTime = absl::Milliseconds(100);
constexpr int kShareFactor = 20;

std::string TextOf(const std::vector<std::shared_ptr<prometheus::Collectable>>& sources) {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& source : sources) {
    for (prometheus::MetricFamily& family : source->Collect()) {
      families.push_back(std::move(family));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

// The text of /metrics. Thread-safe; one thread makes it while the others wait.
class ScrapeText {
 public:
  explicit ScrapeText(std::vector<std::shared_ptr<prometheus::Collectable>> sources)
      : sources_(std::move(sources)) {}

  std::string Get() {
    const absl::MutexLock lock(&mutex_);
    const absl::Time now = absl::Now();
    if (now > fresh_until_ || now < made_) {
      text_ = TextOf(sources_);
      made_ = absl::Now();
      fresh_until_ = made_ + std::max(kShareTime, kShareFactor * (made_ - now));
    }
    return text_;
  }

 private:
  const std::vector<std::shared_ptr<prometheus::Collectable>> sources_;
  absl::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
  absl::Time made_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time fresh_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace

Registry::Registry(const std::string& program, const std::string& version)
    : registry_(std::make_shared<prometheus::Registry>()) {
  prometheus::BuildGauge()
      .Name(kBuildInfo.name)
      .Help(kBuildInfo.help)
      .Register(*registry_)
      .Add({{kBuildInfo.labels[0], program}, {kBuildInfo.labels[1], version}})
      .Set(1);
}

Registry::~Registry() = default;

void Registry::Add(std::shared_ptr<prometheus::Collectable> more) {
  more_.push_back(std::move(more));
}

std::vector<std::shared_ptr<prometheus::Collectable>> Registry::Sources() const {
  std::vector<std::shared_ptr<prometheus::Collectable>> sources = {registry_};
  sources.insert(sources.end(), more_.begin(), more_.end());
  return sources;
}

std::string Registry::Text() const { return TextOf(Sources()); }

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    const Registry& registry,
                                                                    int threads) {
  ASSIGN_OR_RETURN(std::unique_ptr<http::HttpServer> http,
                   http::HttpServer::Start({.address = address, .threads = threads}));
  auto text = std::make_shared<ScrapeText>(registry.Sources());
  http->Add({.path = "/metrics", .any_host = true, .handler = [text](const http::Request&) {
               return http::Reply{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                                  .body = text->Get()};
             }});
  http->Add({.path = "/healthz", .any_host = true, .handler = [](const http::Request&) {
               return http::Reply{.body = "ok\n"};
             }});
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(http)));
}

MetricsServer::MetricsServer(std::unique_ptr<http::HttpServer> http) : http_(std::move(http)) {}
MetricsServer::~MetricsServer() = default;

}  // namespace diffmoe::metrics
