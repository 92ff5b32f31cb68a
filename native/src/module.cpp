// The Python module: checks what it is given, releases the GIL, calls a kernel.
//
// A buffer is a torch tensor of int64 in memory, read through its Python attributes (this file includes no torch
// header), or any object with a C-contiguous Python buffer, such as a numpy array. Outputs are allocated by the caller.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <deque>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bits.h"
#include "chunks.h"
#include "cpu.h"
#include "curves.h"
#include "elementwise.h"
#include "keystream.h"
#include "matmul.h"
#include "memory.h"
#include "planes.h"
#include "short.h"
#include "truncate.h"

namespace nb = nanobind;
using namespace tv;

namespace {

struct Torch {
    nb::object tensor, int64;
    nb::str dtype{"dtype"}, is_cpu{"is_cpu"}, is_contiguous{"is_contiguous"}, data_ptr{"data_ptr"}, numel{"numel"},
        shape{"shape"}, stride{"stride"}, contiguous{"contiguous"};

    // Never destroyed: the interpreter may be gone by then.
    static Torch& get() {
        static Torch* const names = [] {
            auto* found = new Torch;
            const nb::module_ torch = nb::module_::import_("torch");
            found->tensor = torch.attr("Tensor");
            found->int64 = torch.attr("int64");
            return found;
        }();
        return *names;
    }
};

nb::object call(nb::handle object, const nb::str& method) {
    PyObject* result = PyObject_CallMethodNoArgs(object.ptr(), method.ptr());
    if (result == nullptr) nb::raise_python_error();
    return nb::steal(result);
}

void require(bool condition, const char* message) {
    if (!condition) throw nb::value_error(message);
}

// A subclass may hold anything: only plain tensors have the memory that they say.
bool is_plain_tensor(nb::handle object) {
    return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == Torch::get().tensor.ptr();
}

void require_tensor(nb::handle object) {
    Torch& t = Torch::get();
    if (!is_plain_tensor(object)) throw nb::type_error("expected a plain torch.Tensor");
    if (!object.attr(t.dtype).is(t.int64) || !nb::cast<bool>(object.attr(t.is_cpu))) {
        throw nb::type_error("expected a tensor of int64 in CPU memory");
    }
}

// Contiguous memory of a tensor or buffer for the length of a call. An input that is not contiguous is copied.
class Flat {
public:
    Flat(nb::handle object, bool writable) {
        if (PyObject_CheckBuffer(object.ptr()) == 0) {  // a tensor is none, and without tensors torch is not needed
            Torch& t = Torch::get();
            require_tensor(object);
            owner_ = nb::borrow(object);
            if (!nb::cast<bool>(call(owner_, t.is_contiguous))) {
                require(!writable, "an output is not contiguous");
                owner_ = call(owner_, t.contiguous);
            }
            data_ = reinterpret_cast<u8*>(nb::cast<std::uintptr_t>(call(owner_, t.data_ptr)));
            bytes_ = nb::cast<i64>(call(owner_, t.numel)) * 8;
            return;
        }
        const int flags = PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) nb::raise_python_error();
        data_ = static_cast<u8*>(view_.buf);
        bytes_ = static_cast<i64>(view_.len);
    }
    ~Flat() {
        if (view_.obj != nullptr) PyBuffer_Release(&view_);
    }
    Flat(Flat&& other) noexcept
        : owner_(std::move(other.owner_)), view_(other.view_), data_(other.data_), bytes_(other.bytes_) {
        other.view_.obj = nullptr;
    }
    Flat(const Flat&) = delete;
    Flat& operator=(const Flat&) = delete;

    u8* bytes() const { return data_; }
    u16* words() const { return reinterpret_cast<u16*>(data_); }
    u64* ring() const { return reinterpret_cast<u64*>(data_); }
    i64 size() const { return bytes_; }

private:
    nb::object owner_;
    Py_buffer view_{};
    u8* data_ = nullptr;
    i64 bytes_ = 0;
};

Flat input(nb::handle object, i64 bytes) {
    Flat flat(object, false);
    require(flat.size() == bytes, "an input has another size than the output calls for");
    return flat;
}

Flat output(nb::handle object, i64 bytes) {
    Flat flat(object, true);
    require(flat.size() == bytes, "an output has another size than its input calls for");
    return flat;
}

// What a call reads and writes besides its first output, kept for its length.
class Held {
public:
    const u64* ring(nb::handle object, i64 bytes) { return keep(input(object, bytes)).ring(); }
    u64* writable_ring(nb::handle object, i64 bytes) { return keep(output(object, bytes)).ring(); }
    // Of an object that may be None.
    const u64* ring_or_null(nb::handle object, i64 bytes) { return object.is_none() ? nullptr : ring(object, bytes); }
    u8* writable_bytes_or_null(nb::handle object, i64 bytes) {
        return object.is_none() ? nullptr : keep(output(object, bytes)).bytes();
    }

    // Memory, or a pair (Keystream, label).
    Source source(nb::handle object, i64 bytes, u64 mask = ~u64{0}) {
        if (PyTuple_CheckExact(object.ptr())) return keystream_of(object, mask);
        return {keep(input(object, bytes)).bytes(), nullptr, 0, 0};
    }

