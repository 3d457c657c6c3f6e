// Logs of a job over real gRPC: client, coordinator, and workers played by the test.
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_worker.h"

namespace diffmoe::server {
namespace {

constexpr int64_t kBaseMs = 1'800'000'000'000;

v1::LogLine Line(int64_t ms, int rank, const std::string& text) {
  v1::LogLine line;
  if (ms >= 0) {
    line.mutable_time()->set_seconds((kBaseMs + ms) / 1000);
    line.mutable_time()->set_nanos(static_cast<int32_t>((kBaseMs + ms) % 1000) * 1'000'000);
  }
  line.set_rank(rank);
  line.set_text(text);
  return line;
}

// One call of PushLogs.
class Push {
 public:
  Push(FakeWorker* worker, std::string read_id) : read_id_(std::move(read_id)) {
    stream_ = worker->bulk()->PushLogs(&context_, &response_);
  }
  bool Send(const std::vector<v1::LogLine>& lines, const std::vector<std::string>& notices = {}) {
    worker::v1::LogLines message;
    message.set_read_id(read_id_);
    for (const v1::LogLine& line : lines) *message.add_lines() = line;
    for (const std::string& notice : notices) message.add_notices(notice);
    return stream_->Write(message);
  }
  grpc::Status End() {
    stream_->WritesDone();
    return stream_->Finish();
  }
  // As a worker that dies.
  void Break() {
    context_.TryCancel();
    stream_->Finish();
  }

 private:
  const std::string read_id_;
  grpc::ClientContext context_;
  worker::v1::PushLogsResponse response_;
  std::unique_ptr<grpc::ClientWriter<worker::v1::LogLines>> stream_;
};

class LogReadsTest : public CoordinatorFixture {
 protected:
  // The client's side of a read, collected by a thread.
  class Reader {
   public:
    Reader(v1::TrainingJobService::Stub* jobs, const v1::ReadJobLogsRequest& request)
        : stream_(jobs->ReadJobLogs(&context_, request)), thread_([this] { Run(); }) {}
    ~Reader() {
      context_.TryCancel();
      if (thread_.joinable()) thread_.join();
    }
    void Cancel() { context_.TryCancel(); }
    grpc::Status Wait() {
      thread_.join();
      return status_;
    }
    bool WaitFor(const std::string& text) {
      return test::WaitUntil(absl::Seconds(10), [&] {
        return absl::StrContains(absl::StrCat(Texts(), Notices()), text);
      });
    }
    std::string Texts() {
      absl::MutexLock lock(&mutex_);
      std::string texts;
      for (const v1::LogLine& line : lines_) absl::StrAppend(&texts, line.text(), "|");
      return texts;
    }
    std::string Notices() {
      absl::MutexLock lock(&mutex_);
      return notices_;
    }
    std::vector<v1::LogLine> lines() {
      absl::MutexLock lock(&mutex_);
      return lines_;
    }

   private:
    void Run() {
      v1::ReadJobLogsResponse response;
      while (stream_->Read(&response)) {
        absl::MutexLock lock(&mutex_);
        for (const v1::LogLine& line : response.lines()) lines_.push_back(line);
        for (const std::string& notice : response.notices()) {
          absl::StrAppend(&notices_, notice, "|");
        }
      }
      status_ = stream_->Finish();
    }

    grpc::ClientContext context_;
    std::unique_ptr<grpc::ClientReader<v1::ReadJobLogsResponse>> stream_;
    absl::Mutex mutex_;
    std::vector<v1::LogLine> lines_ ABSL_GUARDED_BY(mutex_);
    std::string notices_ ABSL_GUARDED_BY(mutex_);
    grpc::Status status_;
    std::thread thread_;
  };

  std::unique_ptr<FakeWorker> NewWorker(const std::string& id) {
    auto worker = std::make_unique<FakeWorker>(coordinator_->grpc_address(),
                                               FakeWorker::Options{.id = id, .slots = 1});
    EXPECT_TRUE(worker->WaitForWelcome());
    return worker;
  }

