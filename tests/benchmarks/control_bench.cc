// The coordinator under load: a real process with a real store. Submits beside the rate of the disk
// and of plain gRPC, reads and scheduling with a long queue, many workers, memory, and a restart.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "server/state/step.h"
#include "tests/benchmarks/control_load.h"
#include "tests/benchmarks/report.h"
#include "tests/benchmarks/timing.h"
#include "tests/support/cluster.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe::bench {
namespace {

struct Options {
  int64_t jobs = 10'000;
  int64_t events = 100'000;
  int workers = 1000;
  int clients = 64;
  int seconds = 10;
};

absl::Status FromGrpc(const grpc::Status& status) {
  return status.ok() ? absl::OkStatus()
                     : absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                                    status.error_message());
}

// A connection of its own for each caller.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Appends and fdatasyncs of 2 KB per second, two threads as the store's two files.
double SyncsPerSecond() {
  test::TempDir dir;
  const int fd = open(dir.Sub("file").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  const std::string bytes(2048, 'b');
  const double seconds = TimeOf(50, [&] {
    if (write(fd, bytes.data(), bytes.size()) < 0 || fdatasync(fd) != 0) std::perror("fdatasync");
  });
  close(fd);
  return 1 / seconds;
}

// User and system seconds of a process so far.
double CpuSeconds(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ResidentMegabytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  double pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

class ControlBench {
 public:
  explicit ControlBench(const Options& options) : options_(options) {}

  absl::Status Run() {
    RETURN_IF_ERROR(cluster_.StartCoordinator());
    RETURN_IF_ERROR(Submits());
    RETURN_IF_ERROR(Reads());
    RETURN_IF_ERROR(Events());
    RETURN_IF_ERROR(Workers());
    AtMost(512, "resident memory", ResidentMegabytes(pid()), "MB");
    RETURN_IF_ERROR(Restart());
    SchedulingPass();
    return absl::OkStatus();
  }
  const std::vector<Figure>& figures() const { return figures_; }

 private:
  using Jobs = v1::TrainingJobService;

  pid_t pid() { return cluster_.coordinator()->pid(); }
  void Add(Figure figure) {
    std::fprintf(stderr, "%s: %.3g %s\n", figure.name.c_str(), figure.value, figure.unit.c_str());
    figures_.push_back(std::move(figure));
  }
  void Show(const std::string& name, double value, const std::string& unit) {
    Add({name, value, unit, std::nullopt, std::nullopt});
  }
  void AtLeast(double limit, const std::string& name, double value, const std::string& unit) {
    Add({name, value, unit, limit, std::nullopt});
  }
  void AtMost(double limit, const std::string& name, double value, const std::string& unit) {
    Add({name, value, unit, std::nullopt, limit});
  }

  // `method` of the job service, called by every client with the request that `make` gives.
  template <typename Request, typename Response, typename Method, typename Make>
  absl::StatusOr<CallTimes> Call(int clients, int64_t calls, Method method, const Make& make) {
    CallTimes times = RunClients(clients, calls, [&]() -> std::function<absl::Status(int64_t)> {
      std::shared_ptr<Jobs::Stub> stub = Jobs::NewStub(NewChannel(cluster_.grpc_address()));
      return [stub, method, &make](int64_t number) {
        grpc::ClientContext context;
        Response response;
        const Request request = make(number);
        return FromGrpc((stub.get()->*method)(&context, request, &response));
      };
    });
    RETURN_IF_ERROR(times.first_error);
    return times;
  }

  absl::Status Submits() {
    const double syncs = SyncsPerSecond();
    Show("disk: fdatasync", syncs, "/s");
    ASSIGN_OR_RETURN(const CallTimes plain, PlainCalls());
    Show("plain gRPC calls", plain.rate(), "/s");
    const v1::TrainingSpec spec = WaitingSpec();
    ASSIGN_OR_RETURN(const CallTimes times,
                     (Call<v1::SubmitJobRequest, v1::Job>(
                         options_.clients, options_.jobs, &Jobs::Stub::SubmitJob, [&](int64_t n) {
                           v1::SubmitJobRequest request;
                           *request.mutable_spec() = spec;
                           request.set_request_id(absl::StrCat("bench-", n));
                           return request;
                         })));
    AtLeast(1000, absl::StrCat("durable submits, ", options_.clients, " clients"), times.rate(),
            "/s");
    Show("submits over plain gRPC calls", times.rate() / plain.rate(), "");
    Show("submits per fdatasync of the disk", times.rate() / syncs, "");
    Show("submit p99", 1000 * times.Percentile(0.99), "ms");
    return absl::OkStatus();
  }

  // Calls that are refused before they reach the loop: the cost of gRPC alone.
  absl::StatusOr<CallTimes> PlainCalls() {
    return RunClients(
        options_.clients, options_.jobs, [&]() -> std::function<absl::Status(int64_t)> {
          std::shared_ptr<Jobs::Stub> stub = Jobs::NewStub(NewChannel(cluster_.grpc_address()));
          return [stub](int64_t) {
            grpc::ClientContext context;
            v1::Job response;
            stub->GetJob(&context, v1::GetJobRequest(), &response);
            return absl::OkStatus();
          };
        });
  }

  absl::Status Reads() {
    ASSIGN_OR_RETURN(const CallTimes lists, (Call<v1::ListJobsRequest, v1::ListJobsResponse>(
                                                1, 1000, &Jobs::Stub::ListJobs,
                                                [](int64_t) { return v1::ListJobsRequest(); })));
    AtMost(20, "list of 50 jobs p99", 1000 * lists.Percentile(0.99), "ms");
    ASSIGN_OR_RETURN(const CallTimes filtered, (Call<v1::ListJobsRequest, v1::ListJobsResponse>(
                                                   1, 200, &Jobs::Stub::ListJobs, [](int64_t) {
                                                     v1::ListJobsRequest request;
                                                     request.set_name_contains("no job has this");
                                                     return request;
                                                   })));
    AtMost(20, "list by a filter that looks at every job p99", 1000 * filtered.Percentile(0.99),
           "ms");
    ASSIGN_OR_RETURN(
        const CallTimes gets,
        (Call<v1::GetJobRequest, v1::Job>(1, 2000, &Jobs::Stub::GetJob, [&](int64_t n) {
          v1::GetJobRequest request;
          request.set_name(JobName(n * 7919 % options_.jobs));
          return request;
        })));
    AtMost(20, "get p99", 1000 * gets.Percentile(0.99), "ms");
    return absl::OkStatus();
  }

  static std::string JobName(int64_t index) { return absl::StrCat("jobs/waiting-", index + 1); }

  // Every change of a priority is an event of its job.
  absl::Status Events() {
    const int64_t calls = std::max<int64_t>(0, options_.events - options_.jobs);
    if (calls == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(const CallTimes times,
                     (Call<v1::UpdateJobRequest, v1::Job>(
                         options_.clients, calls, &Jobs::Stub::UpdateJob, [&](int64_t n) {
                           v1::UpdateJobRequest request;
                           request.set_name(JobName(n % options_.jobs));
                           request.set_priority(static_cast<int>(n / options_.jobs) + 1);
                           return request;
                         })));
    Show("durable changes of a priority", times.rate(), "/s");
    return absl::OkStatus();
  }

  absl::Status Workers() {
    WorkerCrowd crowd(cluster_.grpc_address(), options_.workers, 500);
    if (!test::WaitUntil(absl::Seconds(60), [&] { return crowd.welcomed() == options_.workers; })) {
      return absl::DeadlineExceededError(
          absl::StrCat(crowd.welcomed(), " of ", options_.workers, " workers were welcomed"));
    }
    const int64_t beats = crowd.heartbeats();
    const double cpu = CpuSeconds(pid());
    const double begin = Now();
    const int64_t wanted = beats + int64_t{2} * options_.workers * options_.seconds;
    test::WaitUntil(absl::Seconds(2 * options_.seconds),
                    [&] { return crowd.heartbeats() >= wanted; });
    const double seconds = Now() - begin;
    Show("heartbeats", static_cast<double>(crowd.heartbeats() - beats) / seconds, "/s");
    AtMost(0.25, absl::StrCat("share of a core for ", options_.workers, " workers at 2 Hz"),
           (CpuSeconds(pid()) - cpu) / seconds, "");
    return absl::OkStatus();
  }

  absl::Status Restart() {
    cluster_.KillCoordinator();
    const double begin = Now();
    RETURN_IF_ERROR(cluster_.StartCoordinator());
    ASSIGN_OR_RETURN(const CallTimes list, (Call<v1::ListJobsRequest, v1::ListJobsResponse>(
                                               1, 1, &Jobs::Stub::ListJobs,
                                               [](int64_t) { return v1::ListJobsRequest(); })));
    AtMost(2, "ready after a kill, first list answered", Now() - begin, "s");
    return absl::OkStatus();
  }

  // The pure state machine with the same queue: one pass that looks at every job and places some.
  void SchedulingPass() {
    server::State state;
    server::Now now{1'000'000, 1'700'000'000'000};
    for (int64_t i = 0; i < options_.jobs; ++i) {
      server::SubmitJob submit{static_cast<uint64_t>(i + 1), WaitingSpec(), {}};
      submit.spec.mutable_parallel()->set_ranks(1);
      submit.spec.mutable_parallel()->set_device(v1::DEVICE_CPU);
      server::Step(state, submit, now);
    }
    server::Step(state, server::Schedule{}, now);
    std::vector<double> seconds;
    for (int i = 0; i < 20; ++i) {
      server::WorkerHello hello{static_cast<uint64_t>(100'000 + i), {}};
      hello.hello.set_worker_id(absl::StrCat("w", i));
      hello.hello.add_slot_devices("cpu");
      server::Step(state, hello, now);
      const double begin = Now();
      server::Step(state, server::Schedule{}, now);
      seconds.push_back(Now() - begin);
    }
    AtMost(10, "scheduling pass over the queue", 1000 * Median(seconds), "ms");
  }

  const Options options_;
  test::Cluster cluster_;
  std::vector<Figure> figures_;
};

int Main(int argc, char** argv) {
  CLI::App app{"The coordinator under load, beside the limits of disk and gRPC"};
  Options options;
  app.add_option("--jobs", options.jobs, "Queued jobs")->capture_default_str();
  app.add_option("--events", options.events, "Events in the store")->capture_default_str();
  app.add_option("--workers", options.workers, "Simulated workers")->capture_default_str();
  app.add_option("--clients", options.clients, "Clients that submit")->capture_default_str();
  app.add_option("--seconds", options.seconds, "Length of the run with workers")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  ControlBench bench(options);
  const absl::Status status = bench.Run();
  std::fputs(Table(bench.figures()).c_str(), stdout);
  if (status.ok()) return 0;
  std::fprintf(stderr, "control_bench: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace diffmoe::bench

int main(int argc, char** argv) { return diffmoe::bench::Main(argc, argv); }
