// Tensors, signatures and errors of programs that ask models.
//
// What <servable/client.hpp> sends over the network and what <servable/engine.hpp> runs in the
// process is the same: named tensors go in, named tensors come out, and what goes wrong is an
// Error with a code and a text. Nothing here knows a transport, and nothing needs a library.
#ifndef SERVABLE_IO_HPP
#define SERVABLE_IO_HPP

#include <servable/tensor.h>

#include <algorithm>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if __cplusplus >= 202002L
#include <span>
#endif

namespace servable::io {

// Why a call failed, with the numbers of gRPC's status codes.
enum class Code : std::int32_t {
    ok = SERVABLE_OK,
    cancelled = SERVABLE_CANCELLED,
    unknown = SERVABLE_UNKNOWN,
    invalid_argument = SERVABLE_INVALID_ARGUMENT,
    deadline_exceeded = SERVABLE_DEADLINE_EXCEEDED,
    not_found = SERVABLE_NOT_FOUND,
    already_exists = SERVABLE_ALREADY_EXISTS,
    permission_denied = SERVABLE_PERMISSION_DENIED,
    resource_exhausted = SERVABLE_RESOURCE_EXHAUSTED,
    failed_precondition = SERVABLE_FAILED_PRECONDITION,
    aborted = SERVABLE_ABORTED,
    out_of_range = SERVABLE_OUT_OF_RANGE,
    unimplemented = SERVABLE_UNIMPLEMENTED,
    internal = SERVABLE_INTERNAL,
    unavailable = SERVABLE_UNAVAILABLE,
    data_loss = SERVABLE_DATA_LOSS,
    unauthenticated = SERVABLE_UNAUTHENTICATED,
};

// The name of a code, such as INVALID_ARGUMENT.
inline const char *name_of(Code code) noexcept {
    static constexpr const char *names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };
    const auto at = static_cast<std::size_t>(code);
    return at < sizeof names / sizeof *names ? names[at] : "UNKNOWN";
}

// What every call throws that fails: a code to decide by, and a text for people.
class Error : public std::runtime_error {
  public:
    Error(Code code, std::string message)
        : std::runtime_error(std::string(name_of(code)) + ": " + message), code_(code),
          message_(std::make_shared<std::string>(std::move(message))) {}

    Code code() const noexcept { return code_; }

    // The text without the name of the code, which what() begins with.
    const std::string &message() const noexcept { return *message_; }

  private:
    Code code_;
    std::shared_ptr<const std::string> message_; // so that copying never throws
};

// Types of elements; the numbers are those of TensorFlow's DataType, and SERVABLE_* in C.
enum class DType : std::int32_t {
    invalid = 0,
    float32 = SERVABLE_FLOAT,
    float64 = SERVABLE_DOUBLE,
    int32 = SERVABLE_INT32,
    uint8 = SERVABLE_UINT8,
    int16 = SERVABLE_INT16,
    int8 = SERVABLE_INT8,
    string = SERVABLE_STRING,
    complex64 = SERVABLE_COMPLEX64,
    int64 = SERVABLE_INT64,
    boolean = SERVABLE_BOOL,
    bfloat16 = SERVABLE_BFLOAT16,
    uint16 = SERVABLE_UINT16,
    complex128 = SERVABLE_COMPLEX128,
    float16 = SERVABLE_HALF,
    uint32 = SERVABLE_UINT32,
    uint64 = SERVABLE_UINT64,
};

// The name of a type as NumPy has it; "type N" for one that has no name here.
inline std::string name_of(DType dtype) {
    switch (dtype) {
    case DType::invalid: return "invalid";
    case DType::float32: return "float32";
    case DType::float64: return "float64";
    case DType::int32: return "int32";
    case DType::uint8: return "uint8";
    case DType::int16: return "int16";
    case DType::int8: return "int8";
    case DType::string: return "string";
    case DType::complex64: return "complex64";
    case DType::int64: return "int64";
    case DType::boolean: return "bool";
    case DType::bfloat16: return "bfloat16";
    case DType::uint16: return "uint16";
    case DType::complex128: return "complex128";
    case DType::float16: return "float16";
    case DType::uint32: return "uint32";
    case DType::uint64: return "uint64";
    }
    return "type " + std::to_string(static_cast<std::int32_t>(dtype));
}

