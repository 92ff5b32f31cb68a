// The Python module: checks what it is given, releases the GIL, calls a kernel.
//
// A buffer is a torch tensor of int64 in memory, read through its Python attributes (this file includes no torch
// header), or any object with a C-contiguous Python buffer, such as a numpy array. Outputs are allocated by the caller.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <string>
#include <vector>

#include "bits.h"
#include "chunks.h"
#include "cpu.h"
#include "elementwise.h"
#include "keystream.h"
#include "matmul.h"
#include "planes.h"
#include "truncate.h"

namespace nb = nanobind;
using namespace tv;

namespace {

struct Torch {
    nb::object tensor, int64;
    nb::str dtype{"dtype"}, is_cpu{"is_cpu"}, is_contiguous{"is_contiguous"}, data_ptr{"data_ptr"}, numel{"numel"},
        shape{"shape"}, stride{"stride"};

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

bool is_tensor(nb::handle object) {
    static PyObject* name = PyUnicode_InternFromString("data_ptr");
    return PyObject_HasAttr(object.ptr(), name) == 1;
}

nb::object call(nb::handle object, const nb::str& method) {
    PyObject* result = PyObject_CallMethodNoArgs(object.ptr(), method.ptr());
    if (result == nullptr) nb::raise_python_error();
    return nb::steal(result);
}

void require(bool condition, const char* message) {
    if (!condition) throw nb::value_error(message);
}

void require_tensor(nb::handle object) {
    Torch& t = Torch::get();
    // A subclass may hold anything: only plain tensors have the memory that they say.
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != t.tensor.ptr()) {
        throw nb::type_error("expected a plain torch.Tensor");
    }
    if (!object.attr(t.dtype).is(t.int64) || !nb::cast<bool>(object.attr(t.is_cpu))) {
        throw nb::type_error("expected a tensor of int64 in CPU memory");
    }
}

// Contiguous memory of a tensor or buffer for the length of a call.
class Flat {
public:
    Flat(nb::handle object, bool writable) {
        if (is_tensor(object)) {
            Torch& t = Torch::get();
            require_tensor(object);
            require(nb::cast<bool>(call(object, t.is_contiguous)), "expected a contiguous tensor");
            data_ = reinterpret_cast<u8*>(nb::cast<std::uintptr_t>(call(object, t.data_ptr)));
            bytes_ = nb::cast<i64>(call(object, t.numel)) * 8;
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
    Flat(Flat&& other) noexcept : view_(other.view_), data_(other.data_), bytes_(other.bytes_) {
        other.view_.obj = nullptr;
    }
    Flat(const Flat&) = delete;
    Flat& operator=(const Flat&) = delete;

    u8* bytes() const { return data_; }
    u16* words() const { return reinterpret_cast<u16*>(data_); }
    u64* ring() const { return reinterpret_cast<u64*>(data_); }
    i64 size() const { return bytes_; }

private:
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

void py_mask_quotients(nb::sequence outs, nb::handle r, nb::handle bit, u64 divisor, int threads) {
    const Flat mask(r, false);
    const bool gated = !bit.is_none();
    require(nb::len(outs) == (gated ? 4 : 2), "expected two outputs, or four with a bit");
    const Divisor d = divisor_of(divisor);
    std::vector<Flat> held;
    u64* to[4] = {nullptr, nullptr, nullptr, nullptr};
    for (nb::handle out : outs) {
        held.push_back(output(out, mask.size()));
        to[held.size() - 1] = held.back().ring();
    }
    if (gated) held.push_back(input(bit, mask.size()));
    const u64* const selector = gated ? held.back().ring() : nullptr;
    nb::gil_scoped_release release;
    mask_quotients(to, mask.ring(), selector, mask.size() / 8, d, threads);
}

void py_truncate(nb::handle out, nb::handle opened, nb::sequence quotients, nb::sequence tops, nb::handle flip,
                 nb::handle bit, bool first, u64 divisor, int threads) {
    const Flat to(out, true), public_value = input(opened, to.size());
    const bool gated = !flip.is_none();
    require(gated == !bit.is_none(), "a gating bit has a flip and a share");
    const std::size_t n = gated ? 2 : 1;
    require(nb::len(quotients) == n && nb::len(tops) == n, "expected one piece each, or two with a bit");
    const Divisor d = divisor_of(divisor);
    std::vector<Flat> held;
    const auto take = [&](nb::handle object) {
        held.push_back(input(object, to.size()));
        return static_cast<const u64*>(held.back().ring());
    };
    TruncationPieces pieces{};
    for (std::size_t i = 0; i < n; ++i) {
        pieces.quotient[i] = take(quotients[i]);
        pieces.top[i] = take(tops[i]);
    }
    if (gated) {
        pieces.flip = take(flip);
        pieces.bit = take(bit);
    }
    nb::gil_scoped_release release;
    truncate(to.ring(), public_value.ring(), pieces, first, to.size() / 8, d, threads);
}

// --- comparator --------------------------------------------------------------------------------------------------

void py_unary_tables(nb::handle out, nb::handle tops, nb::handle x, bool negate, bool full, int threads) {
    const Flat mask(x, false);
    const i64 count = mask.size() / 8;
    const Flat to = output(out, 32 * count);
    std::vector<Flat> more;
    if (!tops.is_none()) more.push_back(output(tops, (count + 7) / 8));
    u8* const packed = more.empty() ? nullptr : more.back().bytes();
    nb::gil_scoped_release release;
    unary_tables(to.words(), packed, mask.ring(), count, negate, full, threads);
}

void py_unary_leaf(nb::handle less, nb::handle equal, nb::handle tops, nb::handle opened, nb::handle tables,
                   const std::vector<u64>& thresholds, bool negate, bool full, bool first, int threads) {
    const Flat public_value(opened, false);
    const i64 count = public_value.size() / 8, bytes = (count + 7) / 8, n = static_cast<i64>(thresholds.size());
    const Flat table = input(tables, 32 * count), eq = output(equal, 16 * n * bytes);
    std::vector<Flat> more;
    LeafOut out{nullptr, eq.bytes(), nullptr};
    if (!less.is_none()) {
        more.push_back(output(less, 16 * n * bytes));
        out.less = more.back().bytes();
    }
    if (!tops.is_none()) {
        more.push_back(output(tops, n * bytes));
        out.tops = more.back().bytes();
    }
    nb::gil_scoped_release release;
    unary_leaf(out, public_value.ring(), table.words(), thresholds.data(), n, count, negate, full, first, threads);
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

    void run(nb::sequence inputs, nb::sequence outputs, i64 bytes, int threads) const {
        require(bytes > 0, "planes of no bytes");
        std::vector<Flat> held;
        std::vector<u8*> planes;
        collect(inputs, false, bytes, held, planes);
        require(static_cast<int>(planes.size()) == n_inputs_, "another number of input planes than the program's");
        collect(outputs, true, bytes, held, planes);
        require(static_cast<int>(planes.size()) == n_inputs_ + n_outputs_,
                "another number of output planes than the program's");
        nb::gil_scoped_release release;
        run_planes(program_, planes, bytes, threads);
    }

private:
    static void collect(nb::sequence arrays, bool writable, i64 bytes, std::vector<Flat>& held,
                        std::vector<u8*>& planes) {
        for (nb::handle array : arrays) {
            held.emplace_back(array, writable);
            const Flat& flat = held.back();
            require(flat.size() % bytes == 0, "an array does not hold whole planes");
            for (i64 at = 0; at < flat.size(); at += bytes) planes.push_back(flat.bytes() + at);
        }
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

void py_select(nb::handle out, nb::handle flip, nb::handle opened, nb::handle bit, nb::handle dealt, nb::handle share,
               int threads) {
    const Flat to(out, true);
    const i64 size = to.size();
    const Flat f = input(flip, size), o = input(opened, size), b = input(bit, size), d = input(dealt, size),
               s = input(share, size);
    nb::gil_scoped_release release;
    tv::select(to.ring(), f.ring(), o.ring(), b.ring(), d.ring(), s.ring(), size / 8, threads);
}

void py_multiply(nb::handle out, nb::handle dealt, nb::handle x, nb::handle a, nb::handle y, nb::handle b, bool first,
                 int threads) {
    const Flat to(out, true);
    const i64 size = to.size();
    const Flat d = input(dealt, size), x_open = input(x, size), a_mask = input(a, size), y_open = input(y, size),
               b_mask = input(b, size);
    nb::gil_scoped_release release;
    multiply(to.ring(), d.ring(), x_open.ring(), a_mask.ring(), y_open.ring(), b_mask.ring(), first, size / 8, threads);
}

void py_bit_to_ring(nb::handle out, nb::handle flip, nb::handle bit, bool first, int threads) {
    const Flat to(out, true), f = input(flip, to.size()), b = input(bit, to.size());
    nb::gil_scoped_release release;
    bit_to_ring(to.ring(), f.ring(), b.ring(), first, to.size() / 8, threads);
}

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

    m.def("matmul", &py_matmul, nb::arg("out"), nb::arg("terms"), nb::arg("accumulate"), nb::arg("threads"));
    m.def("divide", &py_divide, nb::arg("out"), nb::arg("x"), nb::arg("divisor"), nb::arg("threads"));
    m.def("mask_quotients", &py_mask_quotients, nb::arg("outs"), nb::arg("r"), nb::arg("bit").none(),
          nb::arg("divisor"), nb::arg("threads"));
    m.def("truncate", &py_truncate, nb::arg("out"), nb::arg("opened"), nb::arg("quotients"), nb::arg("tops"),
          nb::arg("flip").none(), nb::arg("bit").none(), nb::arg("first"), nb::arg("divisor"), nb::arg("threads"));
    m.def("unary_tables", &py_unary_tables, nb::arg("out"), nb::arg("tops").none(), nb::arg("x"), nb::arg("negate"),
          nb::arg("full"), nb::arg("threads"));
    m.def("unary_leaf", &py_unary_leaf, nb::arg("less").none(), nb::arg("equal"), nb::arg("tops").none(),
          nb::arg("opened"), nb::arg("tables"), nb::arg("thresholds"), nb::arg("negate"), nb::arg("full"),
          nb::arg("first"), nb::arg("threads"));

    nb::class_<Program>(m, "Program")
        .def(nb::init<const std::vector<std::vector<int>>&, int, int, int>(), nb::arg("steps"), nb::arg("n_inputs"),
             nb::arg("n_outputs"), nb::arg("temporaries"))
        .def("run", &Program::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("plane_bytes"), nb::arg("threads"));

    m.def("pack_bits", &py_pack_bits, nb::arg("out"), nb::arg("x"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("pack_top_bits", &py_pack_top_bits, nb::arg("out"), nb::arg("x"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("unpack_bits", &py_unpack_bits, nb::arg("out"), nb::arg("packed"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("unpack_to_ring", &py_unpack_to_ring, nb::arg("out"), nb::arg("packed"), nb::arg("rows"), nb::arg("count"),
          nb::arg("threads"));
    m.def("select", &py_select, nb::arg("out"), nb::arg("flip"), nb::arg("opened"), nb::arg("bit"), nb::arg("dealt"),
          nb::arg("share"), nb::arg("threads"));
    m.def("multiply", &py_multiply, nb::arg("out"), nb::arg("dealt"), nb::arg("x"), nb::arg("a"), nb::arg("y"),
          nb::arg("b"), nb::arg("first"), nb::arg("threads"));
    m.def("bit_to_ring", &py_bit_to_ring, nb::arg("out"), nb::arg("flip"), nb::arg("bit"), nb::arg("first"),
          nb::arg("threads"));
}
