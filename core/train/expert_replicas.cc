#include "core/train/expert_replicas.h"

#include <ATen/ops/empty.h>

#include <numeric>

namespace diffmoe {
namespace {

// The parts of the expert buffer that `owner` owns, in layout order, one after the other.
std::vector<at::Tensor> PartsOf(const Parameters& parameters, int64_t owner) {
  const ExpertRange owned = parameters.layout().placement().owned(owner);
  std::vector<at::Tensor> parts;
  for (const ParameterPlace& place : parameters.layout().experts()) {
    if (!owned.contains(place.info->expert)) continue;
    parts.push_back(parameters.experts().narrow(0, place.offset, place.info->elements()));
  }
  return parts;
}

int64_t Elements(const std::vector<at::Tensor>& parts) {
  return std::accumulate(parts.begin(), parts.end(), int64_t{0},
                         [](int64_t sum, const at::Tensor& part) { return sum + part.numel(); });
}

// Copies between parts and consecutive elements of `flat` from `offset`; returns the end.
int64_t Pack(const std::vector<at::Tensor>& parts, const at::Tensor& flat, int64_t offset) {
  for (const at::Tensor& part : parts) {
    flat.narrow(0, offset, part.numel()).copy_(part);
    offset += part.numel();
  }
  return offset;
}
int64_t Unpack(const at::Tensor& flat, int64_t offset, std::vector<at::Tensor>& parts, bool add) {
  for (at::Tensor& part : parts) {
    const at::Tensor values = flat.narrow(0, offset, part.numel());
    if (add) {
      part.add_(values);
    } else {
      part.copy_(values);
    }
    offset += part.numel();
  }
  return offset;
}

}  // namespace

void SumExpertGradients(Collectives& collectives, const Parameters& gradients) {
  const ExpertPlacement& placement = gradients.layout().placement();
  if (!placement.local_rows() || gradients.experts().numel() == 0) return;
  const int64_t first = placement.first_replica(), replicas = placement.replicas();
  std::vector<at::Tensor> mine = PartsOf(gradients, placement.rank());
  std::vector<int64_t> send(static_cast<size_t>(placement.world_size()), 0), receive = send;
  at::Tensor out = at::empty({gradients.experts().numel()}, gradients.experts().options());
  int64_t end = 0;
  for (int64_t r = first; r < first + replicas; ++r) {
    const int64_t begin = end;
    end = Pack(PartsOf(gradients, r), out, begin);
    send[static_cast<size_t>(r)] = end - begin;
    receive[static_cast<size_t>(r)] = Elements(mine);
  }
  at::Tensor in = at::empty({Elements(mine) * replicas}, out.options());
  collectives.AllToAllRows(in, out.narrow(0, 0, end), receive, send, "expert gradient sum");
  for (int64_t r = 0; r < replicas; ++r) Unpack(in, r * Elements(mine), mine, /*add=*/r > 0);
}

void GatherExpertWeights(Collectives& collectives, const Parameters& parameters) {
  const ExpertPlacement& placement = parameters.layout().placement();
  if (placement.replicas() == 1 || parameters.experts().numel() == 0) return;
  const int64_t first = placement.first_replica(), replicas = placement.replicas();
  const std::vector<at::Tensor> mine = PartsOf(parameters, placement.rank());
  std::vector<int64_t> send(static_cast<size_t>(placement.world_size()), 0), receive = send;
  at::Tensor out = at::empty({Elements(mine) * replicas}, parameters.experts().options());
  int64_t end = 0, total = 0;
  for (int64_t r = first; r < first + replicas; ++r) {
    end = Pack(mine, out, end);
    send[static_cast<size_t>(r)] = Elements(mine);
    receive[static_cast<size_t>(r)] = Elements(PartsOf(parameters, r));
    total += receive[static_cast<size_t>(r)];
  }
  at::Tensor in = at::empty({total}, out.options());
  collectives.AllToAllRows(in, out, receive, send, "expert weight gather");
  int64_t offset = 0;
  for (int64_t r = first; r < first + replicas; ++r) {
    std::vector<at::Tensor> parts = PartsOf(parameters, r);
    offset = Unpack(in, offset, parts, /*add=*/false);
  }
}

}  // namespace diffmoe
