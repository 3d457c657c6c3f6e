#include "worker/rank/control_store.h"

#include <string>
#include <vector>

namespace diffmoe {
namespace {

void ThrowIfError(const absl::Status& status, const std::string& what) {
  TORCH_CHECK(status.ok(), "rendezvous: ", what, ": ", std::string(status.message()));
}

class ControlStore final : public c10d::Store {
 public:
  ControlStore(RankLink& link, std::chrono::milliseconds timeout)
      : c10d::Store(timeout), link_(link) {}

  c10::intrusive_ptr<c10d::Store> clone() override {
    return c10::make_intrusive<ControlStore>(link_, timeout_);
  }

  using c10d::Store::set;
  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    ThrowIfError(link_.KeySet(key, std::string(value.begin(), value.end())), "set " + key);
  }
  std::vector<uint8_t> get(const std::string& key) override {
    const auto value = link_.KeyGet(key, absl::FromChrono(timeout_));
    ThrowIfError(value.status(), "get " + key);
    return {value->begin(), value->end()};
  }
  int64_t add(const std::string& key, int64_t amount) override {
    const auto value = link_.KeyAdd(key, amount);
    ThrowIfError(value.status(), "add " + key);
    return *value;
  }
  bool deleteKey(const std::string& key) override {
    const auto deleted = link_.KeyDelete(key);
    ThrowIfError(deleted.status(), "delete " + key);
    return *deleted;
  }
  bool check(const std::vector<std::string>& keys) override {
    const auto present = link_.KeyCheck(keys);
    ThrowIfError(present.status(), "check");
    return *present;
  }
  int64_t getNumKeys() override {
    const auto count = link_.KeyCount();
    ThrowIfError(count.status(), "count");
    return *count;
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys,
            const std::chrono::milliseconds& timeout) override {
    ThrowIfError(link_.KeyWait(keys, absl::FromChrono(timeout)), "wait for peers");
  }

 private:
  RankLink& link_;
};

}  // namespace

c10::intrusive_ptr<c10d::Store> MakeControlStore(RankLink& link,
                                                 std::chrono::milliseconds timeout) {
  return c10::make_intrusive<ControlStore>(link, timeout);
}

}  // namespace diffmoe
