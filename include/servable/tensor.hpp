// The tensors of <servable/tensor.h> for C++17: typed views that copy nothing, memory for results,
// and errors as exceptions.
//
// This header decides how elements are seen and how memory is given away; what a tensor is and who
// owns it stands in tensor.h.
#ifndef SERVABLE_TENSOR_HPP
#define SERVABLE_TENSOR_HPP

#include <servable/tensor.h>

#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace servable {

// Why something failed: a code of tensor.h, and a text for whoever asked.
class Error : public std::runtime_error {
   public:
    Error(std::int32_t code, const std::string &text) : std::runtime_error(text), code_(code) {}

    std::int32_t code() const { return code_; }

   private:
    std::int32_t code_;
};

// Numbers that C++17 has no type for, as the bits that they are.
struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

namespace detail {

template <typename T>
constexpr std::int32_t dtype() {
    using std::is_same_v;
    if constexpr (is_same_v<T, float>) return SERVABLE_FLOAT;
    else if constexpr (is_same_v<T, double>) return SERVABLE_DOUBLE;
    else if constexpr (is_same_v<T, bool>) return SERVABLE_BOOL;
    else if constexpr (is_same_v<T, std::string_view>) return SERVABLE_STRING;
    else if constexpr (is_same_v<T, std::string>) return SERVABLE_STRING;
    else if constexpr (is_same_v<T, std::complex<float>>) return SERVABLE_COMPLEX64;
    else if constexpr (is_same_v<T, std::complex<double>>) return SERVABLE_COMPLEX128;
    else if constexpr (is_same_v<T, Half>) return SERVABLE_HALF;
    else if constexpr (is_same_v<T, BFloat16>) return SERVABLE_BFLOAT16;
    else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
        // By size, as long and long long are two types of one size.
        return sizeof(T) == 1 ? SERVABLE_INT8 : sizeof(T) == 2 ? SERVABLE_INT16
             : sizeof(T) == 4 ? SERVABLE_INT32 : SERVABLE_INT64;
    } else if constexpr (std::is_integral_v<T>) {
        return sizeof(T) == 1 ? SERVABLE_UINT8 : sizeof(T) == 2 ? SERVABLE_UINT16
             : sizeof(T) == 4 ? SERVABLE_UINT32 : SERVABLE_UINT64;
    } else {
        return 0;
    }
}

}  // namespace detail

// The number of the type of elements that T is.
template <typename T>
inline constexpr std::int32_t dtype_of = [] {
    constexpr std::int32_t number = detail::dtype<std::remove_cv_t<T>>();
    static_assert(number != 0, "tensors have no elements of this type");
    return number;
}();

// Elements that somebody else keeps, one after another.
template <typename T>
class Span {
   public:
    Span() = default;
    Span(T *data, std::size_t size) : data_(data), size_(size) {}

    T *data() const { return data_; }
    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    T *begin() const { return data_; }
    T *end() const { return data_ + size_; }
    T &operator[](std::size_t at) const { return data_[at]; }

    // `count` elements from `start` on.
    Span subspan(std::size_t start, std::size_t count) const { return {data_ + start, count}; }

   private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// The sizes of the dimensions, outermost first; borrowed as well.
class Shape {
   public:
    Shape() = default;
    Shape(const std::int64_t *dims, std::size_t rank) : dims_(dims), rank_(rank) {}
    // For an argument in place: output<float>("y", {rows, 3}).
    Shape(std::initializer_list<std::int64_t> dims) : Shape(dims.begin(), dims.size()) {}
    Shape(const std::vector<std::int64_t> &dims) : Shape(dims.data(), dims.size()) {}

    const std::int64_t *data() const { return dims_; }
    std::size_t rank() const { return rank_; }
    const std::int64_t *begin() const { return dims_; }
    const std::int64_t *end() const { return dims_ + rank_; }
    // The size of one dimension.
    std::int64_t operator[](std::size_t at) const { return dims_[at]; }

    // How many elements there are.
    // Throws: SERVABLE_INVALID_ARGUMENT when a size is negative, or there are too many.
    std::size_t elements() const {
        std::size_t product = 1;
        for (const std::int64_t size : *this) {
            const auto count = static_cast<std::uint64_t>(size);
            if (size < 0 || (count != 0 && product > limit / count)) {
                throw Error(SERVABLE_INVALID_ARGUMENT, "there is no tensor of this shape");
            }
            product *= static_cast<std::size_t>(count);
        }
        return product;
    }

   private:
    // No element has more than 16 bytes.
    static constexpr std::size_t limit = std::numeric_limits<std::size_t>::max() / 32;

