// Theory of operation. The planes are cut into blocks that fit the first-level cache all together, and the whole program
// runs on one block after the other: a plane is read from memory once, however often the program uses it. Planes often lie
// a power of two apart, so blocks of different planes push each other out of the cache; those that are used again are
// copied to memory of our own first. A plane that is keystream is drawn there and never stored as a whole.

#include "planes.h"

#include <algorithm>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kBlock = 512;
constexpr i64 kGrain = 4096;  // bytes of a plane per task
constexpr std::size_t kAhead = 6;  // steps by which a block is fetched before it is used

// Eight bytes and one, at any address, that may alias anything.
struct __attribute__((packed, may_alias)) Word {
    u64 value;
};
struct __attribute__((may_alias)) Byte {
    u8 value;
};

template <class T>
TV_INLINE void step(Do what, T* to, const T* a, const T* b, i64 count) {
    switch (what) {
        case Do::conjunction:
            for (i64 i = 0; i < count; ++i) to[i].value = static_cast<decltype(T::value)>(a[i].value & b[i].value);
            break;
        case Do::exclusive:
            for (i64 i = 0; i < count; ++i) to[i].value = static_cast<decltype(T::value)>(a[i].value ^ b[i].value);
            break;
        case Do::accumulate:
            for (i64 i = 0; i < count; ++i) {
                to[i].value = static_cast<decltype(T::value)>(to[i].value ^ (a[i].value & b[i].value));
            }
            break;
        case Do::toggle:
            for (i64 i = 0; i < count; ++i) to[i].value = static_cast<decltype(T::value)>(to[i].value ^ a[i].value);
            break;
        case Do::copy:
            for (i64 i = 0; i < count; ++i) to[i].value = a[i].value;
            break;
    }
}

TV_INLINE void run(const std::vector<Step>& program, const std::vector<u8*>& planes, u8* temporaries, i64 begin,
                   i64 end) {
    const std::int32_t real = static_cast<std::int32_t>(planes.size());
    for (i64 at = begin; at < end; at += kBlock) {
        const auto plane = [&](std::int32_t number) {
            return number < real ? planes[static_cast<std::size_t>(number)] + at : temporaries + (number - real) * kBlock;
        };
        const i64 size = std::min(kBlock, end - at);
        const auto fetch = [&](std::int32_t number) {
            if (number >= real) return;
            for (i64 line = 0; line < size; line += 64) __builtin_prefetch(plane(number) + line);
        };
        for (std::size_t i = 0; i < program.size(); ++i) {
            const Step& s = program[i];
            if (i + kAhead < program.size()) {
                const Step& later = program[i + kAhead];
                fetch(later.a);
                if (later.b != later.a) fetch(later.b);
            }
            u8* const to = plane(s.to);
            const u8* const a = plane(s.a);
            const u8* const b = plane(s.b);
            if (size == kBlock) {
                step(s.what, reinterpret_cast<Word*>(to), reinterpret_cast<const Word*>(a),
                     reinterpret_cast<const Word*>(b), kBlock / 8);
                continue;
            }
            const i64 words = size / 8;
            step(s.what, reinterpret_cast<Word*>(to), reinterpret_cast<const Word*>(a),
                 reinterpret_cast<const Word*>(b), words);
            step(s.what, reinterpret_cast<Byte*>(to + words * 8), reinterpret_cast<const Byte*>(a + words * 8),
                 reinterpret_cast<const Byte*>(b + words * 8), size % 8);
        }
    }
}

using Run = void (*)(const std::vector<Step>&, const std::vector<u8*>&, u8*, i64, i64);

void run_portable(const std::vector<Step>& program, const std::vector<u8*>& planes, u8* temporaries, i64 begin,
                  i64 end) {
    run(program, planes, temporaries, begin, end);
}

#ifdef TV_X86
TV_AVX2 void run_avx2(const std::vector<Step>& program, const std::vector<u8*>& planes, u8* temporaries, i64 begin,
                      i64 end) {
    run(program, planes, temporaries, begin, end);
}

TV_AVX512 void run_avx512(const std::vector<Step>& program, const std::vector<u8*>& planes, u8* temporaries, i64 begin,
                          i64 end) {
    run(program, planes, temporaries, begin, end);
}
#endif

