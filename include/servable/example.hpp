// Serialized tf.Examples, which signatures for Classify and Regress get as their `inputs`.
//
// An Example is read in place: names, texts and numbers are decoded when they are asked for, and no
// protobuf library is needed. It decides what is an Example; what its features mean is the
// servable's to know.
#ifndef SERVABLE_EXAMPLE_HPP
#define SERVABLE_EXAMPLE_HPP

#include <servable/tensor.hpp>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace servable {

namespace detail {

// The fields of a protobuf message, one after another.
class Fields {
   public:
    explicit Fields(std::string_view message) : rest_(message) {}

    // Go to the next field; false at the end. Throws: SERVABLE_INVALID_ARGUMENT.
    bool next() {
        if (rest_.empty()) return false;
        const std::uint64_t tag = varint();
        number = tag >> 3;
        switch (tag & 7) {
        case 0:
            value = varint();
            bytes = {};
            return true;
        case 1:
            bytes = take(8);
            return true;
        case 2:
            bytes = take(varint());
            return true;
        case 5:
            bytes = take(4);
            return true;
        default:
            throw Error(SERVABLE_INVALID_ARGUMENT, "the bytes are no tf.Example");
        }
    }

    // A number as varint, from the start of what is left. Throws: SERVABLE_INVALID_ARGUMENT.
    std::uint64_t varint() {
        std::uint64_t result = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1)[0]);
            result |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) return result;
        }
        throw Error(SERVABLE_INVALID_ARGUMENT, "the bytes are no tf.Example");
    }

    bool is_empty() const { return rest_.empty(); }

    std::uint64_t number = 0;
    std::uint64_t value = 0;
    std::string_view bytes;

   private:
    std::string_view take(std::uint64_t count) {
        if (count > rest_.size()) {
            throw Error(SERVABLE_INVALID_ARGUMENT, "the bytes are no tf.Example");
        }
        const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
        rest_.remove_prefix(taken.size());
        return taken;
    }

    std::string_view rest_;
};

}  // namespace detail

class Example {
   public:
    // Of bytes that stay for as long as the Example. Throws: SERVABLE_INVALID_ARGUMENT when they
    // are none.
    explicit Example(std::string_view serialized) {
        each(serialized, 1, [&](std::string_view features) {
            each(features, 1, [&](std::string_view entry) {
                std::string_view name, feature;
                each(entry, 1, [&](std::string_view key) { name = key; });
                each(entry, 2, [&](std::string_view value) { feature = value; });
                features_.emplace_back(name, feature);
            });
        });
    }

    bool has(std::string_view name) const { return !find(name).empty(); }

    // The values of a feature; none where it is missing, or of another kind.
    // Throws: SERVABLE_INVALID_ARGUMENT when the bytes are broken there.
    std::vector<std::string_view> texts(std::string_view name) const {
        std::vector<std::string_view> values;
        each(find(name), 1, [&](std::string_view list) {
            each(list, 1, [&](std::string_view value) { values.push_back(value); });
        });
        return values;
    }
    std::vector<float> floats(std::string_view name) const {
        std::vector<float> values;
        each(find(name), 2, [&](std::string_view list) {
            // Packed or not, the numbers of a field stand one after another.
            each(list, 1, [&](std::string_view packed) {
                for (; packed.size() >= sizeof(float); packed.remove_prefix(sizeof(float))) {
                    float number = 0;
                    std::memcpy(&number, packed.data(), sizeof number);
                    values.push_back(number);
                }
            });
        });
        return values;
    }
    std::vector<std::int64_t> integers(std::string_view name) const {
        std::vector<std::int64_t> values;
        each(find(name), 3, [&](std::string_view list) {
            for (detail::Fields fields(list); fields.next();) {
                if (fields.number != 1) continue;
                if (fields.bytes.data() == nullptr) {
                    values.push_back(static_cast<std::int64_t>(fields.value));
                    continue;
                }
                for (detail::Fields packed(fields.bytes); !packed.is_empty();) {
                    values.push_back(static_cast<std::int64_t>(packed.varint()));
                }
            }
        });
        return values;
    }

   private:
    template <typename Use>
    static void each(std::string_view message, std::uint64_t number, Use use) {
        for (detail::Fields fields(message); fields.next();) {
            if (fields.number == number) use(fields.bytes);
        }
    }

    std::string_view find(std::string_view name) const {
        for (const auto &[known, feature] : features_) {
            if (known == name) return feature;
        }
        return {};
    }

    std::vector<std::pair<std::string_view, std::string_view>> features_;
};

}  // namespace servable

#endif