    // A sequence of such pairs.
    static Pads pads(nb::handle sequence, u64 mask = ~u64{0}) {
        Pads out;
        for (nb::handle item : sequence) out.push_back(keystream_of(item, mask));
        return out;
    }

private:
    static Source keystream_of(nb::handle pair, u64 mask) {
        require(cpu().aes, "no AES at this level: keystream has to be in memory");
        require(PyTuple_CheckExact(pair.ptr()) && PyTuple_GET_SIZE(pair.ptr()) == 2, "a keystream is a pair (key, label)");
        const Keystream& key = nb::cast<const Keystream&>(nb::handle(PyTuple_GET_ITEM(pair.ptr(), 0)));
        return {nullptr, &key, nb::cast<u64>(nb::handle(PyTuple_GET_ITEM(pair.ptr(), 1))), mask};
    }
    Flat& keep(Flat&& flat) {
        flats_.push_back(std::move(flat));
        return flats_.back();
    }
    std::vector<Flat> flats_;
};

// --- matrices ----------------------------------------------------------------------------------------------------

struct Shaped {
    Matrix matrix;
    i64 batches, rows, columns;
};

Shaped matrix_of(nb::handle object) {
    Torch& t = Torch::get();
    require_tensor(object);
    const nb::object shape = object.attr(t.shape), strides = call(object, t.stride);
    const std::size_t n = nb::len(shape);
    require(n == 2 || n == 3, "expected a matrix or a batch of matrices");
    const auto at = [](const nb::object& tuple, std::size_t i) { return nb::cast<i64>(tuple[i]); };
    const u64* const data = reinterpret_cast<const u64*>(nb::cast<std::uintptr_t>(call(object, t.data_ptr)));
    return {{data, n == 3 ? at(strides, 0) : 0, at(strides, n - 2), at(strides, n - 1)},
            n == 3 ? at(shape, 0) : 1,
            at(shape, n - 2),
            at(shape, n - 1)};
}

void py_matmul(nb::handle out, nb::sequence terms, bool accumulate, int threads) {
    const Shaped o = matrix_of(out);
    const Flat flat(out, true);
    std::vector<Term> list;
    for (nb::handle item : terms) {
        const Shaped x = matrix_of(item[0]), y = matrix_of(item[1]);
        const nb::object less = item[2];
        Shaped minus{{nullptr, 0, 0, 0}, y.batches, y.rows, y.columns};
        if (!less.is_none()) minus = matrix_of(less);
        require(x.batches == o.batches && y.batches == o.batches && minus.batches == o.batches && x.rows == o.rows &&
                    y.columns == o.columns && minus.columns == o.columns && x.columns == y.rows &&
                    minus.rows == y.rows,
                "shapes do not fit a product");
        list.push_back({x.matrix, y.matrix, minus.matrix, x.columns, nb::cast<bool>(item[3])});
    }
    nb::gil_scoped_release release;
    matmul(flat.ring(), o.batches, o.rows, o.columns, list.data(), static_cast<int>(list.size()), accumulate, threads);
}

// --- keystream ---------------------------------------------------------------------------------------------------

bool py_combine(const Keystream& key, u64 label, int how, nb::handle out, nb::handle in, nb::handle kept, u64 keep,
                int threads) {
    require(how >= 0 && how <= 3, "no such combination");
    const Combine combine = static_cast<Combine>(how);
    const Flat to(out, true);
    const bool words = combine == Combine::add || combine == Combine::subtract;
    require(!words || to.size() % 8 == 0, "expected whole ring elements");
    require(combine == Combine::fill || !in.is_none(), "nothing to combine with");
    std::vector<Flat> more;
    const u8* from = nullptr;
    u8* copy = nullptr;
    if (!in.is_none()) {
        more.push_back(input(in, to.size()));
        from = more.back().bytes();
    }
    if (!kept.is_none()) {
        more.push_back(output(kept, to.size()));
        copy = more.back().bytes();
    }
    nb::gil_scoped_release release;
    return keystream(key, label, combine, to.bytes(), from, copy, keep, to.size(), threads);
}

// --- truncation --------------------------------------------------------------------------------------------------

Divisor divisor_of(u64 divisor) {
    require(divisor > 0 && divisor < (u64{1} << 62), "a divisor is outside (0, 2^62)");
    return Divisor(divisor);
}

void py_divide(nb::handle out, nb::handle x, u64 divisor, int threads) {
    const Flat to(out, true), from = input(x, to.size());
    const Divisor d = divisor_of(divisor);
    nb::gil_scoped_release release;
    divide(to.ring(), from.ring(), to.size() / 8, d, threads);
}

void py_mask_quotients(nb::sequence outs, nb::sequence pads, nb::handle r, nb::handle bit, u64 divisor, int threads) {
    const Flat mask(r, false);
    const bool gated = !bit.is_none();
    const std::size_t n = gated ? 4 : 2;
    require(nb::len(outs) == n && nb::len(pads) == n, "expected two outputs, or four with a bit, and pads for each");
    const Divisor d = divisor_of(divisor);
    Held held;
    u64* to[4] = {nullptr, nullptr, nullptr, nullptr};
    Pads less[4];
    for (std::size_t i = 0; i < n; ++i) {
        to[i] = held.writable_ring(outs[i], mask.size());
        less[i] = Held::pads(pads[i]);
    }
    const u64* const selector = held.ring_or_null(bit, mask.size());
    nb::gil_scoped_release release;
    mask_quotients(to, less, mask.ring(), selector, mask.size() / 8, d, threads);
}

