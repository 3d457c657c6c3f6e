// Collectives over c10d's Gloo backend, on CPU tensors.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>

#include "core/parallel/collectives.h"

namespace c10d {
class Store;
}

namespace diffmoe {

// Joins the group: blocks until all `world_size` ranks are there or `timeout` has passed
// (CollectiveError). `timeout` is also the limit of every collective. Ranks meet on the loopback
// interface unless `interface_address` names another.
std::unique_ptr<Collectives> MakeGlooCollectives(
    c10::intrusive_ptr<c10d::Store> store, int rank, int world_size,
    std::chrono::milliseconds timeout, const std::string& interface_address = "127.0.0.1");

}  // namespace diffmoe
