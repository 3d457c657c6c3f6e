// The worker's session with the coordinator: identity, loss, return, refusal, bad starts.
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "core/base/exit_code.h"
#include "core/base/version.h"
#include "tests/support/http.h"
#include "tests/unit/worker/worker_fixture.h"

namespace diffmoe::test {
namespace {

const worker::v1::Hello LastHello(const FakeCoordinator& coordinator) {
  worker::v1::WorkerMessage message;
  coordinator.WaitFor([](const auto& heard) { return heard.has_hello(); }, &message);
  return message.hello();
}

TEST_F(WorkerTest, HelloSaysWhoAndWhat) {
  StartBoth({"--devices", "cpu,cuda:0"});
  const worker::v1::Hello hello = LastHello(coordinator_);
  const nlohmann::json info = Info();
  EXPECT_EQ(hello.protocol_version(), kProtocolVersion);
  EXPECT_EQ(hello.worker_id(), info["worker_id"]);
  EXPECT_EQ(hello.metrics_address(), info["metrics_address"]);
  EXPECT_EQ(info["pid"], worker_->pid());
  ASSERT_EQ(hello.slot_devices_size(), 2);
  EXPECT_EQ(hello.slot_devices(1), "cuda:0");
  struct stat socket {};
  ASSERT_EQ(stat(info["socket"].get<std::string>().c_str(), &socket), 0);
  EXPECT_EQ(socket.st_mode & 0777, 0600u);
  EXPECT_TRUE(coordinator_.WaitFor([](const auto& heard) {
    return heard.has_heartbeat() && heard.heartbeat().sequence() >= 3;
  }));
}

TEST_F(WorkerTest, IdentityOutlivesTheProcess) {
  StartBoth();
  const std::string id = LastHello(coordinator_).worker_id();
  worker_->Signal(SIGKILL);
  ASSERT_TRUE(worker_->Wait(kLimit).ok());
  worker_ = StartWorker(coordinator_.address());
  ASSERT_TRUE(coordinator_.WaitForSession(2));
  EXPECT_EQ(LastHello(coordinator_).worker_id(), id);
}

TEST_F(WorkerTest, RanksOutliveTheCoordinator) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train")));
  const pid_t pid = WaitForPid();
  ASSERT_TRUE(WaitForStep(5));
  const std::string address = coordinator_.address();
  coordinator_.Stop();
  ASSERT_TRUE(worker_->WaitForText("no session with the coordinator", kLimit));
  coordinator_.Start(address);
  ASSERT_TRUE(coordinator_.WaitForSession(2)) << worker_->Err();
  const worker::v1::Hello hello = LastHello(coordinator_);
  ASSERT_EQ(hello.running_size(), 1);
  EXPECT_EQ(hello.running(0).group().id(), "job-1");
  EXPECT_EQ(hello.running(0).group().epoch(), 3);
  EXPECT_GE(hello.running(0).step(), 5);
  EXPECT_EQ(hello.running(0).role(), worker::v1::ROLE_TRAIN);
  ASSERT_TRUE(WaitForStep(hello.running(0).step() + 5));
  EXPECT_FALSE(Dead(pid));
  // No step is missing, although the coordinator was away for some of them.
  std::set<int64_t> steps;
  int starts = 0;
  for (const auto& message : coordinator_.Messages()) {
    starts += message.has_rank_started() ? 1 : 0;
    for (const auto& record : message.rank_report().records()) steps.insert(record.step());
  }
  EXPECT_EQ(starts, 1);
  EXPECT_EQ(*steps.begin(), 1);
  EXPECT_EQ(static_cast<size_t>(*steps.rbegin()), steps.size());
}

TEST_F(WorkerTest, ExitDuringAnOutageIsReportedAfterIt) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("train")));
  const pid_t pid = WaitForPid();
  ASSERT_TRUE(WaitForStep(1));
  const std::string address = coordinator_.address();
  coordinator_.Stop();
  ASSERT_TRUE(worker_->WaitForText("no session with the coordinator", kLimit));
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  ASSERT_TRUE(worker_->WaitForText("rank ended", kLimit));
  coordinator_.Start(address);
  EXPECT_EQ(WaitForExit().cause(), worker::v1::EXIT_CAUSE_SIGNAL);
  EXPECT_EQ(LastHello(coordinator_).running_size(), 0);
}

TEST_F(WorkerTest, UnreachableCoordinatorIsRetriedAndNamed) {
  coordinator_.Start();
  const std::string address = coordinator_.address();
  coordinator_.Stop();
  worker_ = StartWorker(address);
  ASSERT_TRUE(worker_->WaitForText("attempt=2", kLimit)) << worker_->Err();
  EXPECT_NE(worker_->Err().find("no session with the coordinator coordinator=" + address),
            std::string::npos);
  EXPECT_NE(worker_->Err().find("next_attempt_in="), std::string::npos);
  coordinator_.Start(address);
  EXPECT_TRUE(coordinator_.WaitForSession(1)) << worker_->Err();
}