  // A job with a rank on each of two workers.
  void StartJob() {
    Start();
    workers_.push_back(NewWorker("w1"));
    workers_.push_back(NewWorker("w2"));
    v1::Job job;
    ASSERT_TRUE(Submit(GoodSpec(2), "", &job).ok());
    id_ = job.id();
    AwaitAttempt(1);
  }

  void AwaitAttempt(int64_t epoch) {
    const v1::Job job = WaitFor(id_, [epoch](const v1::Job& j) { return j.epoch() == epoch; });
    ASSERT_EQ(job.epoch(), epoch);
    for (const v1::Placement& place : job.attempts().rbegin()->placements()) {
      FakeWorker* worker = workers_[place.worker_id() == "w1" ? 0 : 1].get();
      const auto start = worker->WaitForStart(epoch, place.rank());
      ASSERT_TRUE(start);
      worker->SendStarted(*start);
      starts_[place.rank()] = {worker, *start};
    }
  }

  v1::ReadJobLogsRequest Request(bool follow = false) {
    v1::ReadJobLogsRequest request;
    request.set_name("jobs/" + id_);
    request.set_follow(follow);
    return request;
  }

  static std::optional<worker::v1::ReadLogs> WaitForRead(FakeWorker* worker) {
    const auto message =
        worker->Wait([](const worker::v1::CoordinatorMessage& m) { return m.has_read_logs(); });
    return message ? std::optional(message->read_logs()) : std::nullopt;
  }
  static bool WaitForStopOf(FakeWorker* worker, const std::string& read_id) {
    return worker
        ->Wait([&](const worker::v1::CoordinatorMessage& m) {
          return m.has_stop_reading_logs() && m.stop_reading_logs().read_id() == read_id;
        })
        .has_value();
  }
  FakeWorker* WorkerOf(int rank) { return starts_[rank].first; }

  std::string id_;
  std::vector<std::unique_ptr<FakeWorker>> workers_;
  std::map<int, std::pair<FakeWorker*, worker::v1::StartRank>> starts_;
};

TEST_F(LogReadsTest, LinesOfAllWorkersComeInOrderOfTime) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  v1::ReadJobLogsRequest request = Request();
  request.set_grep("step");
  request.set_tail_lines(7);
  request.mutable_since()->set_seconds(12);
  request.mutable_since()->set_nanos(345'000'000);
  Reader reader(jobs_.get(), request);
  const auto first = WaitForRead(WorkerOf(0)), second = WaitForRead(WorkerOf(1));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->group().id(), id_);
  EXPECT_EQ(first->group().epoch(), 1);
  EXPECT_EQ(first->ranks_size(), 1);
  EXPECT_EQ(second->ranks(0), 1);
  EXPECT_EQ(first->grep(), "step");
  EXPECT_EQ(first->tail_lines(), 7);
  EXPECT_EQ(first->since_ms(), 12'345);
  EXPECT_FALSE(first->follow());
  Push a(WorkerOf(0), first->read_id()), b(WorkerOf(1), second->read_id());
  ASSERT_TRUE(a.Send({Line(0, 0, "a0"), Line(20, 0, "a20"), Line(-1, 0, "more of a20")}));
  ASSERT_TRUE(a.Send({Line(40, 0, "a40")}));
  ASSERT_TRUE(b.Send({Line(10, 1, "b10"), Line(30, 1, "b30")}, {"a notice"}));
  EXPECT_TRUE(a.End().ok());
  EXPECT_TRUE(b.End().ok());
  EXPECT_TRUE(reader.Wait().ok());
  EXPECT_EQ(reader.Texts(), "a0|b10|a20|more of a20|b30|a40|");
  EXPECT_EQ(reader.Notices(), "a notice|");
  const v1::LogLine line = reader.lines()[1];
  EXPECT_EQ(line.rank(), 1);
  EXPECT_EQ(line.epoch(), 1);
  EXPECT_EQ(line.worker_id(), WorkerOf(1) == workers_[0].get() ? "w1" : "w2");
}

TEST_F(LogReadsTest, OnlyTheWorkersOfTheWantedRanksAreAsked) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  v1::ReadJobLogsRequest request = Request();
  request.add_ranks(1);
  Reader reader(jobs_.get(), request);
  const auto read = WaitForRead(WorkerOf(1));
  ASSERT_TRUE(read);
  Push push(WorkerOf(1), read->read_id());
  push.Send({Line(0, 1, "b")});
  EXPECT_TRUE(push.End().ok());
  EXPECT_TRUE(reader.Wait().ok());
  EXPECT_EQ(reader.Texts(), "b|");
  EXPECT_EQ(reader.Notices(), "");
}