namespace detail {

// The type of the elements that C++ calls T; what has none here does not compile.
template <typename T> struct DTypeOf;
#define SERVABLE_DTYPE_OF(T, NAME)                                                                 \
    template <> struct DTypeOf<T> {                                                                \
        static constexpr DType value = DType::NAME;                                                \
    }
SERVABLE_DTYPE_OF(float, float32);
SERVABLE_DTYPE_OF(double, float64);
SERVABLE_DTYPE_OF(std::int8_t, int8);
SERVABLE_DTYPE_OF(std::int16_t, int16);
SERVABLE_DTYPE_OF(std::int32_t, int32);
SERVABLE_DTYPE_OF(std::int64_t, int64);
SERVABLE_DTYPE_OF(std::uint8_t, uint8);
SERVABLE_DTYPE_OF(std::uint16_t, uint16);
SERVABLE_DTYPE_OF(std::uint32_t, uint32);
SERVABLE_DTYPE_OF(std::uint64_t, uint64);
SERVABLE_DTYPE_OF(bool, boolean);
SERVABLE_DTYPE_OF(std::complex<float>, complex64);
SERVABLE_DTYPE_OF(std::complex<double>, complex128);
#undef SERVABLE_DTYPE_OF

} // namespace detail

// The sizes of the dimensions, outermost first; empty for a scalar.
using Shape = std::vector<std::int64_t>;

// A shape as it stands in texts: [2,3].
inline std::string text_of(const Shape &shape) {
    std::string text = "[";
    for (std::size_t at = 0; at < shape.size(); ++at) {
        text += (at ? "," : "") + (shape[at] < 0 ? "?" : std::to_string(shape[at]));
    }
    return text + "]";
}

// A type, a shape, and the elements in row-major order.
//
// A tensor either has its elements itself, or borrows them, and then they must stay as they are
// for as long as it or a copy of it is used. Copies share the elements, which nobody changes, so
// copying is cheap, and tensors may be used from several threads.
class Tensor {
  public:
    Tensor() = default;

    // The elements of a vector, which is moved in; a shape of one dimension unless one is given.
    template <typename T, DType dtype = detail::DTypeOf<T>::value>
    explicit Tensor(std::vector<T> values) : Tensor(std::move(values), std::nullopt) {}

    template <typename T, DType dtype = detail::DTypeOf<T>::value>
    Tensor(std::vector<T> values, Shape shape)
        : Tensor(std::move(values), std::optional<Shape>(std::move(shape))) {}

    // Strings, which may be any bytes.
    explicit Tensor(std::vector<std::string> values) : Tensor(std::move(values), std::nullopt) {}

    Tensor(std::vector<std::string> values, Shape shape)
        : Tensor(std::move(values), std::optional<Shape>(std::move(shape))) {}

    // One number, one string.
    template <typename T> static Tensor scalar(T value) {
        return Tensor(std::vector<T>{std::move(value)}, Shape{});
    }

    // Elements that stay where they are.
    template <typename T>
    static Tensor borrow(const T *values, Shape shape, DType dtype = detail::DTypeOf<T>::value) {
        const std::size_t size = bytes_of(dtype, shape);
        return Tensor(dtype, std::move(shape), values, size, nullptr);
    }

    template <typename T> static Tensor borrow(const std::vector<T> &values) {
        return borrow(values.data(), Shape{static_cast<std::int64_t>(values.size())});
    }

#if __cplusplus >= 202002L
    template <typename T, std::size_t extent>
    static Tensor borrow(std::span<T, extent> values) {
        return borrow<std::remove_const_t<T>>(values.data(),
                                              Shape{static_cast<std::int64_t>(values.size())});
    }
#endif

