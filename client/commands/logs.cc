#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/log_cursor.h"
#include "client/names.h"
#include "client/output/log_text.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

constexpr int64_t kLostLimitMs = 60'000;
constexpr int64_t kLivedMs = 5'000;
constexpr absl::Duration kRetryInterval = absl::Seconds(1);
constexpr int kMaxTail = 10'000;

struct LogsOptions {
  std::string id;
  bool follow = false;
  std::vector<int> ranks;
  int64_t attempt = 0;
  std::string since;
  std::string grep;
  int tail = 0;
};

// "10m" (before now) or "2026-11-25T03:40:58Z".
absl::StatusOr<absl::Time> ParseSince(const std::string& text, int64_t now_ms) {
  absl::Duration ago;
  if (absl::ParseDuration(text, &ago) && ago > absl::ZeroDuration()) {
    return absl::FromUnixMillis(now_ms) - ago;
  }
  absl::Time time;
  std::string error;
  if (absl::ParseTime(absl::RFC3339_full, text, &time, &error)) return time;
  return UsageError(absl::StrCat("--since: expected a duration such as 10m or a time such as ",
                                 "2026-11-25T03:40:58Z, got ", QuoteForMessage(text)));
}

void SetSince(absl::Time time, v1::ReadJobLogsRequest* request) {
  const int64_t ms = std::max<int64_t>(0, absl::ToUnixMillis(time));
  request->mutable_since()->set_seconds(ms / 1000);
  request->mutable_since()->set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
}

absl::StatusOr<v1::ReadJobLogsRequest> RequestOf(const LogsOptions& options, int64_t now_ms) {
  v1::ReadJobLogsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), JobName(options.id));
  request.set_epoch(options.attempt);
  for (const int rank : options.ranks) request.add_ranks(rank);
  request.set_grep(options.grep);
  request.set_tail_lines(options.tail);
  request.set_follow(options.follow);
  if (!options.since.empty()) {
    ASSIGN_OR_RETURN(const absl::Time since, ParseSince(options.since, now_ms));
    SetSince(since, &request);
  }
  return request;
}

class LogsCommand {
 public:
  LogsCommand(const Context& context, const LogsOptions& options)
      : context_(context), options_(options), client_(context.endpoint) {}

  absl::StatusOr<int> Run() {
    ASSIGN_OR_RETURN(request_, RequestOf(options_, context_.clock.UnixMs()));
    ASSIGN_OR_RETURN(const v1::Job job, FetchJob());
    const int ranks = options_.ranks.empty() ? std::max(1, job.spec().parallel().ranks())
                                             : static_cast<int>(options_.ranks.size());
    text_.format = context_.format;
    text_.rank = ranks > 1;
    text_.color = context_.out_terminal;
    if (request_.has_since()) {
      since_ = absl::FromUnixSeconds(request_.since().seconds()) +
               absl::Nanoseconds(request_.since().nanos());
    }
    while (true) {
      const int64_t begin_ms = context_.clock.MonotonicMs();
      const absl::Status status =
          client_.ReadJobLogs(request_, &interrupt_, [this](const v1::ReadJobLogsResponse& more) {
            Show(more);
            return absl::OkStatus();
          });
      if (interrupt_.triggered()) return kExitInterrupted;
      if (status.ok() && !catches_up_) return kExitOk;
      if (!status.ok()) RETURN_IF_ERROR(AwaitCoordinator(status, begin_ms));
      if (interrupt_.triggered()) return kExitInterrupted;
      RETURN_IF_ERROR(GoOn(status.ok()));
    }
  }

 private:
  absl::StatusOr<v1::Job> FetchJob() {
    v1::GetJobRequest get;
    get.set_name(request_.name());
    return client_.GetJob(get);
  }

  void Show(const v1::ReadJobLogsResponse& response) {
    if (lost_) context_.err << "connected again\n" << std::flush;
    lost_ = false;
    for (const std::string& notice : response.notices()) {
      context_.err << "note: " << CleanText(notice) << "\n" << std::flush;
    }
    for (const v1::LogLine& line : response.lines()) {
      const int64_t before = cursor_.epoch();
      if (!cursor_.Advance(line)) continue;
      if (before != 0 && line.epoch() > before) {
        context_.err << "attempt " << line.epoch() << " begins\n" << std::flush;
      }
      context_.out << LogText(line, text_);
    }
    context_.out << std::flush;
  }

