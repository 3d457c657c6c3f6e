// What /proc says about other processes.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/process.h"

namespace diffmoe::test {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Parent of a process, 0 when it is gone. /proc/PID/stat is "pid (name) state ppid ..."; the name
// may hold anything.
int ParentOf(const std::string& pid) {
  const std::string stat = Contents(absl::StrCat("/proc/", pid, "/stat"));
  const size_t end_of_name = stat.rfind(") ");
  if (end_of_name == std::string::npos) return 0;
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(end_of_name + 2), ' ');
  int parent = 0;
  return fields.size() > 1 && fields[0] != "Z" && absl::SimpleAtoi(fields[1], &parent) ? parent : 0;
}

}  // namespace

std::vector<pid_t> ChildrenOf(pid_t parent, const std::vector<std::string>& words) {
  std::vector<pid_t> result;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    int pid = 0;
    if (!absl::SimpleAtoi(name, &pid) || ParentOf(name) != parent) continue;
    std::string command = Contents(absl::StrCat("/proc/", name, "/cmdline"));
    std::replace(command.begin(), command.end(), '\0', ' ');
    const bool all = std::all_of(words.begin(), words.end(), [&](const std::string& word) {
      return absl::StrContains(command, word);
    });
    if (all) result.push_back(pid);
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::string ListeningAddress(pid_t pid) {
  std::set<std::string> inodes;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    const std::string target = std::filesystem::read_symlink(entry.path(), ignored);
    if (absl::StartsWith(target, "socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
  std::istringstream table(Contents(absl::StrCat("/proc/", pid, "/net/tcp")));
  for (std::string line; std::getline(table, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
    constexpr char kListen[] = "0A";
    if (fields.size() < 10 || fields[3] != kListen || !inodes.contains(fields[9])) continue;
    const std::vector<std::string> local = absl::StrSplit(fields[1], ':');
    int port = 0;
    if (local.size() == 2 && absl::SimpleHexAtoi(local[1], &port))
      return absl::StrCat("127.0.0.1:", port);
  }
  return "";
}

}  // namespace diffmoe::test
