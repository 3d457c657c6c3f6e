#include "core/data/folder_dataset.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/data/image_decode.h"
#include "core/data/memory_dataset.h"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNamedInError = 5;

struct ImageFile {
  std::string path;
  int label = 0;
};

struct Listing {
  std::vector<ImageFile> files;
  int64_t classes = 0;
};

bool HasImageExtension(const std::string& name) {
  const std::string lower = absl::AsciiStrToLower(name);
  return absl::EndsWith(lower, ".png") || absl::EndsWith(lower, ".jpg") ||
         absl::EndsWith(lower, ".jpeg");
}

// Names in a folder, sorted by bytes, without those that begin with '.'.
absl::StatusOr<std::vector<std::string>> SortedNames(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator entry(folder, error);
  while (!error && entry != fs::directory_iterator()) {
    std::string name = entry->path().filename().string();
    if (name[0] != '.') names.push_back(std::move(name));
    entry.increment(error);
  }
  if (error) return FileError(error.value(), "list", folder);
  std::sort(names.begin(), names.end());
  return names;
}

// The file that `path` leads to, when that lies below `root` (canonical).
absl::StatusOr<std::string> ResolveBelow(const std::string& root, const std::string& path) {
  std::error_code error;
  const std::string real = fs::canonical(path, error).string();
  if (error) return FileError(error.value(), "open", path);
  const std::string prefix = root == "/" ? root : absl::StrCat(root, "/");
  if (!absl::StartsWith(real, prefix)) {
    return absl::PermissionDeniedError(absl::StrCat(path, " leads out of the data folder"));
  }
  return real;
}

absl::StatusOr<Listing> List(const std::string& root) {
  Listing listing;
  ASSIGN_OR_RETURN(const std::vector<std::string> folders, SortedNames(root));
  for (const std::string& folder : folders) {
    const std::string folder_path = absl::StrCat(root, "/", folder);
    std::error_code error;
    if (!fs::is_directory(folder_path, error)) continue;
    RETURN_IF_ERROR(ResolveBelow(root, folder_path).status());
    ASSIGN_OR_RETURN(const std::vector<std::string> names, SortedNames(folder_path));
    const size_t before = listing.files.size();
    for (const std::string& name : names) {
      if (!HasImageExtension(name)) continue;
      listing.files.push_back(
          {absl::StrCat(folder_path, "/", name), static_cast<int>(listing.classes)});
    }
    if (listing.files.size() == before) {
      LogWarning("data", "class folder without images", {{"path", folder_path}});
    }
    ++listing.classes;
  }
  return listing;
}

absl::StatusOr<std::string> ReadFile(const std::string& root, const std::string& path,
                                     int64_t max_bytes) {
  ASSIGN_OR_RETURN(const std::string real, ResolveBelow(root, path));
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(real.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0) return FileError(errno, "open", path);
  const auto close = absl::MakeCleanup([fd] { ::close(fd); });
  struct stat info;
  if (::fstat(fd, &info) != 0) return FileError(errno, "inspect", path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("not a regular file");
  if (info.st_size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(info.st_size, " bytes are over the limit of ", max_bytes));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = ::read(fd, bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(errno, "read", path);
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

absl::Status DecodeInto(const std::string& root, const std::string& path, const ImageFit& fit,
                        const DatasetLimits& limits, absl::Span<uint8_t> planes) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(root, path, limits.file_bytes));
  ASSIGN_OR_RETURN(const Image image, DecodeImage(bytes, limits.image_pixels));
  return FitImage(image, fit, planes);
}

// Decodes a file again on each Read: for data sets that don't fit into memory.
class FolderDataset final : public ImageDataset {
 public:
  FolderDataset(std::string root, const ImageFit& fit, const DatasetLimits& limits,
                std::vector<ImageFile> files, int64_t classes, std::vector<BadFile> bad_files)
      : root_(std::move(root)),
        fit_(fit),
        limits_(limits),
        files_(std::move(files)),
        classes_(classes),
        bad_files_(std::move(bad_files)) {}

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  int64_t classes() const override { return classes_; }
  int label(int64_t index) const override { return files_[index].label; }
  const std::vector<BadFile>& bad_files() const override { return bad_files_; }

  absl::Status Read(int64_t index, absl::Span<float> out, int* label) const override {
    RETURN_IF_ERROR(CheckRead(index, size(), out.size(), fit_));
    std::vector<uint8_t> planes(fit_.bytes());
    const absl::Status status =
        DecodeInto(root_, files_[index].path, fit_, limits_, absl::MakeSpan(planes));
    if (!status.ok()) {
      return absl::DataLossError(absl::StrCat(
          files_[index].path, " was good when the data set was opened, now: ", status.message()));
    }
    PixelsToValues(planes, out);
    *label = files_[index].label;
    return absl::OkStatus();
  }

 private:
  std::string root_;
  ImageFit fit_;
  DatasetLimits limits_;
  std::vector<ImageFile> files_;
  int64_t classes_;
  std::vector<BadFile> bad_files_;
};

absl::Status TooManyBadFiles(const std::vector<BadFile>& bad, int64_t max_bad_files) {
  std::string message = absl::StrCat(bad.size(), " files are broken, data.max_bad_files is ",
                                     max_bad_files, "; the last ones:");
  for (size_t i = bad.size() - std::min(bad.size(), kNamedInError); i < bad.size(); ++i) {
    absl::StrAppend(&message, " ", EscapeForLog(bad[i].path), " (", bad[i].reason, ")",
                    i + 1 < bad.size() ? ";" : "");
  }
  return absl::InvalidArgumentError(message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageDataset>> OpenFolderDataset(const DataConfig& data,
                                                                const ModelConfig& model,
                                                                const ImageFit& fit,
                                                                const DatasetLimits& limits) {
  std::error_code error;
  const std::string root = fs::canonical(data.path, error).string();
  if (error) return FileError(error.value(), "open data.path", data.path);
  ASSIGN_OR_RETURN(Listing listing, List(root));
  if (listing.classes > model.classes) {
    return absl::InvalidArgumentError(
        absl::StrCat("data.path ", data.path, " has ", listing.classes,
                     " class folders, model.classes is ", model.classes));
  }
  const bool keep = static_cast<int64_t>(listing.files.size()) <= limits.memory_bytes / fit.bytes();
  std::vector<uint8_t> pixels;
  if (keep) pixels.reserve(listing.files.size() * static_cast<size_t>(fit.bytes()));
  std::vector<uint8_t> planes(fit.bytes());
  std::vector<int> labels;
  std::vector<ImageFile> good;
  std::vector<BadFile> bad;
  for (ImageFile& file : listing.files) {
    if (limits.progress) limits.progress();
    const absl::Status status = DecodeInto(root, file.path, fit, limits, absl::MakeSpan(planes));
    if (!status.ok()) {
      std::string reason(status.message());
      LogWarning("data", "broken file skipped", {{"path", file.path}, {"reason", reason}});
      bad.push_back({std::move(file.path), std::move(reason)});
      if (static_cast<int64_t>(bad.size()) > data.max_bad_files) {
        return TooManyBadFiles(bad, data.max_bad_files);
      }
    } else if (keep) {
      pixels.insert(pixels.end(), planes.begin(), planes.end());
      labels.push_back(file.label);
    } else {
      good.push_back(std::move(file));
    }
  }
  if (!keep) {
    return std::make_unique<FolderDataset>(root, fit, limits, std::move(good), listing.classes,
                                           std::move(bad));
  }
  return std::make_unique<MemoryDataset>(fit, std::move(pixels), std::move(labels), listing.classes,
                                         std::move(bad));
}

}  // namespace diffmoe