TEST_F(LogReadsTest, BadRequestsNameTheField) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  struct Case {
    std::function<void(v1::ReadJobLogsRequest*)> change;
    grpc::StatusCode code;
    std::string message;
  };
  const std::vector<Case> cases = {
      {[](auto* r) { r->set_name("jobs/none"); }, grpc::StatusCode::NOT_FOUND,
       "jobs/none doesn't exist"},
      {[](auto* r) { r->set_name("none"); }, grpc::StatusCode::INVALID_ARGUMENT, "name: expected"},
      {[](auto* r) { r->set_epoch(9); }, grpc::StatusCode::INVALID_ARGUMENT,
       "epoch: expected 0 or an attempt of the job (1), got 9"},
      {[](auto* r) { r->set_epoch(-1); }, grpc::StatusCode::INVALID_ARGUMENT,
       "epoch: expected 0 or more, got -1"},
      {[](auto* r) { r->add_ranks(2); }, grpc::StatusCode::INVALID_ARGUMENT,
       "ranks: expected 0 to 1, got 2"},
      {[](auto* r) { r->add_ranks(-1); }, grpc::StatusCode::INVALID_ARGUMENT,
       "ranks: expected 0 to 1, got -1"},
      {[](auto* r) { r->set_grep("a(b"); }, grpc::StatusCode::INVALID_ARGUMENT,
       "grep: expected an RE2 pattern, got \"a(b\": missing ): a(b"},
      {[](auto* r) { r->set_grep(std::string(1001, 'a')); }, grpc::StatusCode::INVALID_ARGUMENT,
       "grep: expected at most 1000 bytes, got 1001"},
      {[](auto* r) { r->set_tail_lines(-1); }, grpc::StatusCode::INVALID_ARGUMENT,
       "tail_lines: expected 0 to 10000, got -1"},
      {[](auto* r) { r->mutable_since()->set_nanos(-5); }, grpc::StatusCode::INVALID_ARGUMENT,
       "since: expected a time from 1970 to 9999"},
  };
  for (const Case& bad : cases) {
    v1::ReadJobLogsRequest request = Request();
    bad.change(&request);
    Reader reader(jobs_.get(), request);
    const grpc::Status status = reader.Wait();
    EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
    EXPECT_TRUE(absl::StartsWith(status.error_message(), bad.message)) << status.error_message();
  }
}

TEST_F(LogReadsTest, AJobThatWasNeverStartedHasNoLogs) {
  Start();
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  id_ = job.id();
  Reader reader(jobs_.get(), Request());
  EXPECT_TRUE(reader.Wait().ok());
  EXPECT_EQ(reader.Notices(), id_ + " has not been started: it has no logs|");
}

