#include "core/storage/rocksdb_support.h"

#include <cstdarg>
#include <cstdio>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/log.h"

namespace diffmoe::storage {
namespace {

class ForwardingLogger final : public rocksdb::Logger {
 public:
  explicit ForwardingLogger(std::string_view component)
      : Logger(rocksdb::InfoLogLevel::WARN_LEVEL), component_(component) {}

  using Logger::Logv;
  // The version with a level calls this one after filtering, for levels without a decoration of
  // their own.
  void Logv(const char* format, va_list arguments) override {
    char line[1024];
    std::vsnprintf(line, sizeof(line), format, arguments);
    LogWarning(component_, std::string(absl::StripTrailingAsciiWhitespace(line)));
  }

 private:
  const std::string component_;
};

}  // namespace

absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view action) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("cannot ", action, ": ", status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsPathNotFound()) return absl::DataLossError(message);
  if (status.IsIOError() && status.ToString().find("ermission denied") != std::string::npos) {
    return absl::PermissionDeniedError(message);
  }
  return absl::InternalError(message);
}

std::shared_ptr<rocksdb::Logger> NewRocksDbLogger(std::string_view component) {
  return std::make_shared<ForwardingLogger>(component);
}

}  // namespace diffmoe::storage