void py_truncate(nb::handle out, nb::handle opened, nb::sequence quotients, nb::sequence tops, nb::handle flip,
                 nb::handle bit, bool first, u64 divisor, int threads) {
    const Flat to(out, true);
    const bool gated = !flip.is_none();
    require(gated == !bit.is_none(), "a gating bit has a flip and a share");
    const std::size_t n = gated ? 2 : 1;
    require(nb::len(quotients) == n && nb::len(tops) == n, "expected one piece each, or two with a bit");
    const Divisor d = divisor_of(divisor);
    Held held;
    const u64* const public_value = held.ring(opened, to.size());
    TruncationPieces pieces{};
    for (std::size_t i = 0; i < n; ++i) {
        pieces.quotient[i] = held.source(quotients[i], to.size());
        pieces.top[i] = held.source(tops[i], to.size());
    }
    pieces.flip = held.ring_or_null(flip, to.size());
    pieces.bit = held.ring_or_null(bit, to.size());
    nb::gil_scoped_release release;
    truncate(to.ring(), public_value, pieces, first, to.size() / 8, d, threads);
}

// --- comparator --------------------------------------------------------------------------------------------------

void py_unary_tables(nb::handle out, nb::sequence pads, nb::handle tops, nb::handle x, bool negate, bool full, u64 keep,
                     int threads) {
    const Flat mask(x, false);
    const i64 count = mask.size() / 8;
    const Flat to = output(out, 32 * count);
    Held held;
    u8* const packed = held.writable_bytes_or_null(tops, (count + 7) / 8);
    const Pads less = Held::pads(pads, keep);
    nb::gil_scoped_release release;
    unary_tables(to.words(), less, packed, mask.ring(), count, negate, full, threads);
}

void py_unary_leaf(nb::handle less, nb::handle equal, nb::handle tops, nb::handle opened, nb::handle tables, u64 keep,
                   const std::vector<u64>& thresholds, bool negate, bool full, bool first, int threads) {
    const Flat public_value(opened, false);
    const i64 count = public_value.size() / 8, bytes = (count + 7) / 8, n = static_cast<i64>(thresholds.size());
    const Flat eq = output(equal, 16 * n * bytes);
    Held held;
    const Source table = held.source(tables, 32 * count, keep);
    const LeafOut out{held.writable_bytes_or_null(less, 16 * n * bytes), eq.bytes(),
                      held.writable_bytes_or_null(tops, n * bytes)};
    nb::gil_scoped_release release;
    unary_leaf(out, public_value.ring(), table, thresholds.data(), n, count, negate, full, first, threads);
}

// --- planes ------------------------------------------------------------------------------------------------------

class Program {
public:
    Program(const std::vector<std::vector<int>>& steps, int n_inputs, int n_outputs, int temporaries)
        : n_inputs_(n_inputs), n_outputs_(n_outputs) {
        PlaneProgram given{{}, n_inputs, n_outputs, temporaries};
        const int planes = n_inputs + n_outputs + temporaries;
        require(n_inputs >= 0 && n_outputs >= 0 && temporaries >= 0, "negative counts");
        for (const auto& s : steps) {
            require(s.size() == 4 && s[0] >= 0 && s[0] <= 4, "a step is (operation, to, a, b)");
            require(s[1] >= n_inputs && s[1] < planes, "a step writes to an input");
            require(s[2] >= 0 && s[2] < planes && s[3] >= 0 && s[3] < planes, "a step reads no plane");
            given.steps.push_back({static_cast<Do>(s[0]), s[1], s[2], s[3]});
        }
        program_ = localised(given);
    }

    // An input is an array of whole planes, or (planes, keystreams) for the XOR of keystreams. `pads` has keystreams for each
    // output, or nothing.
    void run(nb::sequence inputs, nb::sequence outputs, nb::sequence pads, i64 bytes, int threads) const {
        require(bytes > 0, "planes of no bytes");
        std::vector<Flat> held;
        std::deque<Pads> sources;  // whose elements stay where they are
        std::vector<Plane> planes;
        for (nb::handle input : inputs) {
            if (!PyTuple_CheckExact(input.ptr())) {
                collect(input, false, bytes, nullptr, held, planes);
                continue;
            }
            require(PyTuple_GET_SIZE(input.ptr()) == 2, "a drawn input is (planes, keystreams)");
            sources.push_back(Held::pads(nb::handle(PyTuple_GET_ITEM(input.ptr(), 1))));
            require(!sources.back().empty(), "a drawn input without a keystream");
            const i64 count = nb::cast<i64>(nb::handle(PyTuple_GET_ITEM(input.ptr(), 0)));
            for (i64 p = 0; p < count; ++p) planes.push_back({nullptr, &sources.back(), p * bytes});
        }
        require(static_cast<int>(planes.size()) == n_inputs_, "another number of input planes than the program's");
        const std::size_t padded = nb::len(pads);
        require(padded == 0 || padded == nb::len(outputs), "pads for some outputs only");
        std::size_t place = 0;
        for (nb::handle output : outputs) {
            const Pads* less = nullptr;
            if (padded != 0) {
                sources.push_back(Held::pads(pads[place++]));
                less = &sources.back();
            }
            collect(output, true, bytes, less, held, planes);
        }
        require(static_cast<int>(planes.size()) == n_inputs_ + n_outputs_,
                "another number of output planes than the program's");
        nb::gil_scoped_release release;
        run_planes(program_, planes, bytes, threads);
    }

private:
    static void collect(nb::handle array, bool writable, i64 bytes, const Pads* sources, std::vector<Flat>& held,
                        std::vector<Plane>& planes) {
        held.emplace_back(array, writable);
        const Flat& flat = held.back();
        require(flat.size() % bytes == 0, "an array does not hold whole planes");
        for (i64 at = 0; at < flat.size(); at += bytes) planes.push_back({flat.bytes() + at, sources, at});
    }