TEST_F(LogReadsTest, FollowWaitsForTheFirstAttemptAndGoesThroughARestartToTheEnd) {
  Start();
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  id_ = job.id();
  v1::ReadJobLogsRequest request = Request(/*follow=*/true);
  request.set_tail_lines(5);
  Reader reader(jobs_.get(), request);
  workers_.push_back(NewWorker("w1"));
  ASSERT_NO_FATAL_FAILURE(AwaitAttempt(1));
  FakeWorker* worker = WorkerOf(0);
  const auto first = WaitForRead(worker);
  ASSERT_TRUE(first);
  EXPECT_TRUE(first->follow());
  EXPECT_EQ(first->tail_lines(), 5);
  Push push(worker, first->read_id());
  push.Send({Line(0, 0, "one")});
  ASSERT_TRUE(reader.WaitFor("one|"));
  worker->SendExited(starts_[0].second.group(), 0, worker::v1::EXIT_CAUSE_SIGNAL, 0, 9);
  EXPECT_TRUE(push.End().ok());

  ASSERT_NO_FATAL_FAILURE(AwaitAttempt(2));
  const auto second = WaitForRead(worker);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->group().epoch(), 2);
  EXPECT_EQ(second->tail_lines(), 0);
  Push more(worker, second->read_id());
  more.Send({Line(5, 0, "two")});
  ASSERT_TRUE(reader.WaitFor("two|"));
  worker->SendReport(id_, 2, 60);
  ASSERT_TRUE(worker->PutCheckpoint(id_, 2, 100, 1).ok());
  worker->SendExited(starts_[0].second.group(), 0, worker::v1::EXIT_CAUSE_DONE, 100);
  WaitForState(id_, v1::SUCCEEDED);
  more.Send({Line(6, 0, "last")});
  EXPECT_TRUE(more.End().ok());
  EXPECT_TRUE(reader.Wait().ok());
  EXPECT_EQ(reader.Texts(), "one|two|last|");
}

TEST_F(LogReadsTest, AnEarlierAttemptEndsWithItsLines) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  v1::ReadJobLogsRequest request = Request(/*follow=*/true);
  request.set_epoch(1);
  request.add_ranks(0);
  Reader reader(jobs_.get(), request);
  const auto read = WaitForRead(WorkerOf(0));
  ASSERT_TRUE(read);
  Push push(WorkerOf(0), read->read_id());
  push.Send({Line(0, 0, "a")});
  EXPECT_TRUE(push.End().ok());
  EXPECT_TRUE(reader.Wait().ok());
  EXPECT_EQ(reader.Texts(), "a|");
}

TEST_F(LogReadsTest, AFollowedLineDoesntWaitForAQuietWorker) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  Reader reader(jobs_.get(), Request(/*follow=*/true));
  const auto first = WaitForRead(WorkerOf(0)), second = WaitForRead(WorkerOf(1));
  ASSERT_TRUE(first && second);
  Push a(WorkerOf(0), first->read_id()), b(WorkerOf(1), second->read_id());
  b.Send({});
  a.Send({Line(0, 0, "a")});
  EXPECT_TRUE(reader.WaitFor("a|"));
  b.Send({Line(10, 1, "b")});
  EXPECT_TRUE(reader.WaitFor("a|b|"));
  reader.Cancel();
  EXPECT_EQ(reader.Wait().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitForStopOf(WorkerOf(0), first->read_id()));
  EXPECT_TRUE(WaitForStopOf(WorkerOf(1), second->read_id()));
  // Nobody waits for its lines any more.
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(10), [&] { return !a.Send({Line(20, 0, "late")}); }));
  EXPECT_EQ(a.End().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(LogReadsTest, WorkersThatAreGoneOrSilentAreNamed) {
  options_.logs.answer_limit = absl::Milliseconds(200);
  options_.state.worker_grace_ms = 60'000;
  ASSERT_NO_FATAL_FAILURE(StartJob());
  const int lost = WorkerOf(0) == workers_[0].get() ? 0 : 1;  // rank on w1
  workers_[0].reset();
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(10), [&] {
    grpc::ClientContext context;
    v1::ListWorkersResponse workers;
    cluster_->ListWorkers(&context, {}, &workers);
    return workers.workers_size() > 0 && workers.workers(0).state() != v1::CONNECTED;
  }));
  // The other one is asked and doesn't answer.
  Reader reader(jobs_.get(), Request());
  EXPECT_TRUE(reader.Wait().ok());
  EXPECT_EQ(reader.Notices(),
            absl::StrCat("worker w1 is not connected; lines of rank ", lost, " are missing|",
                         "worker w2 doesn't answer; lines of rank ", 1 - lost, " are missing|"));
  const auto read = WaitForRead(workers_[1].get());
  ASSERT_TRUE(read);
  EXPECT_TRUE(WaitForStopOf(workers_[1].get(), read->read_id()));
}