    // Elements of any type that lie at `data` for as long as `owner` lives; null: they are
    // borrowed. For float16 and other types without one in C++.
    static Tensor of(DType dtype, Shape shape, const void *data, std::size_t size,
                     std::shared_ptr<const void> owner = nullptr) {
        if (size != bytes_of(dtype, shape)) {
            throw Error(Code::invalid_argument,
                        "a tensor of " + name_of(dtype) + text_of(shape) + " has " +
                            std::to_string(bytes_of(dtype, shape)) + " bytes, and " +
                            std::to_string(size) + " were given");
        }
        return Tensor(dtype, std::move(shape), data, size, std::move(owner));
    }

    // A tensor that a library gave as a result; it is released with the last copy of this.
    static Tensor take(const servable_tensor &result) {
        struct Released {
            explicit Released(const servable_tensor &given) : result(given) {}
            Released(const Released &) = delete;
            Released &operator=(const Released &) = delete;
            ~Released() {
                if (result.release != nullptr) {
                    result.release(result.context);
                }
            }
            servable_tensor result;
        };
        auto owner = std::make_shared<const Released>(result);
        Shape shape(result.dims, result.dims + result.rank);
        return Tensor(static_cast<DType>(result.dtype), std::move(shape), result.data, result.size,
                      std::move(owner));
    }

    DType dtype() const noexcept { return dtype_; }
    const Shape &shape() const noexcept { return shape_; }

    // How many elements there are.
    std::size_t size() const noexcept {
        const std::size_t each = servable_dtype_size(static_cast<std::int32_t>(dtype_));
        return each == 0 ? 0 : byte_size_ / each;
    }

    // The elements as they lie in memory.
    const void *raw() const noexcept { return data_; }
    std::size_t byte_size() const noexcept { return byte_size_; }

    // The elements; throws INVALID_ARGUMENT if they are of another type.
    template <typename T> const T *data() const {
        require(detail::DTypeOf<T>::value);
        return static_cast<const T *>(data_);
    }

    template <typename T> const T &at(std::size_t index) const {
        const T *elements = data<T>();
        check_index(index);
        return elements[index];
    }

    template <typename T> std::vector<T> to_vector() const {
        const T *elements = data<T>();
        return size() == 0 ? std::vector<T>() : std::vector<T>(elements, elements + size());
    }

#if __cplusplus >= 202002L
    template <typename T> std::span<const T> span() const { return {data<T>(), size()}; }
#endif

    // A string, which lives as long as the tensor; throws INVALID_ARGUMENT if it has none.
    std::string_view string_at(std::size_t index) const {
        require(DType::string);
        check_index(index);
        const auto &string = static_cast<const servable_string *>(data_)[index];
        return string.size == 0 ? std::string_view() : std::string_view(string.data, string.size);
    }

    std::vector<std::string> strings() const {
        require(DType::string);
        std::vector<std::string> all;
        all.reserve(size());
        for (std::size_t at = 0; at < size(); ++at) {
            all.emplace_back(string_at(at));
        }
        return all;
    }

    // The same for a library, which borrows it.
    servable_tensor lend() const noexcept {
        servable_tensor lent{};
        lent.dtype = static_cast<std::int32_t>(dtype_);
        lent.rank = static_cast<std::int32_t>(shape_.size());
        lent.dims = shape_.data();
        lent.data = data_;
        lent.size = byte_size_;
        return lent;
    }

  private:
    Tensor(DType dtype, Shape shape, const void *data, std::size_t size,
           std::shared_ptr<const void> owner)
        : dtype_(dtype), shape_(std::move(shape)), data_(data), byte_size_(size),
          owner_(std::move(owner)) {}

