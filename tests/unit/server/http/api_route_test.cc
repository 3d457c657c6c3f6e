#include "server/http/api_route.h"

#include "diffmoe/v1/training_job.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace diffmoe::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<google::protobuf::Message> Build(const std::string& path, const std::string& query,
                                                 std::string* error, http::Pairs headers = {}) {
  http::Request request;
  request.method = "GET";
  request.query = query;
  request.headers = std::move(headers);
  const ApiRoute* route = FindRoute(false, path);
  EXPECT_NE(route, nullptr) << path;
  auto built = BuildRequest(*route, path, request);
  *error = std::string(built.status().message());
  return built.ok() ? *std::move(built) : nullptr;
}

template <typename Request>
Request Good(const std::string& path, const std::string& query, http::Pairs headers = {}) {
  std::string error;
  const auto message = Build(path, query, &error, std::move(headers));
  EXPECT_EQ(error, "");
  Request request;
  if (message != nullptr) request.CopyFrom(*message);
  return request;
}

std::string Fault(const std::string& path, const std::string& query) {
  std::string error;
  EXPECT_EQ(Build(path, query, &error), nullptr) << path << "?" << query;
  return error;
}

TEST(ApiRouteTest, PathsLeadToMethods) {
  const auto method = [](bool post, const char* path) -> std::string {
    const ApiRoute* route = FindRoute(post, path);
    return route == nullptr ? "" : MethodOf(*route)->full_name();
  };
  EXPECT_EQ(method(false, "jobs"), "diffmoe.v1.TrainingJobService.ListJobs");
  EXPECT_EQ(method(false, "jobs/a"), "diffmoe.v1.TrainingJobService.GetJob");
  EXPECT_EQ(method(false, "jobs/a/logs"), "diffmoe.v1.TrainingJobService.ReadJobLogs");
  EXPECT_EQ(method(false, "jobs/a/thresholds"), "diffmoe.v1.CheckpointService.ListThresholds");
  EXPECT_EQ(method(false, "jobs/a/checkpoints/7"), "diffmoe.v1.CheckpointService.GetCheckpoint");
  EXPECT_EQ(method(false, "workers"), "diffmoe.v1.ClusterService.ListWorkers");
  EXPECT_EQ(method(true, "samples"), "diffmoe.v1.SamplingService.Sample");
  EXPECT_EQ(method(true, "jobs/a/cancel"), "diffmoe.v1.TrainingJobService.CancelJob");
  for (const char* path : {"", "jobs/", "jobs//events", "jobs/a/nothing", "samples", "jobs/a/b/c/d",
                           "jobs/a/cancel", "Jobs"})
    EXPECT_EQ(method(false, path), "") << path;
  EXPECT_EQ(method(true, "jobs"), "");
  EXPECT_TRUE(HasOtherMethod(false, "samples"));
  EXPECT_FALSE(HasOtherMethod(false, "nothing"));
}

TEST(ApiRouteTest, EveryPostNeedsLeaveAndNoGetDoes) {
  for (const char* path : {"samples", "jobs/a/cancel", "jobs/a/pause", "jobs/a/resume"})
    EXPECT_TRUE(FindRoute(true, path)->writes) << path;
  for (const char* path : {"cluster", "workers", "jobs", "jobs/a", "jobs/a/events", "jobs/a/watch"})
    EXPECT_FALSE(FindRoute(false, path)->writes) << path;
}

TEST(ApiRouteTest, ParametersBecomeFields) {
  const auto list = Good<v1::ListJobsRequest>(
      "jobs", "page_size=20&states=running&states=FAILED&name_contains=a%26b&page_token=x");
  EXPECT_EQ(list.page_size(), 20);
  EXPECT_THAT(list.states(), ElementsAre(v1::RUNNING, v1::FAILED));
  EXPECT_EQ(list.name_contains(), "a&b");
  const auto logs = Good<v1::ReadJobLogsRequest>(
      "jobs/j-1/logs", "ranks=0&ranks=2&follow=true&epoch=3&since=2026-01-02T03:04:05Z");
  EXPECT_EQ(logs.name(), "jobs/j-1");
  EXPECT_THAT(logs.ranks(), ElementsAre(0, 2));
  EXPECT_TRUE(logs.follow());
  EXPECT_EQ(logs.epoch(), 3);
  EXPECT_EQ(logs.since().seconds(), 1767323045);
  EXPECT_EQ(
      Good<v1::WatchJobRequest>("jobs/j/watch", "", {{"Last-Event-ID", "j:4"}}).resume_token(),
      "j:4");
}

TEST(ApiRouteTest, WhatIsWrongIsNamed) {
  EXPECT_THAT(Fault("jobs", "pagesize=1"),
              HasSubstr("unknown parameter \"pagesize\"; expected page_size, page_token, states"));
  EXPECT_THAT(Fault("jobs/a", "x=1"), HasSubstr("expected none"));
  EXPECT_THAT(Fault("jobs/a/steps", "name=jobs/b"), HasSubstr("unknown parameter \"name\""));
  EXPECT_THAT(Fault("jobs", "page_size=many"), HasSubstr("page_size"));
  EXPECT_THAT(Fault("jobs", "page_size=99999999999"), HasSubstr("page_size"));
  EXPECT_THAT(Fault("jobs", "page_size=1&page_size=2"), HasSubstr("page_size: expected once"));
  EXPECT_THAT(Fault("jobs", "states=asleep"),
              HasSubstr("states: expected one of QUEUED, STARTING"));
  EXPECT_THAT(Fault("jobs/a/logs", "follow=yes"), HasSubstr("follow: expected true or false"));
  EXPECT_THAT(Fault("jobs", "name_contains=%f"), HasSubstr("hexadecimal"));
}

}  // namespace
}  // namespace diffmoe::server
