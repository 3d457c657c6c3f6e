// Protocol. Every rank owns two outboxes and uses them in turn, round after round. In a round a
// rank (1) writes its bytes into the round's outbox, (2) publishes the round, (3) waits until each
// peer has published it, (4) reads the peers' bytes.
//
// One wait a round is enough. A rank writes round n + 2 into the outbox of round n. It does so
// after step 3 of round n + 1: every peer had published n + 1 by then, hence had finished step 4 of
// round n. So nobody reads what is overwritten, and a rank is at most one round ahead.
//
// A collective takes as many rounds as its longest message needs. Ranks need not know that number
// beforehand: the first round's header tells each rank's own, and the largest counts.
#include "core/parallel/shared_memory_collectives.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <system_error>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/log.h"
#include "core/parallel/gloo_collectives.h"
#include "core/parallel/outbox.h"
#include "core/parallel/tree_sum.h"

namespace diffmoe {
namespace {

using Clock = std::chrono::steady_clock;

// A waiting rank gives its core away at once if another thread wants it, and sleeps after this
// time. Waking a sleeper takes 50 us on a virtual machine, an exchange a few.
constexpr std::chrono::microseconds kSpin{100};
// A sleeper looks whether the peer still lives.
constexpr std::chrono::milliseconds kSleep{20};

struct Peer {
  PeerOutbox outboxes[2];
  ProcessWatch process;
};

// One rank's part of a collective.
struct Messages {
  // [world_size], entries of this rank unused. In a gather all entries are the same.
  std::vector<const std::byte*> send;
  std::vector<size_t> send_bytes, receive_bytes;
  bool same_for_all = false;
};

class SharedMemoryCollectives final : public Collectives {
 public:
  SharedMemoryCollectives(int rank, std::vector<std::unique_ptr<Outbox>> outboxes,
                          std::vector<std::optional<Peer>> peers, std::chrono::milliseconds timeout)
      : rank_(static_cast<size_t>(rank)),
        ranks_(peers.size()),
        timeout_(timeout),
        outboxes_(std::move(outboxes)),
        peers_(std::move(peers)) {}

  int rank() const override { return static_cast<int>(rank_); }
  int world_size() const override { return static_cast<int>(ranks_); }
  const char* transport() const override { return "shared memory"; }

  void SetTimeout(std::chrono::milliseconds timeout) override { timeout_ = timeout; }

  void AllToAll(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    const size_t bytes = in.nbytes() / ranks_;
    const std::vector<size_t> even(ranks_, bytes);
    Exchange(out, in, even, even, {}, what);
  }

  void AllToAllRows(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& receive_rows,
                    const std::vector<int64_t>& send_rows, const std::string& what) override {
    CheckRows(out, in, receive_rows, send_rows, what);
    size_t row_bytes = in.element_size();
    for (const int64_t size : in.sizes().slice(1)) row_bytes *= static_cast<size_t>(size);
    const auto bytes = [&](const std::vector<int64_t>& rows) {
      std::vector<size_t> all;
      for (const int64_t n : rows) all.push_back(static_cast<size_t>(n) * row_bytes);
      return all;
    };
    Exchange(out, in, bytes(receive_rows), bytes(send_rows), CountedRows(in, send_rows), what);
  }

  void AllGather(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    const size_t bytes = in.nbytes();
    const std::byte* from = Bytes(in);
    std::byte* to = Bytes(out);
    Messages messages{std::vector<const std::byte*>(ranks_, from),
                      std::vector<size_t>(ranks_, bytes), std::vector<size_t>(ranks_, bytes), true};
    if (to + rank_ * bytes != from) std::memcpy(to + rank_ * bytes, from, bytes);
    Run("all-gather ", what, messages, {},
        [&](size_t begin, size_t room, const std::vector<const std::byte*>& read) {
          for (size_t r = 0; r < ranks_; ++r) {
            if (r != rank_) CopyPiece(to + r * bytes, bytes, begin, room, read[r]);
          }
        });
  }

