// Boolean straight-line programs on packed bit planes: what the tree of masked ANDs computes.
#pragma once

#include <vector>

#include "keystream.h"

namespace tv {

enum class Do : std::int32_t {
    conjunction = 0,  // to = a & b
    exclusive = 1,    // to = a ^ b
    accumulate = 2,   // to ^= a & b
    toggle = 3,       // to ^= a
    copy = 4          // to = a
};

// One operation on whole planes; the planes are numbered, `planes` first, then temporaries.
struct Step {
    Do what;
    std::int32_t to;
    std::int32_t a;
    std::int32_t b;
};

// A program with `inputs` input planes, then `outputs` output planes, then temporaries.
struct PlaneProgram {
    std::vector<Step> steps;
    int inputs;
    int outputs;
    int temporaries;
};

// The same program with every plane that it touches more than once held in a temporary.
PlaneProgram localised(const PlaneProgram& program);

// One plane: in memory, or (an input only) the XOR of sources, drawn block by block; what it holds begins at byte `offset`
// of the sources. An output is in memory and XORed with its sources.
struct Plane {
    u8* at;
    const Pads* sources;
    i64 offset;
};

// Run the program on planes of `bytes` bytes each; temporaries hold no value between calls.
void run_planes(const PlaneProgram& program, const std::vector<Plane>& planes, i64 bytes, int threads);

}  // namespace tv
