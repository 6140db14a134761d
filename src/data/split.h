// How a set is divided into train, valid and test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace megalodon::data {

/// Throws UsageError unless the fractions of valid and test leave something to train on.
void check_fractions(double valid, double test);

/// The part of the document or example of that number, fractions[i] of them part i: a function of the number and the
/// seed, so that it does not depend on the machine, the tokenizer or what they say. Part 0 takes what no other draws.
size_t draw_part(uint64_t seed, uint64_t number, std::span<const double> fractions);

}  // namespace megalodon::data