  void ReduceScatter(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    Messages messages = Split(in, std::vector<size_t>(ranks_, in.nbytes() / ranks_));
    messages.receive_bytes.assign(ranks_, messages.send_bytes[rank_]);
    AT_DISPATCH_FLOATING_TYPES(in.scalar_type(), "reduce_scatter", [&] {
      const size_t count = static_cast<size_t>(out.numel());
      const scalar_t* mine = in.const_data_ptr<scalar_t>() + rank_ * count;
      scalar_t* sum = out.mutable_data_ptr<scalar_t>();
      std::vector<const scalar_t*> parts(ranks_);
      Run("reduce-scatter ", what, messages, {},
          [&](size_t begin, size_t room, const std::vector<const std::byte*>& read) {
            const size_t first = begin / sizeof(scalar_t);
            if (first >= count) return;
            for (size_t r = 0; r < ranks_; ++r) {
              parts[r] = r == rank_ ? mine + first : reinterpret_cast<const scalar_t*>(read[r]);
            }
            TreeSum<scalar_t>(parts, std::min(count - first, room / sizeof(scalar_t)), sum + first);
          });
    });
  }

 private:
  static const std::byte* Bytes(const at::Tensor& tensor) {
    return static_cast<const std::byte*>(tensor.const_data_ptr());
  }
  static std::byte* Bytes(at::Tensor& tensor) {
    return static_cast<std::byte*>(tensor.mutable_data_ptr());
  }
  static void CopyPiece(std::byte* to, size_t bytes, size_t begin, size_t room,
                        const std::byte* from) {
    if (begin < bytes) std::memcpy(to + begin, from, std::min(bytes - begin, room));
  }

  // Consecutive parts of `in`, one per rank.
  Messages Split(const at::Tensor& in, std::vector<size_t> send_bytes) const {
    Messages messages;
    const std::byte* from = Bytes(in);
    for (const size_t bytes : send_bytes) {
      messages.send.push_back(from);
      from += bytes;
    }
    messages.send_bytes = std::move(send_bytes);
    return messages;
  }

  void Exchange(at::Tensor& out, const at::Tensor& in, std::vector<size_t> receive_bytes,
                std::vector<size_t> send_bytes, std::span<const int64_t> rows,
                const std::string& what) {
    kind_ = "all-to-all ";
    Messages messages = Split(in, std::move(send_bytes));
    messages.receive_bytes = std::move(receive_bytes);
    std::vector<std::byte*> to{Bytes(out)};
    for (size_t r = 0; r + 1 < ranks_; ++r) to.push_back(to[r] + messages.receive_bytes[r]);
    if (messages.send_bytes[rank_] != messages.receive_bytes[rank_]) {
      Fail(what, absl::StrCat("sends ", messages.send_bytes[rank_], " bytes to itself and expects ",
                              messages.receive_bytes[rank_]));
    }
    if (messages.send_bytes[rank_] > 0) {
      std::memcpy(to[rank_], messages.send[rank_], messages.send_bytes[rank_]);
    }
    Run("all-to-all ", what, messages, rows,
        [&](size_t begin, size_t room, const std::vector<const std::byte*>& read) {
          for (size_t r = 0; r < ranks_; ++r) {
            if (r != rank_) CopyPiece(to[r], messages.receive_bytes[r], begin, room, read[r]);
          }
        });
  }

  // Bytes of one message that an outbox takes in a round.
  size_t Room(const Messages& messages) const {
    const size_t parts = messages.same_for_all ? 1 : ranks_ - 1;
    return outboxes_[0]->bytes() / parts / 64 * 64;
  }
  // Where the message from `source` to `target` stands in the outbox of `source`.
  size_t Place(const Messages& messages, size_t source, size_t target) const {
    if (messages.same_for_all) return 0;
    return (target < source ? target : target - 1) * Room(messages);
  }

  // Runs a collective. consume(begin, room, read): bytes [begin, begin + room) of each peer's
  // message, or fewer at its end, stand at read[peer].
  using Consume = std::function<void(size_t, size_t, const std::vector<const std::byte*>&)>;
  void Run(const char* kind, const std::string& what, const Messages& messages,
           std::span<const int64_t> rows, const Consume& consume) {
    const ActivityScope scope(activity(), kind, what, /*waits_for_peers=*/true);
    kind_ = kind;
    if (!failure_.empty()) Fail(what, absl::StrCat("the group has failed before: ", failure_));
    const Clock::time_point begin = Clock::now();
    const size_t room = Room(messages);
    size_t rounds = 1;
    for (size_t r = 0; r < ranks_; ++r) {
      if (r != rank_) rounds = std::max(rounds, (messages.send_bytes[r] + room - 1) / room);
    }
    std::vector<const std::byte*> read(ranks_, nullptr);
    const uint32_t own_rounds = static_cast<uint32_t>(rounds);
    for (size_t round = 0; round < rounds; ++round) {
      Publish(what, messages, round * room, own_rounds);
      for (size_t r = 0; r < ranks_; ++r) {
        if (r == rank_) continue;
        const PeerOutbox& outbox = Await(r, what, begin + timeout_);
        if (round == 0) {
          CheckPeer(r, outbox.header(), messages.receive_bytes[r], what);
          rounds = std::max(rounds, static_cast<size_t>(outbox.header().rounds));
        }
        read[r] = outbox.data() + Place(messages, r, rank_);
      }
      consume(round * room, room, read);
    }
    const std::vector<int64_t> sent(messages.send_bytes.begin(), messages.send_bytes.end());
    Count(what, sent, rows, std::chrono::duration<double>(Clock::now() - begin).count());
  }

