// A real diffmoe-worker in a temporary directory against a FakeCoordinator.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/worker/fake_coordinator.h"

namespace diffmoe::test {

inline constexpr absl::Duration kLimit = absl::Seconds(20);

class WorkerTest : public ::testing::Test {
 protected:
  static std::string Binary(const std::string& name) {
    return absl::StrCat(DIFFMOE_BIN_DIR, "/", name);
  }

  static ProcessOptions Options(std::vector<std::string> argv) {
    ProcessOptions options;
    options.argv = std::move(argv);
    options.environment = {{"MKL_CBWR", "TESTED"}};
    return options;
  }

  std::unique_ptr<Process> StartWorker(const std::string& coordinator,
                                       std::vector<std::string> flags = {}) {
    std::vector<std::string> argv = {Binary("diffmoe-worker"), "--dir", dir(), "--coordinator",
                                     coordinator};
    if (rank_binary_.empty()) rank_binary_ = Binary("diffmoe-test-rank");
    argv.insert(argv.end(), {"--rank-binary", rank_binary_});
    if (flags.empty()) flags = {"--slots", "2"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto worker = Process::Start(Options(std::move(argv)));
    EXPECT_TRUE(worker.ok()) << worker.status();
    return std::move(worker).value();
  }

  // Coordinator and worker with an open session.
  void StartBoth(std::vector<std::string> flags = {}) {
    coordinator_.Start();
    worker_ = StartWorker(coordinator_.address(), std::move(flags));
    ASSERT_TRUE(coordinator_.WaitForSession(1)) << worker_->Err();
  }

  std::string dir() const { return temp_.Sub("w"); }
  nlohmann::json Info() const { return nlohmann::json::parse(ReadFile(dir() + "/worker.json")); }

  static worker::v1::CoordinatorMessage Start(const std::string& name,
                                              const std::string& group = "job-1", int slot = 0,
                                              int rank = 0, int64_t epoch = 3) {
    worker::v1::CoordinatorMessage message;
    worker::v1::StartRank* start = message.mutable_start_rank();
    start->mutable_group()->set_id(group);
    start->mutable_group()->set_epoch(epoch);
    start->set_rank(rank);
    start->set_world_size(1);
    start->set_slot(slot);
    start->set_role(worker::v1::ROLE_TRAIN);
    start->mutable_spec()->set_name(name);
    start->mutable_spec()->mutable_train()->set_global_batch(32);
    return message;
  }

  static worker::v1::CoordinatorMessage StopGroup(const std::string& group, int64_t grace_ms,
                                                  int64_t epoch = 3, bool save = false) {
    worker::v1::CoordinatorMessage message;
    message.mutable_stop_group()->set_save(save);
    message.mutable_stop_group()->mutable_group()->set_id(group);
    message.mutable_stop_group()->mutable_group()->set_epoch(epoch);
    message.mutable_stop_group()->set_grace_ms(grace_ms);
    message.mutable_stop_group()->set_reason("a test wants it");
    return message;
  }

  // Waits for the message about this rank and returns it; a default one, and a failed test, when it
  // doesn't come.
  worker::v1::RankExited WaitForExit(const std::string& group = "job-1", int rank = 0) {
    worker::v1::WorkerMessage message;
    EXPECT_TRUE(coordinator_.WaitFor(
        [&](const auto& heard) {
          return heard.has_rank_exited() && heard.rank_exited().group().id() == group &&
                 heard.rank_exited().rank() == rank;
        },
        &message))
        << worker_->Err();
    return message.rank_exited();
  }

  pid_t WaitForPid(const std::string& group = "job-1", int rank = 0) {
    worker::v1::WorkerMessage message;
    EXPECT_TRUE(coordinator_.WaitFor(
        [&](const auto& heard) {
          return heard.has_rank_started() && heard.rank_started().group().id() == group &&
                 heard.rank_started().rank() == rank;
        },
        &message))
        << worker_->Err();
    return static_cast<pid_t>(message.rank_started().pid());
  }

  bool WaitForStep(int64_t step, const std::string& group = "job-1") {
    return coordinator_.WaitFor([&](const auto& heard) {
      return heard.has_rank_report() && heard.rank_report().group().id() == group &&
             heard.rank_report().progress().step() >= step;
    });
  }

  // Ended, reaped or not: whoever inherits an orphan may be slow.
  static bool Dead(pid_t pid) {
    if (kill(pid, 0) != 0) return true;
    std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
    const std::string stat(std::istreambuf_iterator<char>(in), {});
    const size_t end = stat.rfind(')');
    return end != std::string::npos && stat.substr(end + 2, 1) == "Z";
  }

  TempDir temp_;
  std::string rank_binary_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Process> worker_;
};

}  // namespace diffmoe::test
