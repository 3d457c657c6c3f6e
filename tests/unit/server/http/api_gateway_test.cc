#include "server/http/api_gateway.h"

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/http.h"
#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_worker.h"

namespace diffmoe::server {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ApiGatewayTest : public CoordinatorFixture {
 protected:
  ApiGatewayTest() { options_.metrics_listen = "127.0.0.1:0"; }

  const std::string& address() { return coordinator_->metrics_address(); }
  test::HttpReply Get(const std::string& path) {
    const auto reply = test::HttpGet(address(), path);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? *reply : test::HttpReply();
  }
  nlohmann::json Json(const std::string& path, int code = 200) {
    const test::HttpReply reply = Get(path);
    EXPECT_EQ(reply.code, code) << path << ": " << reply.body;
    return nlohmann::json::parse(reply.body, nullptr, false);
  }
  std::string SubmitJob() {
    v1::Job job;
    EXPECT_TRUE(Submit(GoodSpec(1), "", &job).ok());
    return job.id();
  }
  // A running job with a checkpoint at step 20, and a free slot.
  std::string StartJob() {
    worker_ = std::make_unique<FakeWorker>(coordinator_->grpc_address(), FakeWorker::Options{});
    const std::string id = SubmitJob();
    EXPECT_TRUE(worker_->WaitForStart(1, 0));
    worker_->SendReport(id, 1, 20);
    EXPECT_TRUE(worker_->PutCheckpoint(id, 1, 20, 1).ok());
    return id;
  }

  std::unique_ptr<FakeWorker> worker_;
};

TEST_F(ApiGatewayTest, ReadsAreTheMessagesOfTheApi) {
  Start();
  const std::string id = StartJob();
  const nlohmann::json job = Json("/api/v1/jobs/" + id);
  EXPECT_EQ(job["name"], "jobs/" + id);
  EXPECT_EQ(job["spec"]["model"]["image_size"], 32);
  EXPECT_EQ(Json("/api/v1/jobs")["jobs"].size(), 1u);
  EXPECT_EQ(Json("/api/v1/jobs?states=FAILED")["jobs"].size(), 0u);
  EXPECT_GE(Json("/api/v1/jobs/" + id + "/events")["events"].size(), 2u);
  EXPECT_EQ(Json("/api/v1/jobs/" + id + "/checkpoints")["checkpoints"][0]["step"], "20");
  EXPECT_EQ(Json("/api/v1/jobs/" + id + "/checkpoints/20")["step"], "20");
  EXPECT_TRUE(Json("/api/v1/jobs/" + id + "/thresholds").contains("points"));
  EXPECT_TRUE(Json("/api/v1/jobs/" + id + "/steps?max_points=5").contains("records"));
  EXPECT_EQ(Json("/api/v1/workers")["workers"][0]["id"], "w1");
  EXPECT_EQ(Json("/api/v1/cluster")["slots_total"], 2);
  EXPECT_EQ(Json("/api/v1/console")["writes"], false);
}

TEST_F(ApiGatewayTest, ErrorsCarryCodeReasonAndViolations) {
  Start();
  const nlohmann::json missing = Json("/api/v1/jobs/none-1", 404)["error"];
  EXPECT_EQ(missing["code"], 404);
  EXPECT_EQ(missing["status"], "NOT_FOUND");
  EXPECT_THAT(missing["message"].get<std::string>(), HasSubstr("none-1"));
  EXPECT_EQ(missing["details"]["reason"], "JOB_NOT_FOUND");
  EXPECT_EQ(Json("/api/v1/jobs?page_size=-3", 400)["error"]["status"], "INVALID_ARGUMENT");
  EXPECT_THAT(Json("/api/v1/jobs?colour=red", 400)["error"]["message"].get<std::string>(),
              HasSubstr("unknown parameter \"colour\""));
  EXPECT_EQ(Json("/api/v1/nothing", 404)["error"]["status"], "NOT_FOUND");
  EXPECT_EQ(Get("/api/v1/jobs/none-1/watch").code, 404);
}

TEST_F(ApiGatewayTest, ChangesNeedTheFlag) {
  Start();
  const std::string id = SubmitJob();
  for (const std::string& path : {absl::StrCat("jobs/", id, "/cancel"),
                                  absl::StrCat("jobs/", id, "/pause"), std::string("samples")}) {
    const auto reply = test::HttpPost(address(), "/api/v1/" + path, "{}");
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->code, 403) << path;
    EXPECT_THAT(reply->body, HasSubstr("--console-writes"));
  }
  EXPECT_EQ(CoordinatorFixture::Get(id).state(), v1::QUEUED);
}

TEST_F(ApiGatewayTest, WithTheFlagJobsChangeButNotFromOtherSites) {
  options_.console_writes = true;
  Start();
  const std::string id = SubmitJob();
  const std::string path = absl::StrCat("/api/v1/jobs/", id, "/cancel");
  EXPECT_EQ(test::HttpPost(address(), path, "{}", "Origin: http://evil.example\r\n")->code, 403);
  EXPECT_EQ(test::HttpPost(address(), path, "{\"colour\": 1}")->code, 400);
  EXPECT_EQ(CoordinatorFixture::Get(id).state(), v1::QUEUED);
  const auto reply =
      test::HttpPost(address(), path, "{}", absl::StrCat("Origin: http://", address(), "\r\n"));
  EXPECT_EQ(reply->code, 200) << reply->body;
  EXPECT_EQ(nlohmann::json::parse(reply->body)["state"], "CANCELLED");
  EXPECT_EQ(Json(path, 405)["error"]["code"], 405);
}