  void Publish(const std::string& what, const Messages& messages, size_t begin, uint32_t rounds) {
    ++round_;
    Outbox& outbox = *outboxes_[round_ % 2];
    OutboxHeader& header = outbox.header();
    header.rounds = rounds;
    std::memset(header.name, 0, sizeof(header.name));
    std::memcpy(header.name, what.data(), std::min(what.size(), sizeof(header.name) - 1));
    const size_t room = Room(messages);
    bool written = false;
    for (size_t r = 0; r < ranks_; ++r) {
      if (r == rank_) continue;
      header.bytes_to[r] = messages.send_bytes[r];
      if (messages.same_for_all && written) continue;
      written = true;
      if (begin >= messages.send_bytes[r]) continue;
      std::memcpy(outbox.data() + Place(messages, rank_, r), messages.send[r] + begin,
                  std::min(messages.send_bytes[r] - begin, room));
    }
    outbox.Publish(round_);
  }

  const PeerOutbox& Await(size_t r, const std::string& what, Clock::time_point deadline) {
    const Peer& peer = *peers_[r];
    const PeerOutbox& outbox = peer.outboxes[round_ % 2];
    const Clock::time_point spin_end = Clock::now() + kSpin;
    while (!outbox.Has(round_) && Clock::now() < spin_end) sched_yield();
    while (true) {
      // Read before the looks at the peer: what it published before it left counts.
      const uint32_t seen = outbox.header().round.load(std::memory_order_acquire);
      if (seen == round_) return outbox;
      const bool left = outbox.left(), ended = peer.process.ended();
      if (left || ended) {
        if (outbox.Has(round_)) return outbox;
        Fail(what,
             absl::StrCat("rank ", r, ended ? "'s process has ended" : " has left the group"));
      }
      const Clock::time_point now = Clock::now();
      if (now >= deadline) {
        Fail(what, absl::StrCat(Missing(), " did not come within ", timeout_.count(), " ms"));
      }
      outbox.Sleep(seen, std::min<std::chrono::nanoseconds>(kSleep, deadline - now));
    }
  }

  // Peers that have not published this round: "rank 1", "ranks 1, 3".
  std::string Missing() const {
    std::vector<size_t> missing;
    for (size_t r = 0; r < ranks_; ++r) {
      if (r != rank_ && !peers_[r]->outboxes[round_ % 2].Has(round_)) missing.push_back(r);
    }
    return absl::StrCat(missing.size() == 1 ? "rank " : "ranks ", absl::StrJoin(missing, ", "));
  }

  void CheckPeer(size_t r, const OutboxHeader& header, size_t expected, const std::string& what) {
    const std::string mine = what.substr(0, sizeof(header.name) - 1), theirs = header.name;
    if (theirs != mine) Fail(what, absl::StrCat("rank ", r, " is in another collective: ", theirs));
    if (header.bytes_to[rank_] != expected) {
      Fail(what, absl::StrCat("expected ", expected, " bytes from rank ", r, ", it sends ",
                              header.bytes_to[rank_]));
    }
  }

  [[noreturn]] void Fail(const std::string& what, const std::string& cause) {
    if (failure_.empty()) failure_ = absl::StrCat(what, ": ", cause);
    for (const auto& outbox : outboxes_) outbox->Leave();
    throw CollectiveError(
        absl::StrCat("rank ", rank_, " of ", ranks_, ", ", kind_, what, ": ", cause));
  }