TEST_F(WorkerTest, CoordinatorFileIsReadAgainAtEveryAttempt) {
  const std::string file = temp_.Sub("coordinator.json");
  worker_ = StartWorker("file:" + file);
  ASSERT_TRUE(worker_->WaitForText(file + " can't be read", kLimit)) << worker_->Err();
  WriteFile(file, "{\"grpc_address\": ");
  ASSERT_TRUE(worker_->WaitForText("holds no grpc_address", kLimit)) << worker_->Err();
  coordinator_.Start();
  WriteFile(file, nlohmann::json{{"grpc_address", coordinator_.address()}}.dump());
  ASSERT_TRUE(coordinator_.WaitForSession(1)) << worker_->Err();
  coordinator_.Stop();
  FakeCoordinator moved;
  moved.Start();
  WriteFile(file, nlohmann::json{{"grpc_address", moved.address()}}.dump());
  EXPECT_TRUE(moved.WaitForSession(1)) << worker_->Err();
}

TEST_F(WorkerTest, OtherProtocolVersionEndsTheWorkerWithAClearMessage) {
  coordinator_.Start();
  coordinator_.RefuseSessions(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                                           "this coordinator speaks protocol 2, the worker 1"));
  worker_ = StartWorker(coordinator_.address());
  auto exit = worker_->Wait(kLimit);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->exit_code, kExitConflict);
  EXPECT_NE(worker_->Err().find("this coordinator speaks protocol 2"), std::string::npos);
}

TEST_F(WorkerTest, SecondWorkerOnADirectoryNamesTheFirst) {
  StartBoth();
  auto second = StartWorker(coordinator_.address());
  auto exit = second->Wait(kLimit);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->exit_code, kExitConflict);
  EXPECT_NE(second->Err().find(absl::StrCat("held by another worker, pid ", worker_->pid())),
            std::string::npos)
      << second->Err();
  EXPECT_TRUE(worker_->Running());
  EXPECT_EQ(Info()["pid"], worker_->pid());
}

TEST_F(WorkerTest, LongDirectoryGetsAShortSocket) {
  const std::string deep = temp_.Sub(std::string(120, 'd'));
  coordinator_.Start();
  auto worker = Process::Start(
      Options({Binary("diffmoe-worker"), "--dir", deep, "--coordinator", coordinator_.address(),
               "--rank-binary", Binary("diffmoe-test-rank"), "--slots", "1"}));
  ASSERT_TRUE(worker.ok());
  ASSERT_TRUE(coordinator_.WaitForSession(1)) << (*worker)->Err();
  const std::string socket = nlohmann::json::parse(ReadFile(deep + "/worker.json"))["socket"];
  EXPECT_LT(socket.size(), 108u);
  ASSERT_TRUE(coordinator_.Send(Start("finish")));
  EXPECT_EQ(WaitForExit().cause(), worker::v1::EXIT_CAUSE_DONE);
  (*worker)->Signal(SIGTERM);
  ASSERT_TRUE((*worker)->Wait(kLimit).ok());
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(socket).parent_path()));
}

struct BadStart {
  std::vector<std::string> flags;
  int exit_code;
  std::string message;
};

TEST_F(WorkerTest, BadStartsHaveTheirMessageAndExitCode) {
  const HeldPort held;
  WriteFile(temp_.Sub("file"), "");
  const std::string rank = Binary("diffmoe-test-rank");
  const std::vector<BadStart> cases = {
      {{"--dir", dir(), "--coordinator", "nowhere", "--rank-binary", rank},
       kExitUsage,
       "HOST:PORT or file:PATH"},
      {{"--dir", dir(), "--rank-binary", rank}, kExitUsage, "--coordinator"},
      {{"--dir", dir(), "--coordinator", "a:1", "--slots", "0"}, kExitUsage, "--slots"},
      {{"--dir", dir(), "--coordinator", "a:1", "--devices", "cpu,gpu"}, kExitUsage, "got 'gpu'"},
      {{"--dir", dir(), "--coordinator", "a:1", "--slots", "1", "--devices", "cpu"},
       kExitUsage,
       "excludes"},
      {{"--dir", dir(), "--coordinator", "a:1", "--rank-binary", "/no/rank"},
       kExitNotFound,
       "/no/rank"},
      {{"--dir", dir(), "--coordinator", "a:1", "--rank-binary", rank, "--metrics-listen",
        held.address()},
       kExitConflict,
       held.address()},
      {{"--dir", temp_.Sub("file/w"), "--coordinator", "a:1", "--rank-binary", rank},
       kExitPermission,
       temp_.Sub("file/w")},
  };
  for (const BadStart& bad : cases) {
    std::vector<std::string> argv = {Binary("diffmoe-worker")};
    argv.insert(argv.end(), bad.flags.begin(), bad.flags.end());
    auto result = RunProcess(Options(argv), kLimit);
    ASSERT_TRUE(result.ok()) << bad.message;
    EXPECT_EQ(result->exit.exit_code, bad.exit_code) << result->err;
    EXPECT_NE(result->err.find(bad.message), std::string::npos) << bad.message << "\n"
                                                                << result->err;
  }
}

}  // namespace
}  // namespace diffmoe::test
