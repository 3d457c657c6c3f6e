// Prints docs/metrics.md.
#include <iostream>

#include "core/metrics/reference.h"

int main() { std::cout << diffmoe::metrics::Reference(); }
