// The order in which a sampler serves requests: by the virtual time at which they would finish if
// all of them shared the machine equally (the Fair Sojourn Protocol of Friedman and Henderson,
// SIGMETRICS 2003). Small requests overtake large ones, equal ones are served first come first
// served, and no request ends later than with equal shares.
//
// Work is counted in rows. Virtual time V is the work that each active request has got in the
// shared system: it grows by served rows / active requests. A request that arrives with n rows is
// tagged V + n; it is active until V reaches its tag, though it may have ended before.
//
// Not thread safe. Time: O(log n) per operation, and O(tags passed) for Serve. Memory: the requests
// that wait and those that ended ahead of their virtual time; the latter are forgotten whenever
// nothing waits.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace diffmoe {

class FairQueue {
 public:
  // `rows`: all rows of the request, at least 1. Does nothing for a known request.
  void Add(const std::string& id, int64_t rows);
  // The request needs `rows` in all: its tag rises. A smaller number than before changes nothing,
  // so that a request doesn't gain by an estimate that was too high.
  void Raise(const std::string& id, int64_t rows);
  // `rows` were computed for somebody.
  void Serve(int64_t rows);
  // All its work is done. Its virtual work goes on.
  void Finish(const std::string& id);
  // It ended early: its virtual work is dropped.
  void Cancel(const std::string& id);

  bool empty() const { return waiting_.empty(); }
  int64_t size() const { return static_cast<int64_t>(waiting_.size()); }
  double virtual_time() const { return virtual_time_; }
  // Requests in order of service, until `visit` returns false. It must not change the queue.
  void Visit(const std::function<bool(const std::string& id)>& visit) const;

 private:
  // Equal tags: first come first served.
  using Tag = std::pair<double, int64_t>;
  struct Entry {
    Tag tag;
    double arrival = 0;  // virtual time
    int64_t rows = 0;
  };
  void Remove(const std::string& id, bool keep_virtual_work);

  double virtual_time_ = 0;
  int64_t arrivals_ = 0;
  std::map<std::string, Entry> waiting_;
  std::map<Tag, std::string> order_;  // of waiting_
  std::set<Tag> active_;              // tags above virtual_time_
};

}  // namespace diffmoe
