#include "tests/integration/prometheus.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {

std::optional<std::string> FindPrometheusProgram(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::vector<std::string> folders = absl::StrSplit(path != nullptr ? path : "", ':');
  folders.push_back(DIFFMOE_DEPS_DIR "/prometheus/usr/bin");
  for (const std::string& folder : folders) {
    const std::string file = absl::StrCat(folder, "/", name);
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return std::nullopt;
}

absl::StatusOr<std::string> CheckMetrics(const std::string& promtool, const std::string& text) {
  const TempDir dir;
  WriteFile(dir.Sub("metrics"), text);
  ASSIGN_OR_RETURN(const RunResult result,
                   RunProcess({.argv = {"sh", "-c", "\"$0\" check metrics < \"$1\"", promtool,
                                        dir.Sub("metrics")},
                               .environment = {},
                               .working_dir = ""},
                              absl::Seconds(20)));
  std::string complaint = result.out + result.err;
  if (complaint.empty() && result.exit != ExitState{0, 0}) complaint = "no words, but an error";
  return complaint;
}

std::map<std::string, std::string> DeployedConfiguration(const std::string& coordinator) {
  std::map<std::string, std::string> files;
  files["prometheus.yml"] =
      absl::StrReplaceAll(ReadFile(DIFFMOE_SOURCE_DIR "/deploy/prometheus/prometheus.yml"),
                          {{"127.0.0.1:7071", coordinator}, {": 5s", ": 1s"}, {": 4s", ": 1s"}});
  for (const char* rules : {"recording_rules.yml", "alert_rules.yml"}) {
    files[rules] =
        absl::StrReplaceAll(ReadFile(absl::StrCat(DIFFMOE_SOURCE_DIR "/deploy/prometheus/", rules)),
                            {{"interval: 5s", "interval: 1s"}});
  }
  return files;
}

absl::StatusOr<std::unique_ptr<Prometheus>> Prometheus::Start(
    const std::string& program, const std::map<std::string, std::string>& files) {
  std::unique_ptr<Prometheus> server(new Prometheus);
  for (const auto& [name, content] : files) WriteFile(server->dir_.Sub(name), content);
  ASSIGN_OR_RETURN(
      server->process_,
      Process::Start({.argv = {program, "--config.file=" + server->dir_.Sub("prometheus.yml"),
                               "--storage.tsdb.path=" + server->dir_.Sub("data"),
                               "--web.listen-address=127.0.0.1:0", "--log.level=warn"},
                      .environment = {},
                      .working_dir = server->dir_.path()}));
  const bool ready = WaitUntil(absl::Seconds(30), [&] {
    server->address_ = ListeningAddress(server->process_->pid());
    if (server->address_.empty()) return !server->process_->Running();
    const absl::StatusOr<HttpReply> reply = HttpGet(server->address_, "/-/ready");
    return reply.ok() && reply->code == 200;
  });
  if (!ready || server->address_.empty()) {
    return absl::DeadlineExceededError(
        absl::StrCat("prometheus isn't ready: ", server->process_->Err()));
  }
  return server;
}

void Prometheus::Rewrite(const std::string& file, const std::string& content) {
  WriteFile(dir_.Sub(file + ".new"), content);
  std::filesystem::rename(dir_.Sub(file + ".new"), dir_.Sub(file));
}

absl::StatusOr<nlohmann::json> Prometheus::Ask(const std::string& path) {
  ASSIGN_OR_RETURN(const HttpReply reply, HttpGet(address_, path));
  const nlohmann::json answer = nlohmann::json::parse(reply.body, nullptr, false);
  if (!answer.is_object() || answer.value("status", "") != "success") {
    return absl::InternalError(absl::StrCat(path, ": ", reply.code, " ", reply.body));
  }
  return answer["data"]["result"];
}

absl::StatusOr<std::vector<nlohmann::json>> Prometheus::Query(const std::string& expression) {
  ASSIGN_OR_RETURN(const nlohmann::json result,
                   Ask("/api/v1/query?query=" + UrlEscape(expression)));
  return std::vector<nlohmann::json>(result.begin(), result.end());
}

absl::StatusOr<std::vector<RangeSeries>> Prometheus::QueryRange(const std::string& expression,
                                                                absl::Time begin, absl::Time end) {
  ASSIGN_OR_RETURN(const nlohmann::json result,
                   Ask(absl::StrCat("/api/v1/query_range?query=", UrlEscape(expression),
                                    "&start=", absl::ToUnixSeconds(begin),
                                    "&end=", absl::ToUnixSeconds(end), "&step=1")));
  std::vector<RangeSeries> all;
  for (const nlohmann::json& series : result) {
    RangeSeries& added = all.emplace_back();
    added.labels = series["metric"];
    for (const nlohmann::json& point : series["values"]) {
      double value = 0;
      if (!absl::SimpleAtod(point[1].get<std::string>(), &value)) continue;
      added.points.emplace_back(absl::UnixEpoch() + absl::Seconds(point[0].get<double>()), value);
    }
  }
  return all;
}

}  // namespace diffmoe::test
