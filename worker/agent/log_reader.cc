#include "worker/agent/log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/log_setup.h"
#include "core/base/utf8.h"

namespace diffmoe {
namespace {

constexpr size_t kPieceBytes = 64 << 10;
constexpr size_t kMaxLineBytes = 16 << 10;
constexpr size_t kMaxKeptBytes = 8 << 20;
constexpr int kMaxOlderFiles = 16;  // a bound on the files that are looked for
constexpr int64_t kMaxPatternBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::shared_ptr<const RE2>> CompileLogPattern(const std::string& pattern) {
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(kMaxPatternBytes);
  auto compiled = std::make_shared<const RE2>(pattern, options);
  if (compiled->ok()) return compiled;
  return absl::InvalidArgumentError(absl::StrCat("grep: expected an RE2 pattern, got \"",
                                                 absl::CHexEscape(pattern.substr(0, 200)),
                                                 "\": ", compiled->error()));
}

LogReader::LogReader(std::string path, LogFilter filter)
    : path_(std::move(path)), filter_(std::move(filter)) {}

LogReader::~LogReader() {
  if (file_.fd >= 0) close(file_.fd);
}

std::vector<LogReader::File> LogReader::OpenFiles() const {
  std::vector<File> files;
  // The newest first: what is rotated meanwhile is met twice rather than missed.
  for (int i = 0; i <= kMaxOlderFiles; ++i) {
    const std::string path = i == 0 ? path_ : absl::StrCat(path_, ".", i);
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (fd < 0 || fstat(fd, &info) != 0) {
      if (fd >= 0) close(fd);
      if (i == 0) continue;
      break;
    }
    const bool known = std::any_of(files.begin(), files.end(), [&info](const File& file) {
      return file.device == info.st_dev && file.inode == info.st_ino;
    });
    if (known) {
      close(fd);
    } else {
      files.push_back({fd, info.st_dev, info.st_ino});
    }
  }
  std::reverse(files.begin(), files.end());
  return files;
}

void LogReader::Use(const File& file) {
  if (file_.fd >= 0) close(file_.fd);
  file_ = file;
  rotated_ = false;
  found_ = true;
}

bool LogReader::OpenFirst() {
  std::vector<File> files = OpenFiles();
  if (files.empty()) return false;
  Use(files.front());
  for (size_t i = 1; i < files.size(); ++i) close(files[i].fd);
  return true;
}

bool LogReader::Rotated() const {
  struct stat info {};
  return stat(path_.c_str(), &info) == 0 &&
         (info.st_dev != file_.device || info.st_ino != file_.inode);
}

bool LogReader::OpenNext() {
  std::vector<File> files = OpenFiles();
  if (files.empty()) return false;
  const auto at = std::find_if(files.begin(), files.end(), [this](const File& file) {
    return file.device == file_.device && file.inode == file_.inode;
  });
  // The file at hand has been removed: lines between it and the oldest one are lost.
  if (at == files.end()) gap_ = true;
  const size_t next = at == files.end() ? 0 : static_cast<size_t>(at - files.begin()) + 1;
  const bool more = next < files.size();
  for (size_t i = 0; i < files.size(); ++i) {
    if (i != next) close(files[i].fd);
  }
  if (more) Use(files[next]);
  return more;
}

bool LogReader::ReadMore() {
  if (file_.fd < 0 && !OpenFirst()) return false;
  buffer_.erase(0, begin_);
  begin_ = 0;
  while (true) {
    const size_t size = buffer_.size();
    buffer_.resize(size + kPieceBytes);
    ssize_t got;
    do {
      got = read(file_.fd, buffer_.data() + size, kPieceBytes);
    } while (got < 0 && errno == EINTR);
    buffer_.resize(size + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got > 0) return true;
    // What was written before the rotation may have come after the read that met the end.
    if (!rotated_ && Rotated()) {
      rotated_ = true;
      continue;
    }
    if (!rotated_ || !OpenNext()) return false;
  }
}

bool LogReader::NextLine(std::string* line) {
  size_t scanned = begin_;
  while (true) {
    const size_t end = buffer_.find('\n', scanned);
    if (end != std::string::npos) {
      *line = buffer_.substr(begin_, std::min(end - begin_, kMaxLineBytes));
      begin_ = end + 1;
      return true;
    }
    if (buffer_.size() - begin_ > 2 * kPieceBytes) {  // no log of ours
      *line = buffer_.substr(begin_, kMaxLineBytes);
      begin_ = buffer_.size();
      return true;
    }
    const size_t unread = buffer_.size() - begin_;
    if (!ReadMore()) return false;
    scanned = unread;
  }
}

bool LogReader::Next(LogEntry* entry) {
  if (!kept_.empty()) {
    *entry = std::move(kept_.front());
    kept_.pop_front();
    return true;
  }
  std::string line;
  while (NextLine(&line)) {
    absl::Time time;
    entry->time.reset();
    if (ParseLogTime(line, &time)) {
      entry->time = time;
      written_ = std::max(written_, time);
    }
    if (written_ < filter_.since) continue;
    if (filter_.grep != nullptr && !RE2::PartialMatch(line, *filter_.grep)) continue;
    entry->written = written_;
    entry->text = ValidUtf8(line);
    if (entry->text.size() > kMaxLineBytes) {
      entry->text = ValidUtf8(std::string_view(entry->text).substr(0, kMaxLineBytes - 2));
    }
    return true;
  }
  return false;
}

void LogReader::SkipToLast(int lines) {
  std::deque<LogEntry> last;
  size_t bytes = 0;
  LogEntry entry;
  while (Next(&entry)) {
    bytes += entry.text.size();
    last.push_back(std::move(entry));
    while (last.size() > static_cast<size_t>(lines) || bytes > kMaxKeptBytes) {
      bytes -= last.front().text.size();
      last.pop_front();
    }
    entry = {};
  }
  kept_ = std::move(last);
}

bool LogReader::TakeGap() { return std::exchange(gap_, false); }

MergedLogs::MergedLogs(std::vector<int> ranks, std::vector<std::unique_ptr<LogReader>> readers)
    : ranks_(std::move(ranks)), readers_(std::move(readers)), heads_(readers_.size()) {}

bool MergedLogs::Next(int* rank, LogEntry* entry) {
  std::optional<size_t> oldest;
  for (size_t i = 0; i < readers_.size(); ++i) {
    if (!heads_[i].has_value()) {
      LogEntry next;
      if (!readers_[i]->Next(&next)) continue;
      heads_[i] = std::move(next);
    }
    if (!oldest.has_value() || heads_[i]->written < heads_[*oldest]->written) oldest = i;
  }
  if (!oldest.has_value()) return false;
  *rank = ranks_[*oldest];
  *entry = *std::move(heads_[*oldest]);
  heads_[*oldest].reset();
  return true;
}

}  // namespace diffmoe