    const std::int64_t *dims_ = nullptr;
    std::size_t rank_ = 0;
};

namespace detail {

// Throws: SERVABLE_INTERNAL when the elements are no T: the program asks for what is not there.
template <typename T>
const void *elements_of(const servable_tensor &tensor) {
    if (tensor.dtype != dtype_of<T>) {
        throw Error(SERVABLE_INTERNAL, "a tensor of type " + std::to_string(tensor.dtype) +
                                           " was taken for one of type " +
                                           std::to_string(dtype_of<T>));
    }
    return tensor.data;
}

}  // namespace detail

// The elements of a tensor, in row-major order; valid for as long as the tensor is.
template <typename T>
class TensorView : public Span<const T> {
   public:
    // Throws: SERVABLE_INTERNAL when the tensor is of another type.
    explicit TensorView(const servable_tensor &tensor)
        : Span<const T>(static_cast<const T *>(detail::elements_of<T>(tensor)),
                        tensor.size / sizeof(T)),
          shape_(tensor.dims, static_cast<std::size_t>(tensor.rank)) {}

    Shape shape() const { return shape_; }

    // One entry of the outermost dimension.
    Span<const T> row(std::size_t at) const {
        const std::size_t width = this->size() / static_cast<std::size_t>(shape_[0]);
        return this->subspan(at * width, width);
    }

   private:
    Shape shape_;
};

// The same of strings, as views of their bytes.
template <>
class TensorView<std::string_view> {
   public:
    explicit TensorView(const servable_tensor &tensor)
        : strings_(static_cast<const servable_string *>(
              detail::elements_of<std::string_view>(tensor))),
          size_(tensor.size / sizeof(servable_string)),
          shape_(tensor.dims, static_cast<std::size_t>(tensor.rank)) {}

    class Iterator {
       public:
        using iterator_category = std::input_iterator_tag;
        using value_type = std::string_view;
        using difference_type = std::ptrdiff_t;
        using pointer = const std::string_view *;
        using reference = std::string_view;

        explicit Iterator(const servable_string *at) : at_(at) {}
        std::string_view operator*() const { return {at_->data, at_->size}; }
        Iterator &operator++() {
            ++at_;
            return *this;
        }
        Iterator operator++(int) {
            Iterator before = *this;
            ++at_;
            return before;
        }
        bool operator==(const Iterator &other) const { return at_ == other.at_; }
        bool operator!=(const Iterator &other) const { return at_ != other.at_; }

       private:
        const servable_string *at_;
    };

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    Shape shape() const { return shape_; }
    std::string_view operator[](std::size_t at) const {
        return {strings_[at].data, strings_[at].size};
    }
    Iterator begin() const { return Iterator(strings_); }
    Iterator end() const { return Iterator(strings_ + size_); }

   private:
    const servable_string *strings_;
    std::size_t size_;
    Shape shape_;
};

namespace detail {

// What a result needs beside its elements, in the block that its `context` is.
struct Kept {
    std::vector<std::int64_t> dims;
    std::vector<servable_string> cells;

    explicit Kept(Shape shape) : dims(shape.begin(), shape.end()) {}
    virtual ~Kept() = default;
    Kept(const Kept &) = delete;
    Kept &operator=(const Kept &) = delete;
};

template <typename Owner>
struct Keeping final : Kept {
    Owner owner;