    PlaneProgram program_;
    int n_inputs_, n_outputs_;
};

// --- bits and elements -------------------------------------------------------------------------------------------

void py_pack_bits(nb::handle out, nb::handle x, i64 rows, i64 count, int threads) {
    require(rows >= 0 && count >= 0, "negative sizes");
    const Flat from = input(x, rows * count), to = output(out, rows * ((count + 7) / 8));
    nb::gil_scoped_release release;
    pack_bits(to.bytes(), from.bytes(), rows, count, threads);
}

void py_pack_top_bits(nb::handle out, nb::handle x, i64 rows, i64 count, int threads) {
    require(rows >= 0 && count >= 0, "negative sizes");
    const Flat from = input(x, 8 * rows * count), to = output(out, rows * ((count + 7) / 8));
    nb::gil_scoped_release release;
    pack_top_bits(to.bytes(), from.ring(), rows, count, threads);
}

void py_unpack_bits(nb::handle out, nb::handle packed, i64 rows, i64 count, int threads) {
    require(rows >= 0 && count >= 0, "negative sizes");
    const Flat from = input(packed, rows * ((count + 7) / 8)), to = output(out, rows * count);
    nb::gil_scoped_release release;
    unpack_bits(to.bytes(), from.bytes(), rows, count, threads);
}

void py_unpack_to_ring(nb::handle out, nb::handle packed, i64 rows, i64 count, int threads) {
    require(rows >= 0 && count >= 0, "negative sizes");
    const Flat from = input(packed, rows * ((count + 7) / 8)), to = output(out, 8 * rows * count);
    nb::gil_scoped_release release;
    unpack_to_ring(to.ring(), from.bytes(), rows, count, threads);
}

void py_select_masks(nb::handle out, nb::sequence pads, nb::handle bit, nb::handle mask, int threads) {
    const Flat to(out, true), b = input(bit, to.size()), m = input(mask, to.size());
    const Pads less = Held::pads(pads);
    nb::gil_scoped_release release;
    select_masks(to.ring(), less, b.ring(), m.ring(), to.size() / 8, threads);
}

void py_select(nb::handle out, nb::handle flip, nb::handle opened, nb::handle bit, nb::handle dealt, nb::handle share,
               int threads) {
    const Flat to(out, true);
    const i64 size = to.size();
    const Flat f = input(flip, size), o = input(opened, size), b = input(bit, size), s = input(share, size);
    Held held;
    const Source d = held.source(dealt, size);
    nb::gil_scoped_release release;
    tv::select(to.ring(), f.ring(), o.ring(), b.ring(), d, s.ring(), size / 8, threads);
}

void py_multiply(nb::handle out, nb::handle dealt, nb::handle x, nb::handle a, nb::handle y, nb::handle b, bool first,
                 int threads) {
    const Flat to(out, true);
    const i64 size = to.size();
    const Flat x_open = input(x, size), a_mask = input(a, size), y_open = input(y, size), b_mask = input(b, size);
    Held held;
    const Source d = held.source(dealt, size);
    nb::gil_scoped_release release;
    multiply(to.ring(), d, x_open.ring(), a_mask.ring(), y_open.ring(), b_mask.ring(), first, size / 8, threads);
}

void py_weigh_bits(nb::handle out, nb::sequence flips, nb::sequence bits, const std::vector<u64>& weights, u64 constant,
                   bool first, int threads) {
    const Flat to(out, true);
    const std::size_t n = weights.size();
    require(nb::len(flips) == n && nb::len(bits) == n, "expected a flip and a share for each weight");
    Held held;
    std::vector<const u64*> f, b;
    for (std::size_t j = 0; j < n; ++j) {
        f.push_back(held.ring(flips[j], to.size()));
        b.push_back(held.ring(bits[j], to.size()));
    }
    nb::gil_scoped_release release;
    weigh_bits(to.ring(), f.data(), b.data(), weights.data(), static_cast<int>(n), constant, first, to.size() / 8, threads);
}

void py_add_pieces(nb::handle out, nb::sequence pieces, int threads) {
    const Flat to(out, true);
    Held held;
    std::vector<const u64*> from;
    for (nb::handle piece : pieces) from.push_back(held.ring(piece, to.size()));
    require(from.size() >= 2, "a sum of fewer than two pieces");
    nb::gil_scoped_release release;
    add_pieces(to.ring(), from.data(), static_cast<int>(from.size()), to.size() / 8, threads);
}

