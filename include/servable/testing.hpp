// A servable in a program of your own: for its unit tests, a debugger, sanitizers and valgrind.
//
//     #include <servable/testing.hpp>
//
//     int main() {
//         servable::testing::Model model(servable_entry, "models/half/1");
//         const auto outputs = model.run("serving_default", "x", servable::Tensor({2}, std::vector<float>{1, 3}));
//         assert(outputs.at("y").view<float>()[1] == 1.5f);
//     }
//
// Compile it together with the source of the servable. It does with one what the server does, on
// the calling thread: it loads, describes, runs, checks and unloads.
#ifndef SERVABLE_TESTING_HPP
#define SERVABLE_TESTING_HPP

#include <servable/servable.h>
#include <servable/tensor.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace servable::testing {

using Tensors = std::map<std::string, Tensor, std::less<>>;

// A loaded version; unloaded at its end. Outputs have to be gone by then.
class Model {
   public:
    // Throws: what the servable fails to load with.
    explicit Model(const servable_library &library, const std::string &directory = ".",
                   const std::string &name = "model", std::int64_t version = 1)
        : library_(library) {
        if (library.abi != SERVABLE_ABI) {
            throw Error(SERVABLE_FAILED_PRECONDITION, "the library is of another ABI");
        }
        const servable_load_options options{sizeof options, directory.c_str(), name.c_str(),
                                            version};
        check([&](auto status) { return library_.load(&options, &instance_, status); });
        try {
            check([&](auto status) {
                return library_.describe(instance_, &description_, status);
            });
        } catch (...) {
            library_.unload(instance_);
            throw;
        }
    }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;
    ~Model() { library_.unload(instance_); }

    const servable_description &description() const { return *description_; }

    // The outputs of a signature. Throws: what the servable fails with, and SERVABLE_INTERNAL
    // when its answer is not what it has described.
    Tensors run(std::string_view signature, const Tensors &inputs) const {
        const std::size_t at = find(signature);
        const servable_signature &described = description_->signatures[at];
        std::vector<servable_tensor> lent;
        for (std::size_t input = 0; input < described.num_inputs; ++input) {
            const servable_tensor_spec &spec = described.inputs[input];
            const auto given = inputs.find(spec.name);
            if (given == inputs.end()) {
                throw Error(SERVABLE_INVALID_ARGUMENT, "there is no " + std::string(spec.name));
            }
            check_fits(spec, given->second);
            lent.push_back(given->second.get());
        }
        const std::vector<std::uint8_t> wanted(described.num_outputs, 1);
        std::vector<servable_tensor> given(described.num_outputs, servable_tensor{});
        const servable_run run{sizeof run, at, lent.data(), lent.size(), wanted.data(),
                               given.data(), given.size(), -1};
        check([&](auto status) { return library_.run(instance_, &run, status); });
        Tensors outputs;
        for (std::size_t output = 0; output < given.size(); ++output) {
            outputs.emplace(described.outputs[output].name, Tensor(given[output]));
        }
        for (std::size_t output = 0; output < given.size(); ++output) {
            const servable_tensor_spec &spec = described.outputs[output];
            check_fits(spec, outputs.find(spec.name)->second);
        }
        return outputs;
    }

    // The same with one input.
    Tensors run(std::string_view signature, std::string input, Tensor tensor) const {
        Tensors inputs;
        inputs.emplace(std::move(input), std::move(tensor));
        return run(signature, inputs);
    }

   private:
    template <typename Call>
    static void check(Call call) {
        servable_status status{};
        const std::int32_t code = call(&status);
        if (code != SERVABLE_OK) throw Error(code, status.message);
    }

    static void check_fits(const servable_tensor_spec &spec, const Tensor &tensor) {
        const Shape shape = tensor.shape();
        bool fits = tensor.dtype() == spec.dtype &&
                    (spec.rank < 0 || tensor.get().rank == spec.rank);
        for (std::size_t at = 0; fits && spec.rank > 0 && at < shape.rank(); ++at) {
            fits = spec.dims[at] < 0 || spec.dims[at] == shape[at];
        }
        fits = fits && tensor.get().size == shape.elements() * servable_dtype_size(spec.dtype);
        if (!fits) {
            throw Error(SERVABLE_INTERNAL, std::string(spec.name) + " is not as described");
        }
    }

    std::size_t find(std::string_view name) const {
        for (std::size_t at = 0; at < description_->num_signatures; ++at) {
            if (name == description_->signatures[at].name) return at;
        }
        throw Error(SERVABLE_NOT_FOUND, "there is no signature " + std::string(name));
    }

    const servable_library &library_;
    servable_instance *instance_ = nullptr;
    const servable_description *description_ = nullptr;
};

}  // namespace servable::testing

#endif