  const size_t rank_, ranks_;
  std::chrono::milliseconds timeout_;
  std::vector<std::unique_ptr<Outbox>> outboxes_;  // two
  std::vector<std::optional<Peer>> peers_;         // [world_size], none for this rank
  uint32_t round_ = 0;
  const char* kind_ = "";  // of the collective that runs: "all-to-all "
  std::string failure_;
};

// What ranks tell each other to find their outboxes.
struct Invitation {
  uint64_t process = 0;
  uint64_t files[2] = {0, 0};
  char names[2][48] = {};
  uint64_t usable = 0;
};

template <typename Record>
std::vector<Record> GatherRecords(Collectives& collectives, const Record& mine,
                                  const std::string& what) {
  static_assert(std::is_trivially_copyable_v<Record>);
  const at::TensorOptions bytes = at::TensorOptions().dtype(at::kByte);
  at::Tensor in = at::empty({static_cast<int64_t>(sizeof(Record))}, bytes);
  at::Tensor out = at::empty({collectives.world_size(), in.size(0)}, bytes);
  std::memcpy(in.mutable_data_ptr(), &mine, sizeof(Record));
  collectives.AllGather(out, in, what);
  std::vector<Record> all(static_cast<size_t>(collectives.world_size()));
  std::memcpy(all.data(), out.const_data_ptr(), all.size() * sizeof(Record));
  return all;
}

std::string RandomName(int rank, int index) {
  std::random_device random;
  return absl::StrCat("diffmoe-", rank, "-", index, "-", absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

// Null when some rank can't; every rank gives the same answer.
std::unique_ptr<Collectives> TrySharedMemory(Collectives& gloo, const CollectivesOptions& options) {
  const size_t ranks = static_cast<size_t>(gloo.world_size()),
               me = static_cast<size_t>(gloo.rank());
  if (ranks > OutboxHeader::kRanks) return nullptr;
  std::string cause = "another rank can't";
  std::vector<std::unique_ptr<Outbox>> outboxes;
  std::vector<std::optional<Peer>> peers(ranks);
  Invitation mine;
  try {
    for (int i = 0; i < 2; ++i) {
      const std::string name = RandomName(gloo.rank(), i);
      outboxes.push_back(std::make_unique<Outbox>(name, options.outbox_bytes));
      mine.files[i] = static_cast<uint64_t>(outboxes.back()->file());
      std::memcpy(mine.names[i], name.data(), std::min(name.size(), sizeof(mine.names[i]) - 1));
    }
    mine.process = static_cast<uint64_t>(getpid());
    mine.usable = 1;
  } catch (const std::system_error& error) {
    cause = error.what();
  }
  const auto all = GatherRecords(gloo, mine, "outboxes");
  uint64_t ready = 1;
  for (const Invitation& invitation : all) ready = std::min(ready, invitation.usable);
  if (ready != 0) {
    try {
      for (size_t r = 0; r < ranks; ++r) {
        if (r == me) continue;
        const pid_t process = static_cast<pid_t>(all[r].process);
        const auto open = [&](int i) {
          return PeerOutbox(process, static_cast<int>(all[r].files[i]), all[r].names[i],
                            options.outbox_bytes);
        };
        peers[r].emplace(Peer{{open(0), open(1)}, ProcessWatch(process)});
      }
    } catch (const std::system_error& error) {
      cause = error.what();
      ready = 0;
    }
  }
  // Also the moment until which every outbox must stay open.
  for (const uint64_t others : GatherRecords(gloo, ready, "readiness of outboxes")) {
    ready = std::min(ready, others);
  }
  if (ready == 0) {
    LogWarning("collectives", "ranks talk over sockets: no shared memory between them",
               {{"rank", me}, {"cause", cause}});
    return nullptr;
  }
  auto collectives = std::make_unique<SharedMemoryCollectives>(gloo.rank(), std::move(outboxes),
                                                               std::move(peers), options.timeout);
  // After it no rank waits for another's Gloo group any more: it may go.
  GatherRecords(*collectives, ready, "first meeting");
  return collectives;
}

}  // namespace

std::unique_ptr<Collectives> MakeCollectives(c10::intrusive_ptr<c10d::Store> store, int rank,
                                             int world_size, const CollectivesOptions& options) {
  if (world_size == 1) return MakeLocalCollectives();
  if (options.outbox_bytes < 64 * static_cast<size_t>(world_size)) {
    throw std::invalid_argument(absl::StrCat("outbox_bytes must be at least 64 per rank, got ",
                                             options.outbox_bytes, " for ", world_size, " ranks"));
  }
  std::unique_ptr<Collectives> gloo = MakeGlooCollectives(
      std::move(store), rank, world_size, options.timeout, options.interface_address);
  std::unique_ptr<Collectives> shared = TrySharedMemory(*gloo, options);
  return shared != nullptr ? std::move(shared) : std::move(gloo);
}

}  // namespace diffmoe