void py_xor_pieces(nb::handle out, nb::sequence pieces, int threads) {
    const Flat to(out, true);
    std::vector<Flat> held;
    std::vector<const u8*> from;
    for (nb::handle piece : pieces) {
        held.push_back(input(piece, to.size()));
        from.push_back(held.back().bytes());
    }
    require(from.size() >= 2, "a XOR of fewer than two pieces");
    nb::gil_scoped_release release;
    xor_pieces(to.bytes(), from.data(), static_cast<int>(from.size()), to.size(), threads);
}

// --- short openings ----------------------------------------------------------------------------------------------

void py_round_share(nb::handle out, nb::handle value, int bits, bool up, int threads) {
    require(bits >= 0 && bits < 64, "a rounding clears fewer bits than an element has");
    const Flat to(out, true), from = input(value, to.size());
    nb::gil_scoped_release release;
    round_share(to.ring(), from.ring(), (u64{1} << bits) - 1, up, to.size() / 8, threads);
}

void py_mask_short(nb::handle low, nb::handle high, nb::handle mask, nb::handle value, nb::handle drawn, int threads) {
    const Flat kept(mask, true);
    const i64 size = kept.size();
    const Flat first = output(low, size / 4), rest = output(high, size / 2), from = input(value, size);
    Held held;
    const Source source = held.source(drawn, size);
    nb::gil_scoped_release release;
    mask_short({first.words(), reinterpret_cast<u32*>(rest.bytes())}, kept.ring(), from.ring(), source, size / 8, threads);
}

void py_add_short(nb::handle out, nb::sequence pieces, int threads) {
    const Flat to(out, true);
    std::deque<Flat> held;
    std::vector<ShortPiece> from;
    for (nb::handle piece : pieces) {
        held.push_back(input(piece[0], to.size() / 4));
        u16* const low = held.back().words();
        held.push_back(input(piece[1], to.size() / 2));
        from.push_back({low, reinterpret_cast<u32*>(held.back().bytes())});
    }
    require(!from.empty(), "a sum of no pieces");
    nb::gil_scoped_release release;
    add_short(to.ring(), from.data(), static_cast<int>(from.size()), to.size() / 8, threads);
}

void py_lift_rows(nb::handle rows, nb::sequence pads, nb::handle gated, nb::handle mask, nb::handle bit, int threads) {
    const Flat from(mask, false);
    const i64 count = from.size() / 8;
    require(gated.is_none() == bit.is_none(), "a gating bit has an output of its own");
    const Flat to = output(rows, (bit.is_none() ? 4 : 6) * count);
    Held held;
    const Pads less = Held::pads(pads);
    u64* const product = gated.is_none() ? nullptr : held.writable_ring(gated, from.size());
    const u64* const selector = held.ring_or_null(bit, from.size());
    nb::gil_scoped_release release;
    lift_rows(to.words(), less, product, from.ring(), selector, count, threads);
}

void py_lift(nb::handle out, nb::handle upper, nb::handle opened, nb::handle rows, nb::handle mask, bool first,
             int threads) {
    const Flat to(out, true), words = output(upper, to.size() / 4);
    Held held;
    const LiftPieces pieces{held.ring(opened, to.size()), held.source(rows, to.size() / 2), held.ring(mask, to.size()),
                            first};
    nb::gil_scoped_release release;
    lift(to.ring(), words.words(), pieces, to.size() / 8, threads);
}

void py_lift_gated(nb::handle out, nb::handle opened, nb::handle rows, nb::handle mask, nb::handle dealt, nb::handle flip,
                   nb::handle bit, bool first, int threads) {
    const Flat to(out, true);
    const i64 size = to.size();
    Held held;
    const LiftPieces pieces{held.ring(opened, size), held.source(rows, size / 8 * 6), held.ring(mask, size), first};
    const Source piece = held.source(dealt, size);
    const u64* const flipped = held.ring(flip, size);
    const u64* const share = held.ring(bit, size);
    nb::gil_scoped_release release;
    lift_gated(to.ring(), pieces, piece, flipped, share, size / 8, threads);
}

void py_complete(nb::handle out, nb::handle opened, nb::handle upper, int threads) {
    const Flat to(out, true), from = input(opened, to.size()), words = input(upper, to.size() / 4);
    nb::gil_scoped_release release;
    complete(to.ring(), from.ring(), words.words(), to.size() / 8, threads);
}

void py_linear(nb::handle out, nb::sequence values, const std::vector<u64>& factors, u64 constant, int threads) {
    const Flat to(out, true);
    Held held;
    std::vector<const u64*> from;
    for (nb::handle value : values) from.push_back(held.ring(value, to.size()));
    require(!from.empty() && from.size() == factors.size(), "expected a factor for each of one or more values");
    nb::gil_scoped_release release;
    tv::combine(to.ring(), from.data(), factors.data(), static_cast<int>(from.size()), constant, to.size() / 8, threads);
}

void py_bit_to_ring(nb::handle out, nb::handle flip, nb::handle bit, bool first, int threads) {
    const Flat to(out, true), f = input(flip, to.size()), b = input(bit, to.size());
    nb::gil_scoped_release release;
    bit_to_ring(to.ring(), f.ring(), b.ring(), first, to.size() / 8, threads);
}

