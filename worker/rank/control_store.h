// A c10d::Store over the control plane: rank -> worker -> coordinator. Process groups meet through
// it, so no rank opens a rendezvous port, and keys of an older attempt can't be seen (the
// coordinator fences them by epoch).
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "worker/rank/rank_link.h"

namespace diffmoe {

// `link` must outlive the store and its clones. Errors are thrown as c10::Error. Waits end after
// the store's timeout.
c10::intrusive_ptr<c10d::Store> MakeControlStore(RankLink& link, std::chrono::milliseconds timeout);

}  // namespace diffmoe