    template <typename T> Tensor(std::vector<T> values, std::optional<Shape> shape) {
        dtype_ = detail::DTypeOf<T>::value;
        shape_ = checked(values.size(), std::move(shape));
        byte_size_ = values.size() * sizeof(T);
        if constexpr (std::is_same_v<T, bool>) { // its vector has no elements to point at
            std::shared_ptr<bool[]> owner(new bool[values.size()]);
            std::copy(values.begin(), values.end(), owner.get());
            data_ = owner.get();
            owner_ = std::shared_ptr<const void>(owner, owner.get());
        } else {
            auto owner = std::make_shared<const std::vector<T>>(std::move(values));
            data_ = owner->data();
            owner_ = std::move(owner);
        }
    }

    Tensor(std::vector<std::string> values, std::optional<Shape> shape) {
        struct Strings {
            std::vector<std::string> values;
            std::vector<servable_string> cells;
        };
        dtype_ = DType::string;
        shape_ = checked(values.size(), std::move(shape));
        byte_size_ = values.size() * sizeof(servable_string);
        auto owner = std::make_shared<Strings>();
        owner->values = std::move(values);
        owner->cells.reserve(owner->values.size());
        for (const std::string &value : owner->values) {
            owner->cells.push_back({value.data(), value.size()});
        }
        data_ = owner->cells.data();
        owner_ = std::move(owner);
    }

    static Shape checked(std::size_t size, std::optional<Shape> shape) {
        if (!shape) {
            return {static_cast<std::int64_t>(size)};
        }
        if (elements_of(*shape) != size) {
            throw Error(Code::invalid_argument, "a shape of " + text_of(*shape) + " has " +
                                                    std::to_string(elements_of(*shape)) +
                                                    " elements, and " + std::to_string(size) +
                                                    " were given");
        }
        return std::move(*shape);
    }

    static std::size_t elements_of(const Shape &shape) {
        std::size_t elements = 1;
        for (const std::int64_t size : shape) {
            if (size < 0 || __builtin_mul_overflow(elements, static_cast<std::size_t>(size),
                                                   &elements)) {
                throw Error(Code::invalid_argument, text_of(shape) + " is no shape of a tensor");
            }
        }
        return elements;
    }

    static std::size_t bytes_of(DType dtype, const Shape &shape) {
        const std::size_t each = servable_dtype_size(static_cast<std::int32_t>(dtype));
        std::size_t bytes = 0;
        if (each == 0) {
            throw Error(Code::invalid_argument, name_of(dtype) + " is no type of elements");
        }
        if (__builtin_mul_overflow(elements_of(shape), each, &bytes)) {
            throw Error(Code::invalid_argument, text_of(shape) + " is no shape of a tensor");
        }
        return bytes;
    }

    void require(DType dtype) const {
        if (dtype != dtype_) {
            throw Error(Code::invalid_argument, "the elements are of type " + name_of(dtype_) +
                                                    ", and are asked for as " + name_of(dtype));
        }
    }

    void check_index(std::size_t index) const {
        if (index >= size()) {
            throw Error(Code::out_of_range, "there is no element " + std::to_string(index) +
                                                " of " + std::to_string(size()));
        }
    }

    DType dtype_ = DType::invalid;
    Shape shape_;
    const void *data_ = nullptr;
    std::size_t byte_size_ = 0;
    std::shared_ptr<const void> owner_;
};

// Named tensors.
using Tensors = std::map<std::string, Tensor>;

// What a signature says of one of its inputs or outputs.
struct TensorSpec {
    DType dtype = DType::invalid;
    // Sizes, -1 where any will do; nothing where the rank is any.
    std::optional<Shape> shape;
};

// Named inputs and outputs of a model, and the method that they are meant for.
struct Signature {
    std::string method_name;
    std::map<std::string, TensorSpec> inputs;
    std::map<std::string, TensorSpec> outputs;
};

using Signatures = std::map<std::string, Signature>;

} // namespace servable::io

#endif