// --- curves ------------------------------------------------------------------------------------------------------

// Tables and the walk through the harmonics of one set of frequencies, made once.
class Trigonometry {
public:
    Trigonometry(nb::sequence tables, u64 slope, int bits, const std::vector<std::tuple<int, int, int>>& steps,
                 const std::vector<int>& steps_before, const std::vector<int>& slot, int slots)
        : bits_(bits) {
        require(nb::len(tables) == 4, "expected four tables");
        const u64* found[4];
        for (std::size_t i = 0; i < 4; ++i) {
            flats_.push_back(input(tables[i], 8 << 11));
            found[i] = flats_.back().ring();
        }
        tables_ = {found[0], found[1], found[2], found[3], slope};
        require(bits >= 3 && bits <= 62, "a turn has 3 to 62 bits");
        require(slots >= 1 && steps_before.size() == slot.size(), "a walk without slots");
        const auto within = [&](int s) { return s >= 0 && s < slots; };
        for (const auto& [to, a, b] : steps) {
            require(within(to) && within(a) && within(b) && to != a && to != b, "a step leaves the slots");
            harmonics_.steps.push_back({to, a, b});
        }
        for (std::size_t f = 0; f < slot.size(); ++f) {
            require(within(slot[f]) && steps_before[f] >= (f == 0 ? 0 : steps_before[f - 1]) &&
                        steps_before[f] <= static_cast<int>(steps.size()),
                    "a frequency is out of order");
        }
        harmonics_.steps_before = steps_before;
        harmonics_.slot = slot;
        harmonics_.slots = slots;
    }

    Trigonometry(const Trigonometry&) = delete;
    Trigonometry& operator=(const Trigonometry&) = delete;

    void masks(nb::sequence outs, nb::sequence pads, nb::handle mask, nb::handle bit, int threads) const {
        const Flat x(mask, false);
        const std::size_t n = harmonics_.slot.size() * (bit.is_none() ? 2 : 4);
        require(nb::len(outs) == n && nb::len(pads) == n, "expected two outputs a frequency, or four with a bit");
        Held held;
        std::vector<u64*> to;
        std::vector<Pads> less;
        for (std::size_t k = 0; k < n; ++k) {
            to.push_back(held.writable_ring(outs[k], x.size()));
            less.push_back(Held::pads(pads[k]));
        }
        const u64* const selector = held.ring_or_null(bit, x.size());
        nb::gil_scoped_release release;
        series_masks(to, less, x.ring(), selector, angle(), x.size() / 8, threads);
    }

    void share(nb::handle out, nb::handle opened, nb::sequence pieces, nb::handle flip, nb::handle bit, bool first,
               const std::vector<u64>& cosines, const std::vector<u64>& sines, u64 constant, int threads) const {
        const Flat to(out, true);
        const std::size_t n = harmonics_.slot.size();
        require(flip.is_none() == bit.is_none(), "a gating bit has a flip and a share");
        require(cosines.size() == n && sines.size() == n, "expected one coefficient a frequency");
        require(nb::len(pieces) == n * (flip.is_none() ? 2 : 4), "expected two pieces a frequency, or four with a bit");
        Held held;
        std::vector<Source> from;
        for (nb::handle piece : pieces) from.push_back(held.source(piece, to.size()));
        const u64 *const x = held.ring(opened, to.size()), *const f = held.ring_or_null(flip, to.size()),
                  *const b = held.ring_or_null(bit, to.size());
        nb::gil_scoped_release release;
        series(to.ring(), x, from, f, b, first, {cosines, sines, constant}, angle(), to.size() / 8, threads);
    }

private:
    Angle angle() const { return {tables_, bits_, harmonics_}; }

    std::vector<Flat> flats_;
    TrigTables tables_{};
    Harmonics harmonics_;
    int bits_;
};

class Exponential {
public:
    Exponential(nb::handle mantissas, nb::handle shifts, nb::handle fine, int step_bits, int linear_bits, u64 slope, i64 low,
                i64 high) {
        require(0 <= linear_bits && linear_bits <= step_bits && step_bits < 62 && low < high, "tables do not fit");
        const i64 last = (high - low) >> step_bits;
        flats_.emplace_back(mantissas, false);
        flats_.emplace_back(shifts, false);
        flats_.push_back(input(fine, i64{8} << (step_bits - linear_bits)));
        require(flats_[0].size() == flats_[1].size() && flats_[0].size() >= 8 * (last + 1), "tables are too short");
        for (i64 i = 0; i <= last; ++i) require(flats_[1].ring()[i] < 64, "a shift is out of range");
        tables_ = {flats_[0].ring(), flats_[1].ring(), flats_[2].ring(), step_bits, linear_bits, slope, low, high};
    }

    Exponential(const Exponential&) = delete;
    Exponential& operator=(const Exponential&) = delete;

