#include "server/api/histories.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/api/resource_names.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "server/state/state.h"

namespace diffmoe::server {
namespace {

constexpr int kMaxPoints = 10'000;
constexpr size_t kMaxResponseBytes = size_t{3} << 20;  // below gRPC's 4 MB

absl::Status Unreadable(std::string_view key) {
  return MakeError(absl::StatusCode::kDataLoss, v1::STORAGE_FAILED,
                   absl::StrCat("record ", std::string(key), " can't be read"));
}

// Reads every record under `prefix` into messages.
template <typename Message>
absl::StatusOr<std::vector<Message>> ReadAll(const RecordStore& records,
                                             const std::string& prefix) {
  std::vector<Message> messages;
  absl::Status parsed;
  RETURN_IF_ERROR(records.Scan(prefix, [&](std::string_view key, std::string_view value) {
    if (!messages.emplace_back().ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      parsed = Unreadable(key);
    }
    return parsed.ok();
  }));
  RETURN_IF_ERROR(parsed);
  return messages;
}

struct RecordOfEpoch {
  int64_t epoch = 0;
  v1::StepRecord record;
};

// The epoch stands at the end of the key.
int64_t EpochOfKey(std::string_view key) {
  return std::strtoll(std::string(key.substr(key.rfind('/') + 1)).c_str(), nullptr, 10);
}

// One record a step; where attempts overlap, the later attempt's.
absl::StatusOr<std::vector<RecordOfEpoch>> ReadSteps(const RecordStore& records,
                                                     const std::string& job_id) {
  std::vector<RecordOfEpoch> all;
  absl::Status parsed;
  RETURN_IF_ERROR(
      records.Scan(StepsPrefix(job_id), [&](std::string_view key, std::string_view value) {
        internal::v1::StepRecords batch;
        if (!batch.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
          parsed = Unreadable(key);
          return false;
        }
        const int64_t epoch = EpochOfKey(key);
        for (v1::StepRecord& record : *batch.mutable_records()) {
          all.push_back({epoch, std::move(record)});
        }
        return true;
      }));
  RETURN_IF_ERROR(parsed);
  std::stable_sort(all.begin(), all.end(), [](const RecordOfEpoch& a, const RecordOfEpoch& b) {
    return a.record.step() != b.record.step() ? a.record.step() < b.record.step()
                                              : a.epoch > b.epoch;
  });
  all.erase(std::unique(all.begin(), all.end(),
                        [](const RecordOfEpoch& a, const RecordOfEpoch& b) {
                          return a.record.step() == b.record.step();
                        }),
            all.end());
  return all;
}

}  // namespace

size_t ThinnedIndex(size_t i, size_t kept, size_t total) {
  return kept <= 1 ? total - 1 : i * (total - 1) / (kept - 1);
}

absl::StatusOr<internal::v1::JobRecord> ReadJobRecord(const RecordStore& records,
                                                      const std::string& job_id) {
  const absl::StatusOr<std::string> bytes = records.Get(JobKey(job_id));
  if (absl::IsNotFound(bytes.status())) {
    return MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                     absl::StrCat(JobName(job_id), " doesn't exist"), JobName(job_id));
  }
  RETURN_IF_ERROR(bytes.status());
  internal::v1::JobRecord record;
  if (!record.ParseFromString(*bytes)) return Unreadable(JobKey(job_id));
  return record;
}

absl::Status ReadJobEvents(const RecordStore& records, const v1::ListJobEventsRequest& request,
                           v1::ListJobEventsResponse* response) {
  ASSIGN_OR_RETURN(const std::string id, ParseJobName(request.name()));
  ASSIGN_OR_RETURN(const int limit, PageSize(request.page_size(), 1000, 10'000, "page_size"));
  RETURN_IF_ERROR(ReadJobRecord(records, id).status());
  absl::Status parsed;
  size_t bytes = 0;
  RETURN_IF_ERROR(records.Scan(EventsPrefix(id), [&](std::string_view key, std::string_view value) {
    v1::JobEvent event;
    if (!event.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      parsed = Unreadable(key);
      return false;
    }
    if (event.sequence() <= request.after_sequence()) return true;
    bytes += value.size();
    if (response->events_size() == limit || bytes > kMaxResponseBytes) return false;
    *response->add_events() = std::move(event);
    return true;
  }));
  return parsed;
}

absl::Status ReadStepRecords(const RecordStore& records, const v1::ListStepRecordsRequest& request,
                             v1::ListStepRecordsResponse* response) {
  ASSIGN_OR_RETURN(const std::string id, ParseJobName(request.name()));
  ASSIGN_OR_RETURN(const int limit, PageSize(request.max_points(), 1000, kMaxPoints, "max_points"));
  RETURN_IF_ERROR(ReadJobRecord(records, id).status());
  ASSIGN_OR_RETURN(std::vector<RecordOfEpoch> all, ReadSteps(records, id));
  const size_t kept = std::min(all.size(), static_cast<size_t>(limit));
  for (size_t i = 0; i < kept; ++i) {
    *response->add_records() = all[ThinnedIndex(i, kept, all.size())].record;
  }
  return absl::OkStatus();
}

absl::Status ReadThresholds(const RecordStore& records, const v1::ListThresholdsRequest& request,
                            v1::ListThresholdsResponse* response) {
  ASSIGN_OR_RETURN(const std::string id, ParseJobName(request.parent(), "parent"));
  ASSIGN_OR_RETURN(const int limit, PageSize(request.max_points(), 200, kMaxPoints, "max_points"));
  RETURN_IF_ERROR(ReadJobRecord(records, id).status());
  ASSIGN_OR_RETURN(std::vector<v1::ThresholdPoint> all,
                   ReadAll<v1::ThresholdPoint>(records, ThresholdsPrefix(id)));
  if (all.empty()) return absl::OkStatus();
  const size_t fitting =
      std::max<size_t>(1, kMaxResponseBytes / std::max<size_t>(1, all.back().ByteSizeLong() + 8));
  const size_t kept = std::min({all.size(), static_cast<size_t>(limit), fitting});
  for (size_t i = 0; i < kept; ++i) {
    *response->add_points() = all[ThinnedIndex(i, kept, all.size())];
  }
  return absl::OkStatus();
}

}  // namespace diffmoe::server
