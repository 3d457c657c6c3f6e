// Experts that several ranks hold (expert_parallel below the number of ranks): gradients go to the
// owner of each expert, its new weights come back. Nothing to do when every expert is held once.
#pragma once

#include "core/model/parameters.h"
#include "core/parallel/collectives.h"

namespace diffmoe {

// With local rows: the owned experts' gradients become the sums over their replicas, added in rank
// order. Otherwise the owner has computed all rows and nothing is sent.
void SumExpertGradients(Collectives& collectives, const Parameters& gradients);

// The weights of every held expert become those of its owner.
void GatherExpertWeights(Collectives& collectives, const Parameters& parameters);

}  // namespace diffmoe
