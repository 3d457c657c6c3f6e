// Requests that wait, fair between users: users take turns, and each user's requests go by age.
// Pure; not thread-safe. The caller bounds the size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace diffmoe::server {

class UserQueue {
 public:
  // A smaller `call` is older, also when it comes later. Once per call.
  void Add(const std::string& user, uint64_t call);
  // Nothing happens when it isn't there.
  void Remove(const std::string& user, uint64_t call);
  // Whose turn it is.
  std::optional<uint64_t> Front() const;
  // Takes Front() out; the next user has its turn.
  void Pop();

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  size_t SizeOf(const std::string& user) const;
  // All calls in the order in which they are taken out.
  std::vector<uint64_t> Order() const;

 private:
  std::map<std::string, std::set<uint64_t>> lines_;  // none is empty
  std::deque<std::string> turns_;                    // the keys of lines_
  size_t size_ = 0;
};

}  // namespace diffmoe::server