    void masks(nb::sequence outs, nb::sequence pads, nb::handle mask, nb::handle bit, int bits, int threads) const {
        const Flat x(mask, false);
        const std::size_t n = bit.is_none() ? 2 : 4;
        require(bits >= 1 && bits <= 62, "an interval has 1 to 62 bits");
        require(nb::len(outs) == n && nb::len(pads) == n, "expected two outputs, or four with a bit, and pads for each");
        Held held;
        u64* to[4] = {nullptr, nullptr, nullptr, nullptr};
        Pads less[4];
        for (std::size_t k = 0; k < n; ++k) {
            to[k] = held.writable_ring(outs[k], x.size());
            less[k] = Held::pads(pads[k]);
        }
        const u64* const selector = held.ring_or_null(bit, x.size());
        nb::gil_scoped_release release;
        exponential_masks(to, less, x.ring(), selector, bits, tables_, x.size() / 8, threads);
    }

    void share(nb::handle out, nb::handle opened, nb::sequence pieces, nb::handle flip, int bits, int threads) const {
        const Flat to(out, true);
        const std::size_t n = flip.is_none() ? 2 : 4;
        require(bits >= 1 && bits <= 62, "an interval has 1 to 62 bits");
        require(nb::len(pieces) == n, "expected two pieces, or four with a bit");
        Held held;
        Source from[4]{};
        for (std::size_t k = 0; k < n; ++k) from[k] = held.source(pieces[k], to.size());
        const u64 *const x = held.ring(opened, to.size()), *const f = held.ring_or_null(flip, to.size());
        nb::gil_scoped_release release;
        exponential(to.ring(), x, from, f, bits, tables_, to.size() / 8, threads);
    }

private:
    std::vector<Flat> flats_;
    ExponentialTables tables_{};
};

std::string level_name() {
    static const char* const names[] = {"portable", "avx2", "avx512"};
    return names[static_cast<int>(cpu().level)];
}

bool py_set_level(const std::string& name) {
    if (name == "portable") return set_level(Level::portable);
    if (name == "avx2") return set_level(Level::avx2);
    if (name == "avx512") return set_level(Level::avx512);
    throw nb::value_error("a level is portable, avx2 or avx512");
}

}  // namespace

// A Block as a Python buffer: what a tensor or array made from it keeps alive.
int block_buffer(PyObject* self, Py_buffer* view, int flags) {
    const Block& block = *nb::inst_ptr<Block>(self);
    return PyBuffer_FillInfo(view, self, block.data(), static_cast<Py_ssize_t>(block.size()), 0, flags);
}

PyType_Slot kBlockSlots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(block_buffer)}, {0, nullptr}};