Run choose() {
#ifdef TV_X86
    if (cpu().level == Level::avx512) return run_avx512;
    if (cpu().level == Level::avx2) return run_avx2;
#endif
    return run_portable;
}

constexpr i64 kRoom = kBlock + 64;  // of a drawn block, which need not begin at its start

// Where the XOR of a plane's keystreams, bytes [at, at + size), begins in `room`; `more` is room for another.
u8* drawn_block(const Plane& plane, i64 at, i64 size, u8* room, u8* more) {
    u8* total = nullptr;
    for (const Source& source : *plane.sources) {
        const u8* const found = source.bytes(plane.offset + at, size, total == nullptr ? room : more);
        if (total == nullptr) {
            total = room + (found - room);
            continue;
        }
        for (i64 i = 0; i < size; ++i) total[i] = static_cast<u8>(total[i] ^ found[i]);
    }
    return total;
}

}  // namespace

PlaneProgram localised(const PlaneProgram& program) {
    const int planes = program.inputs + program.outputs;
    std::vector<int> uses(static_cast<std::size_t>(planes), 0), place(static_cast<std::size_t>(planes), -1);
    const auto count = [&](std::int32_t plane) {
        if (plane < planes) ++uses[static_cast<std::size_t>(plane)];
    };
    for (const Step& s : program.steps) {
        count(s.to);
        count(s.a);
        if (s.b != s.a) count(s.b);
    }
    PlaneProgram out{{}, program.inputs, program.outputs, program.temporaries};
    for (int plane = 0; plane < planes; ++plane) {
        if (uses[static_cast<std::size_t>(plane)] < 2) continue;
        const int local = planes + out.temporaries++;
        place[static_cast<std::size_t>(plane)] = local;
        if (plane < program.inputs) out.steps.push_back({Do::copy, local, plane, plane});
    }
    const auto moved = [&](std::int32_t plane) {
        return plane < planes && place[static_cast<std::size_t>(plane)] >= 0 ? place[static_cast<std::size_t>(plane)]
                                                                             : plane;
    };
    for (const Step& s : program.steps) out.steps.push_back({s.what, moved(s.to), moved(s.a), moved(s.b)});
    for (int plane = program.inputs; plane < planes; ++plane) {
        const int local = place[static_cast<std::size_t>(plane)];
        if (local >= 0) out.steps.push_back({Do::copy, plane, local, local});
    }
    return out;
}

void run_planes(const PlaneProgram& program, const std::vector<Plane>& planes, i64 bytes, int threads) {
    const Run use = choose();
    const std::size_t inputs = static_cast<std::size_t>(program.inputs);
    i64 drawn = 0;
    bool padded = false;
    for (std::size_t p = 0; p < planes.size(); ++p) {
        if (p < inputs) drawn += planes[p].at == nullptr;
        if (p >= inputs) padded = padded || planes[p].sources != nullptr;
    }
    parallel_ranges(threads, bytes, kGrain, kBlock, [&](i64 begin, i64 end) {
        std::vector<u8> memory(static_cast<std::size_t>(program.temporaries * kBlock + (drawn + 1) * kRoom));
        u8* const rooms = memory.data() + program.temporaries * kBlock;
        std::vector<u8*> places(planes.size());
        for (std::size_t p = 0; p < planes.size(); ++p) places[p] = planes[p].at;
        // Keystream is drawn block by block just before it is used, and added to a block just after it was made.
        const i64 step = drawn == 0 && !padded ? end - begin : kBlock;
        for (i64 at = begin; at < end; at += step) {
            const i64 size = std::min(step, end - at);
            u8* room = rooms;
            for (std::size_t p = 0; drawn != 0 && p < inputs; ++p) {
                if (planes[p].at != nullptr) continue;
                places[p] = drawn_block(planes[p], at, size, room, rooms + drawn * kRoom) - at;
                room += kRoom;
            }
            use(program.steps, places, memory.data(), at, at + size);
            for (std::size_t p = inputs; padded && p < planes.size(); ++p) {
                const Plane& plane = planes[p];
                if (plane.sources != nullptr) blind(*plane.sources, plane.at + at, plane.offset + at, size);
            }
        }
    });
}

}  // namespace tv
