// A named moment at which a crash test may end the process, beside every change of durable state.
//
// The library's KillPoint does nothing. A program of the crash test defines a function of its own
// (tests/crash/armed_kill_point.cc), which the linker takes instead; the programs that are
// installed hold no trace of it.
//
// Names are "part.moment", unique over the whole tree, and listed in tests/crash/kill_points.cc;
// tests/lint checks both. Thread-safe.
#pragma once

namespace diffmoe {

void KillPoint(const char* name);

}  // namespace diffmoe