  // After an error: waits a moment; returns the error when it is no reason to try again.
  absl::Status AwaitCoordinator(const absl::Status& status, int64_t begin_ms) {
    if (!options_.follow || status.code() != absl::StatusCode::kUnavailable) return status;
    const int64_t now_ms = context_.clock.MonotonicMs();
    // A call that lived for a while had a connection, lines or not.
    if (!lost_ || now_ms - begin_ms > kLivedMs) lost_since_ms_ = now_ms;
    if (now_ms - lost_since_ms_ > kLostLimitMs) return status;
    if (!lost_) {
      context_.err << "the lines broke off; trying again for " << kLostLimitMs / 1000 << " s\n"
                   << std::flush;
    }
    lost_ = true;
    interrupt_.WaitFor(kRetryInterval);
    client_.Reconnect();
    return absl::OkStatus();
  }

  // Sets the request to what comes behind the lines that were shown: first the rest of their
  // attempt, then the attempts after it. `ended`: the attempt of the request was read to its end.
  absl::Status GoOn(bool ended) {
    if (cursor_.epoch() == 0) return absl::OkStatus();  // nothing was shown: the same again
    int64_t wanted = std::max(request_.epoch(), cursor_.epoch());
    if (ended) ++wanted;
    request_.set_tail_lines(0);
    request_.clear_since();
    if (wanted == cursor_.epoch()) {
      cursor_.Rewind();
      const absl::Time since = std::max(cursor_.since().value_or(absl::UnixEpoch()), since_);
      if (since > absl::UnixEpoch()) SetSince(since, &request_);
    }
    if (options_.attempt > 0) return absl::OkStatus();
    const absl::StatusOr<v1::Job> job = FetchJob();
    if (!job.ok()) {
      // Away again: the next call says so, and this is tried anew.
      return job.status().code() == absl::StatusCode::kUnavailable ? absl::OkStatus()
                                                                   : job.status();
    }
    int64_t next = 0;
    for (const v1::Attempt& attempt : job->attempts()) {
      if (next == 0 && attempt.epoch() >= wanted) next = attempt.epoch();
    }
    const int64_t newest = job->attempts().empty() ? 0 : job->attempts().rbegin()->epoch();
    catches_up_ = next != 0 && next < newest;
    request_.set_epoch(catches_up_ ? next : 0);
    return absl::OkStatus();
  }

  const Context& context_;
  const LogsOptions& options_;
  Interrupt interrupt_;
  ApiClient client_;
  v1::ReadJobLogsRequest request_;
  LogTextOptions text_;
  LogCursor cursor_;
  absl::Time since_ = absl::UnixEpoch();  // that was asked for
  int64_t lost_since_ms_ = 0;
  bool lost_ = false;
  bool catches_up_ = false;  // reads an attempt before the newest one, after a loss
};

}  // namespace

void AddLogsCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<LogsOptions>();
  CLI::App* command = app->add_subcommand("logs", "What the ranks of a job wrote");
  command->add_option("ID", options->id, "Id of the job")->required();
  command->add_flag("-f,--follow", options->follow,
                    "Go on with new lines, through restarts, to the end of the job");
  command->add_option("--rank", options->ranks, "Of this rank only; repeatable")
      ->check(CLI::Range(0, 1023))
      ->type_name("N")
      ->allow_extra_args(false);
  command->add_option("--attempt", options->attempt, "Of this attempt (default: the newest)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  command->add_option("--since", options->since, "From a time on: 10m (ago), or as RFC 3339")
      ->type_name("TIME");
  command->add_option("--grep", options->grep, "Lines that hold this RE2 pattern")
      ->type_name("PATTERN");
  command->add_option("--tail", options->tail, "The last lines of every rank only")
      ->check(CLI::Range(1, kMaxTail))
      ->type_name("N");
  command->callback([context, options] {
    context->action = [context, options] { return LogsCommand(*context, *options).Run(); };
  });
}

}  // namespace diffmoe
