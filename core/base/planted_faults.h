// Faults that the mutation test plants one at a time, to show that the proofs of correctness can
// fail. Outside that test `Planted` is a constant false.
#pragma once

namespace diffmoe {

enum class Fault {
  kNone,
  kTieOrderReversed,          // equal scores: the larger token id first
  kTokensOfOneRankDropped,    // rows of the last rank are zeros at the expert
  kExpertGradientTimesRanks,  // gradients of experts scaled by the number of ranks
  kThresholdFromLocalPool,    // quantile over the tokens of one rank
  kPredictorLeaksIntoTrunk,   // the predictor's gradient reaches the tokens
};

#ifdef DIFFMOE_PLANTED_FAULTS
extern Fault planted_fault;
inline bool Planted(Fault fault) { return planted_fault == fault; }
#else
constexpr bool Planted(Fault) { return false; }
#endif

}  // namespace diffmoe