    Keeping(Shape shape, Owner &&kept) : Kept(shape), owner(std::move(kept)) {}
};

inline void release(void *context) { delete static_cast<Kept *>(context); }

inline servable_tensor result(std::unique_ptr<Kept> kept, std::int32_t dtype, const void *data,
                              std::size_t count) {
    Kept *context = kept.release();
    return {dtype, static_cast<std::int32_t>(context->dims.size()), context->dims.data(), data,
            count * servable_dtype_size(dtype), release, context};
}

inline void check_count(Shape shape, std::size_t count) {
    if (shape.elements() != count) {
        throw Error(SERVABLE_INTERNAL, "there are " + std::to_string(count) +
                                           " elements for a shape of " +
                                           std::to_string(shape.elements()));
    }
}

}  // namespace detail

// Bytes to which the memory of results is aligned.
inline constexpr std::size_t alignment = 64;

// A result with memory of its own, which is not zeroed, for plain elements; sizes, elements and
// all stand in one block.
inline servable_tensor allocate(std::int32_t dtype, Shape shape) {
    const std::size_t size = servable_dtype_size(dtype);
    if (size == 0 || dtype == SERVABLE_STRING) {
        throw Error(SERVABLE_INTERNAL, "there are no plain elements of type " +
                                           std::to_string(dtype));
    }
    const auto round_up = [](std::size_t bytes) {
        return (bytes + alignment - 1) / alignment * alignment;
    };
    const std::size_t bytes = shape.elements() * size;
    const std::size_t head = round_up(shape.rank() * sizeof(std::int64_t));
    char *block = static_cast<char *>(std::aligned_alloc(alignment, head + round_up(bytes + 1)));
    if (block == nullptr) throw std::bad_alloc();
    if (shape.rank() > 0) {
        std::memcpy(block, shape.data(), shape.rank() * sizeof(std::int64_t));
    }
    return {dtype, static_cast<std::int32_t>(shape.rank()),
            reinterpret_cast<const std::int64_t *>(block), block + head, bytes, std::free, block};
}

// A result of elements that are there already, without a copy of them.
// Throws: SERVABLE_INTERNAL when the shape is one of another number of elements.
template <typename T>
servable_tensor adopt(Shape shape, std::vector<T> &&elements) {
    static_assert(!std::is_same_v<T, bool>, "vector<bool> holds bits; use output<bool>()");
    detail::check_count(shape, elements.size());
    auto kept = std::make_unique<detail::Keeping<std::vector<T>>>(shape, std::move(elements));
    const std::vector<T> &owned = kept->owner;
    const void *data = owned.data();
    const std::size_t count = owned.size();
    if constexpr (dtype_of<T> == SERVABLE_STRING) {
        kept->cells.reserve(count);
        for (const auto &text : owned) kept->cells.push_back({text.data(), text.size()});
        data = kept->cells.data();
    }
    return detail::result(std::move(kept), dtype_of<T>, data, count);
}

// A result in memory that `owner` keeps, or that is there for good where that is null.
template <typename T>
servable_tensor borrow(Shape shape, const T *elements, std::shared_ptr<const void> owner) {
    using Owner = std::shared_ptr<const void>;
    const std::size_t count = shape.elements();
    auto kept = std::make_unique<detail::Keeping<Owner>>(shape, std::move(owner));
    const void *data = elements;
    if constexpr (dtype_of<T> == SERVABLE_STRING) {
        kept->cells.reserve(count);
        for (std::size_t at = 0; at < count; ++at) {
            kept->cells.push_back({elements[at].data(), elements[at].size()});
        }
        data = kept->cells.data();
    }
    return detail::result(std::move(kept), dtype_of<T>, data, count);
}

// A tensor that is owned: a result that was given, or an input that is to be lent.
class Tensor {
   public:
    Tensor() = default;
    // Take over what somebody gave away.
    explicit Tensor(const servable_tensor &given) : raw_(given) {}
    template <typename T>
    Tensor(Shape shape, std::vector<T> elements) : raw_(adopt(shape, std::move(elements))) {}
    Tensor(Tensor &&other) noexcept : raw_(other.give()) {}
    Tensor &operator=(Tensor &&other) noexcept {
        std::swap(raw_, other.raw_);
        return *this;
    }
    ~Tensor() {
        if (raw_.release != nullptr) raw_.release(raw_.context);
    }

    const servable_tensor &get() const { return raw_; }
    std::int32_t dtype() const { return raw_.dtype; }
    Shape shape() const { return {raw_.dims, static_cast<std::size_t>(raw_.rank)}; }
    // Throws: SERVABLE_INTERNAL when the elements are of another type.
    template <typename T>
    TensorView<T> view() const {
        return TensorView<T>(raw_);
    }

    // Give it away to whoever releases it; this one is empty then.
    servable_tensor give() noexcept { return std::exchange(raw_, servable_tensor{}); }

   private:
    servable_tensor raw_{};
};

// Do something that may throw, and say what became of it in the words of tensor.h.
template <typename Body>
std::int32_t guarded(servable_status *status, Body body) noexcept {
    try {
        body();
        return SERVABLE_OK;
    } catch (const Error &error) {
        const std::int32_t code = error.code() == SERVABLE_OK ? SERVABLE_UNKNOWN : error.code();
        return servable_status_set(status, code, error.what());
    } catch (const std::bad_alloc &) {
        return servable_status_set(status, SERVABLE_RESOURCE_EXHAUSTED, "there is no memory left");
    } catch (const std::exception &error) {
        return servable_status_set(status, SERVABLE_INTERNAL, error.what());
    } catch (...) {
        return servable_status_set(status, SERVABLE_INTERNAL,
                                   "something was thrown that is no std::exception");
    }
}

}  // namespace servable

#endif