NB_MODULE(_core, m) {
    nb::set_leak_warnings(false);  // streams and cached programs live until the process ends
    m.def("level", &level_name);
    m.def("set_level", &py_set_level, nb::arg("name"));
    m.def("has_aes", [] { return cpu().aes; });
    m.def("has_vaes", [] { return cpu().vaes; });

    nb::class_<Keystream>(m, "Keystream")
        .def("__init__",
             [](Keystream* self, nb::bytes key) {
                 require(key.size() == 16, "an AES-128 key has 16 bytes");
                 u8 copy[16];
                 std::memcpy(copy, key.c_str(), 16);
                 new (self) Keystream(copy);
                 std::memset(copy, 0, 16);
                 __asm__ __volatile__("" : : "r"(copy) : "memory");
             })
        .def("combine", &py_combine, nb::arg("label"), nb::arg("how"), nb::arg("out"), nb::arg("in_").none(),
             nb::arg("kept").none(), nb::arg("keep"), nb::arg("threads"))
        .def("__repr__", [](const Keystream&) { return "<Keystream>"; });

    nb::class_<Block>(m, "Block", nb::type_slots(kBlockSlots))
        .def("__init__",
             [](Block* self, i64 bytes) {
                 require(bytes > 0 && bytes < (i64{1} << 46), "a block has a size");
                 new (self) Block(bytes);
             },
             nb::arg("n_bytes"))
        .def("__repr__", [](const Block&) { return "<Block>"; });
    m.def("idle_bytes", &idle_bytes);

    m.def("matmul", &py_matmul, nb::arg("out"), nb::arg("terms"), nb::arg("accumulate"), nb::arg("threads"));
    m.def("divide", &py_divide, nb::arg("out"), nb::arg("x"), nb::arg("divisor"), nb::arg("threads"));
    m.def("mask_quotients", &py_mask_quotients, nb::arg("outs"), nb::arg("pads"), nb::arg("r"), nb::arg("bit").none(),
          nb::arg("divisor"), nb::arg("threads"));
    m.def("truncate", &py_truncate, nb::arg("out"), nb::arg("opened"), nb::arg("quotients"), nb::arg("tops"),
          nb::arg("flip").none(), nb::arg("bit").none(), nb::arg("first"), nb::arg("divisor"), nb::arg("threads"));
    m.def("unary_tables", &py_unary_tables, nb::arg("out"), nb::arg("pads"), nb::arg("tops").none(), nb::arg("x"),
          nb::arg("negate"), nb::arg("full"), nb::arg("keep"), nb::arg("threads"));
    m.def("unary_leaf", &py_unary_leaf, nb::arg("less").none(), nb::arg("equal"), nb::arg("tops").none(),
          nb::arg("opened"), nb::arg("tables"), nb::arg("keep"), nb::arg("thresholds"), nb::arg("negate"), nb::arg("full"),
          nb::arg("first"), nb::arg("threads"));

    nb::class_<Program>(m, "Program")
        .def(nb::init<const std::vector<std::vector<int>>&, int, int, int>(), nb::arg("steps"), nb::arg("n_inputs"),
             nb::arg("n_outputs"), nb::arg("temporaries"))
        .def("run", &Program::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("pads"), nb::arg("plane_bytes"),
             nb::arg("threads"));

    nb::class_<Trigonometry>(m, "Trigonometry")
        .def(nb::init<nb::sequence, u64, int, const std::vector<std::tuple<int, int, int>>&, const std::vector<int>&,
                      const std::vector<int>&, int>(),
             nb::arg("tables"), nb::arg("slope"), nb::arg("bits"), nb::arg("steps"), nb::arg("steps_before"),
             nb::arg("slot"), nb::arg("slots"))
        .def("masks", &Trigonometry::masks, nb::arg("outs"), nb::arg("pads"), nb::arg("mask"), nb::arg("bit").none(),
             nb::arg("threads"))
        .def("share", &Trigonometry::share, nb::arg("out"), nb::arg("opened"), nb::arg("pieces"), nb::arg("flip").none(),
             nb::arg("bit").none(), nb::arg("first"), nb::arg("cosines"), nb::arg("sines"), nb::arg("constant"),
             nb::arg("threads"));

    nb::class_<Exponential>(m, "Exponential")
        .def(nb::init<nb::handle, nb::handle, nb::handle, int, int, u64, i64, i64>(), nb::arg("mantissas"),
             nb::arg("shifts"), nb::arg("fine"), nb::arg("step_bits"), nb::arg("linear_bits"), nb::arg("slope"),
             nb::arg("low"), nb::arg("high"))
        .def("masks", &Exponential::masks, nb::arg("outs"), nb::arg("pads"), nb::arg("mask"), nb::arg("bit").none(),
             nb::arg("bits"), nb::arg("threads"))
        .def("share", &Exponential::share, nb::arg("out"), nb::arg("opened"), nb::arg("pieces"), nb::arg("flip").none(),
             nb::arg("bits"), nb::arg("threads"));

    m.def("pack_bits", &py_pack_bits, nb::arg("out"), nb::arg("x"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("pack_top_bits", &py_pack_top_bits, nb::arg("out"), nb::arg("x"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("unpack_bits", &py_unpack_bits, nb::arg("out"), nb::arg("packed"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("unpack_to_ring", &py_unpack_to_ring, nb::arg("out"), nb::arg("packed"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("select_masks", &py_select_masks, nb::arg("out"), nb::arg("pads"), nb::arg("bit"), nb::arg("mask"),
          nb::arg("threads"));
    m.def("weigh_bits", &py_weigh_bits, nb::arg("out"), nb::arg("flips"), nb::arg("bits"), nb::arg("weights"),
          nb::arg("constant"), nb::arg("first"), nb::arg("threads"));
    m.def("add_pieces", &py_add_pieces, nb::arg("out"), nb::arg("pieces"), nb::arg("threads"));
    m.def("xor_pieces", &py_xor_pieces, nb::arg("out"), nb::arg("pieces"), nb::arg("threads"));
    m.def("select", &py_select, nb::arg("out"), nb::arg("flip"), nb::arg("opened"), nb::arg("bit"), nb::arg("dealt"),
          nb::arg("share"), nb::arg("threads"));
    m.def("multiply", &py_multiply, nb::arg("out"), nb::arg("dealt"), nb::arg("x"), nb::arg("a"), nb::arg("y"),
          nb::arg("b"), nb::arg("first"), nb::arg("threads"));
    m.def("round_share", &py_round_share, nb::arg("out"), nb::arg("value"), nb::arg("bits"), nb::arg("up"),
          nb::arg("threads"));
    m.def("mask_short", &py_mask_short, nb::arg("low"), nb::arg("high"), nb::arg("mask"), nb::arg("value"),
          nb::arg("drawn"), nb::arg("threads"));
    m.def("add_short", &py_add_short, nb::arg("out"), nb::arg("pieces"), nb::arg("threads"));
    m.def("lift_rows", &py_lift_rows, nb::arg("rows"), nb::arg("pads"), nb::arg("gated").none(), nb::arg("mask"),
          nb::arg("bit").none(), nb::arg("threads"));
    m.def("lift", &py_lift, nb::arg("out"), nb::arg("upper"), nb::arg("opened"), nb::arg("rows"), nb::arg("mask"),
          nb::arg("first"), nb::arg("threads"));
    m.def("lift_gated", &py_lift_gated, nb::arg("out"), nb::arg("opened"), nb::arg("rows"), nb::arg("mask"),
          nb::arg("dealt"), nb::arg("flip"), nb::arg("bit"), nb::arg("first"), nb::arg("threads"));
    m.def("complete", &py_complete, nb::arg("out"), nb::arg("opened"), nb::arg("upper"), nb::arg("threads"));
    m.def("linear", &py_linear, nb::arg("out"), nb::arg("values"), nb::arg("factors"), nb::arg("constant"),
          nb::arg("threads"));
    m.def("bit_to_ring", &py_bit_to_ring, nb::arg("out"), nb::arg("flip"), nb::arg("bit"), nb::arg("first"),
          nb::arg("threads"));
}
