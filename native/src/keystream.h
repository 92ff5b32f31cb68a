// AES-128 in counter mode, combined with what it is for.
#pragma once

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

}  // namespace tv