TEST_F(LogReadsTest, AWorkerThatBreaksOffIsNamedOrEndsTheFollowing) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  for (const bool follow : {false, true}) {
    v1::ReadJobLogsRequest request = Request(follow);
    request.add_ranks(0);
    Reader reader(jobs_.get(), request);
    const auto read = WaitForRead(WorkerOf(0));
    ASSERT_TRUE(read);
    Push push(WorkerOf(0), read->read_id());
    push.Send({Line(0, 0, "a")});
    ASSERT_TRUE(reader.WaitFor("a|"));
    push.Break();
    const grpc::Status status = reader.Wait();
    EXPECT_EQ(status.error_code(), follow ? grpc::StatusCode::UNAVAILABLE : grpc::StatusCode::OK);
    EXPECT_TRUE(absl::StrContains(absl::StrCat(status.error_message(), reader.Notices()),
                                  "broke off while its lines were read (rank 0)"));
  }
}

TEST_F(LogReadsTest, TooManyReadersAreRefused) {
  options_.logs.max_reads = 1;
  ASSERT_NO_FATAL_FAILURE(StartJob());
  Reader first(jobs_.get(), Request(/*follow=*/true));
  ASSERT_TRUE(WaitForRead(WorkerOf(0)));
  Reader second(jobs_.get(), Request());
  const grpc::Status status = second.Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailsOf(status).reason(), v1::QUEUE_FULL);
  EXPECT_GT(DetailsOf(status).retry_delay_ms(), 0);
}

// 40 MB for a client that doesn't read: its worker has to wait, and no line is lost.
TEST_F(LogReadsTest, ASlowClientHoldsTheWorkerBack) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  v1::ReadJobLogsRequest request = Request();
  request.add_ranks(0);
  grpc::ClientContext context;
  const auto stream = jobs_->ReadJobLogs(&context, request);
  const auto read = WaitForRead(WorkerOf(0));
  ASSERT_TRUE(read);
  constexpr int kMessages = 400, kLines = 10;
  std::atomic<int> sent = 0;
  std::thread worker([&] {
    Push push(WorkerOf(0), read->read_id());
    const v1::LogLine line = Line(0, 0, std::string(10'000, 'x'));
    for (int i = 0; i < kMessages; ++i) {
      if (push.Send(std::vector<v1::LogLine>(kLines, line))) ++sent;
    }
    EXPECT_TRUE(push.End().ok());
  });
  // It gets ahead by what waits in the coordinator and in the connections, and no further.
  int before = -1;
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(10), [&] {
    return sent.load() > 0 && std::exchange(before, sent.load()) == sent.load();
  }));
  EXPECT_LT(sent.load(), kMessages);
  int lines = 0;
  v1::ReadJobLogsResponse response;
  while (stream->Read(&response)) lines += response.lines_size();
  EXPECT_TRUE(stream->Finish().ok());
  worker.join();
  EXPECT_EQ(lines, kMessages * kLines);
}

TEST_F(LogReadsTest, AStoppingCoordinatorEndsTheStream) {
  ASSERT_NO_FATAL_FAILURE(StartJob());
  Reader reader(jobs_.get(), Request(/*follow=*/true));
  ASSERT_TRUE(WaitForRead(WorkerOf(0)));
  Stop();
  const grpc::Status status = reader.Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).reason(), v1::SHUTTING_DOWN);
}

}  // namespace
}  // namespace diffmoe::server
