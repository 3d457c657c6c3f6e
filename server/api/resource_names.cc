#include "server/api/resource_names.h"

#include <algorithm>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

absl::Status Invalid(const std::string& field, const std::string& expected,
                     const std::string& got) {
  return MakeViolations(
      v1::INVALID_REQUEST,
      {Violation(field, absl::StrCat("expected ", expected, ", got \"",
                                     absl::CHexEscape(got.substr(0, 200)), "\""))});
}

uint32_t Fnv1a(const std::string& text) {
  uint32_t hash = 2166136261u;
  for (const unsigned char c : text) hash = (hash ^ c) * 16777619u;
  return hash;
}

}  // namespace

absl::StatusOr<std::string> ParseJobName(const std::string& name, const std::string& field) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() != 2 || parts[0] != "jobs" || parts[1].empty()) {
    return Invalid(field, "jobs/{id}", name);
  }
  return parts[1];
}

absl::StatusOr<CheckpointRef> ParseCheckpointName(const std::string& name, const std::string& field,
                                                  bool job_alone) {
  const std::string expected = job_alone
                                   ? "jobs/{id} or jobs/{id}/checkpoints/{step}"
                                   : "jobs/{id}/checkpoints/{step} or jobs/{id}/checkpoints/latest";
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() < 2 || parts[0] != "jobs" || parts[1].empty()) {
    return Invalid(field, expected, name);
  }
  CheckpointRef ref{parts[1], std::nullopt};
  if (parts.size() == 2 && job_alone) return ref;
  if (parts.size() != 4 || parts[2] != "checkpoints") return Invalid(field, expected, name);
  if (parts[3] == "latest") return ref;
  int64_t step = 0;
  if (!absl::SimpleAtoi(parts[3], &step) || step < 0) return Invalid(field, expected, name);
  ref.step = step;
  return ref;
}

std::string MakePageToken(int64_t last) {
  const std::string body = absl::StrCat("p1-", last);
  return absl::StrFormat("%s-%08x", body, Fnv1a(body));
}

absl::StatusOr<int64_t> ParsePageToken(const std::string& token) {
  const std::vector<std::string> parts = absl::StrSplit(token, '-');
  int64_t last = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[1], &last) || MakePageToken(last) != token) {
    return Invalid("page_token", "a token from an earlier response", token);
  }
  return last;
}

absl::StatusOr<int> PageSize(int size, int default_size, int max_size, const std::string& field) {
  if (size < 0) {
    return MakeViolations(v1::INVALID_REQUEST,
                          {Violation(field, absl::StrCat("expected 0 or more, got ", size))});
  }
  return size == 0 ? default_size : std::min(size, max_size);
}

}  // namespace diffmoe::server
