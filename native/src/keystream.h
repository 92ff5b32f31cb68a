// AES-128 in counter mode, combined with what it is for.
#pragma once

#include <vector>

#include "cpu.h"

namespace tv {

// One key, expanded. The destructor wipes it.
class Keystream {
public:
    explicit Keystream(const u8 (&key)[16]);
    ~Keystream();
    Keystream(const Keystream&) = delete;
    Keystream& operator=(const Keystream&) = delete;

    const u8* round_keys() const { return round_keys_; }

private:
    alignas(64) u8 round_keys_[11 * 16];
};

enum class Combine {
    fill,      // out = ks
    add,       // out = in + ks, in words of 64 bits
    subtract,  // out = in - ks
    exclusive  // out = in ^ ks
};

// Apply the keystream of `label` (8 big-endian bytes, then 8 of the block index from 0) to `bytes` bytes. Every 64 bits
// of the keystream are first ANDed with `keep`. `kept`, if not null, receives the keystream itself. `in` may be `out`.
// For add and subtract, `bytes` is a multiple of 8. Returns false, having done nothing, without AES in `cpu()`.
bool keystream(const Keystream& key, u64 label, Combine how, u8* out, const u8* in, u8* kept, u64 keep, i64 bytes,
               int threads);

// An operand in memory, or the keystream of a label, which is then never stored as a whole.
struct Source {
    const u8* at;          // null for a keystream
    const Keystream* key;  // calls for AES in `cpu()`
    u64 label;
    u64 keep;  // ANDed with every 64 bits of the keystream

    static constexpr i64 kSlack = 16;

    // Bytes [begin, begin + size): where they lie, or drawn into `scratch` of size + kSlack bytes.
    const u8* bytes(i64 begin, i64 size, u8* scratch) const;
    const u64* ring(i64 begin, i64 size, u64* scratch) const {
        return reinterpret_cast<const u64*>(bytes(8 * begin, 8 * size, reinterpret_cast<u8*>(scratch)));
    }
};

// What is taken off one output: the keystreams of the parties that do not receive a correction.
using Pads = std::vector<Source>;

// out[begin .. end) -= every pad, in ring elements; begin is even.
void take_off(const Pads& pads, u64* out, i64 begin, i64 end);

// `out`, which holds bytes [begin, begin + size) of something, ^= the same bytes of every pad.
void blind(const Pads& pads, u8* out, i64 begin, i64 size);

// Combine bytes [begin, end) of `out` with the same bytes of the keystream; begin is a multiple of 16, and for add and
// subtract end of 8. `out` is where byte 0 would lie.
void combine_range(const Source& source, Combine how, u8* out, i64 begin, i64 end);

}  // namespace tv