TEST_F(ApiGatewayTest, AWatchedJobComesAsEvents) {
  Start();
  const std::string id = StartJob();
  test::RawConnection watch(address());
  watch.Send(absl::StrCat("GET /api/v1/jobs/", id, "/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  const std::string first = watch.ReadUntil("\n\n");
  EXPECT_THAT(first, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(first, HasSubstr("Content-Type: text/event-stream\r\n"));
  EXPECT_THAT(first, HasSubstr("\nid: "));
  EXPECT_THAT(first, HasSubstr("\ndata: {\"job\":{"));
  worker_->SendReport(id, 1, 40);
  EXPECT_THAT(watch.ReadUntil("\"step\":\"40\""), HasSubstr("\"step\":\"40\""));
  // Signs of life while nothing happens, and the end of the job.
  EXPECT_THAT(watch.ReadUntil(": \n\n"), HasSubstr(": \n\n"));
  grpc::ClientContext context;
  v1::CancelJobRequest request;
  request.set_name("jobs/" + id);
  v1::Job job;
  ASSERT_TRUE(jobs_->CancelJob(&context, request, &job).ok());
  const auto stop = worker_->WaitForStop();
  ASSERT_TRUE(stop);
  worker_->SendExited(stop->group(), 0, worker::v1::EXIT_CAUSE_STOPPED);
  const std::string end = watch.ReadUntil("event: end");
  EXPECT_THAT(end, HasSubstr("\"state\":\"CANCELLED\""));
  EXPECT_THAT(end, HasSubstr("event: end"));
}

TEST_F(ApiGatewayTest, StreamsAreCountedAndFreedWithTheirClients) {
  Start();
  const std::string id = StartJob();
  const std::string request =
      absl::StrCat("GET /api/v1/jobs/", id, "/watch HTTP/1.1\r\nHost: localhost\r\n\r\n");
  std::vector<std::unique_ptr<test::RawConnection>> open;
  for (int i = 0; i < 32; ++i) {
    open.push_back(std::make_unique<test::RawConnection>(address()));
    open.back()->Send(request);
    EXPECT_THAT(open.back()->ReadUntil("\n\n"), StartsWith("HTTP/1.1 200"));
  }
  EXPECT_EQ(Json("/api/v1/jobs/" + id + "/watch", 503)["error"]["status"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(Get("/metrics").code, 200);
  EXPECT_EQ(Json("/api/v1/jobs/" + id)["id"], id);
  open.clear();
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(30), [&] {
    test::RawConnection again(address());
    again.Send(request);
    return absl::StartsWith(again.ReadUntil("\n\n"), "HTTP/1.1 200");
  }));
}

TEST_F(ApiGatewayTest, AStopEndsStreamsAndRefusesTheRest) {
  Start();
  const std::string id = StartJob();
  test::RawConnection watch(address());
  watch.Send(absl::StrCat("GET /api/v1/jobs/", id, "/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  watch.ReadUntil("\n\n");
  coordinator_->Stop();
  EXPECT_THAT(watch.ReadAll(), HasSubstr("event: failure"));
  EXPECT_EQ(Json("/api/v1/jobs", 503)["error"]["status"], "UNAVAILABLE");
  EXPECT_EQ(Get("/readyz").code, 503);
  EXPECT_EQ(Get("/metrics").code, 200);  // the last scrape of a run
}

TEST_F(ApiGatewayTest, ASampleIsAStreamOfLines) {
  options_.console_writes = true;
  Start();
  const std::string id = StartJob();
  test::RawConnection sample(address());
  const std::string body =
      absl::StrCat("{\"checkpoint\": \"jobs/", id, "\", \"classes\": [3], \"count\": 1}");
  sample.Send(
      absl::StrCat("POST /api/v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                   "application/json\r\nContent-Length: ",
                   body.size(), "\r\n\r\n", body));
  EXPECT_THAT(sample.ReadUntil("\"queued\""), HasSubstr("Content-Type: application/x-ndjson"));
  const auto bad =
      test::HttpPost(address(), "/api/v1/samples",
                     absl::StrCat("{\"checkpoint\": \"jobs/", id, "\", \"count\": 0}"));
  EXPECT_EQ(bad->code, 400);
  const nlohmann::json error = nlohmann::json::parse(bad->body)["error"];
  EXPECT_FALSE(error["details"]["violations"].empty()) << bad->body;
}

TEST_F(ApiGatewayTest, PrometheusFindsWorkersAndReadiness) {
  Start();
  EXPECT_EQ(Get("/sd/workers").body, "[]\n");
  EXPECT_EQ(Get("/healthz").body, "ok\n");
  EXPECT_EQ(Get("/readyz").body, "# ready\n");
  EXPECT_EQ(Get("/readyz").code, 200);
}

TEST(ReadinessTest, ACoordinatorThatDoesNotAnswerIsNotReady) {
  const test::HeldPort silent;
  auto server = http::HttpServer::Start({.address = "127.0.0.1:0"});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto gateway = std::make_shared<ApiGateway>(
      grpc::CreateChannel(silent.address(), grpc::InsecureChannelCredentials()),
      ApiGatewayOptions());
  gateway->AddRoutes(server->get());
  const auto reply = test::HttpGet((*server)->address(), "/readyz");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->code, 503);
  EXPECT_THAT(reply->body, StartsWith("# not ready: "));
}

}  // namespace
}  // namespace diffmoe::server
