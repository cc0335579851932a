// How long one call in the process takes: in_process MODEL COUNT DIM...
//
// Calls the engine through its C functions and through the C++ layer, COUNT times each, and
// prints the median and the CPU time of a call in microseconds. session.c does the same with
// TensorFlow's own C API.

#include <servable/engine.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>

using namespace servable::engine;

namespace {

double cpu_us() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

template <typename Body> void measure(const char *what, int count, Body body) {
    for (int turn = 0; turn < 1000; ++turn) {
        body();
    }
    std::vector<double> took;
    took.reserve(static_cast<std::size_t>(count));
    const double cpu = cpu_us();
    for (int turn = 0; turn < count; ++turn) {
        const auto began = std::chrono::steady_clock::now();
        body();
        const auto ended = std::chrono::steady_clock::now();
        took.push_back(std::chrono::duration<double, std::micro>(ended - began).count());
    }
    const double cpu_each = (cpu_us() - cpu) / count;
    const auto middle = took.begin() + count / 2;
    std::nth_element(took.begin(), middle, took.end());
    std::printf("%s %.2f %.2f\n", what, *middle, cpu_each);
}

void require(std::int32_t code, const servable_status &status) {
    if (code != SERVABLE_OK) {
        throw Error(static_cast<Code>(code), status.message);
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        return 2;
    }
    const int count = std::atoi(argv[2]);
    Shape shape;
    std::size_t size = 1;
    for (int at = 3; at < argc; ++at) {
        shape.push_back(std::atoi(argv[at]));
        size *= static_cast<std::size_t>(shape.back());
    }
    try {
        const std::vector<float> values(size, 1.0F);
        const Model model(argv[1]);
        const Signature signature = model.acquire().signatures().at("serving_default");
        const std::string input = signature.inputs.begin()->first;
        const std::string output = signature.outputs.begin()->first;

        servable_engine_model *opened = nullptr;
        servable_status status{};
        require(servable_engine_open(argv[1], nullptr, &opened, &status), status);
        const Tensor tensor = Tensor::borrow(values.data(), shape);
        const servable_tensor lent = tensor.lend();
        const char *input_name = input.c_str();
        const char *output_name = output.c_str();
        servable_tensor result{};
        servable_engine_call call{};
        call.struct_size = sizeof call;
        call.input_names = &input_name;
        call.inputs = &lent;
        call.num_inputs = 1;
        call.output_names = &output_name;
        call.outputs = &result;
        call.num_outputs = 1;
        measure("c", count, [&] {
            servable_engine_version *version = nullptr;
            require(servable_engine_acquire(opened, &version, &status), status);
            require(servable_engine_run(version, &call, &status), status);
            result.release(result.context);
            servable_engine_release(version);
        });
        servable_engine_close(opened);
        const Version version = model.acquire();
        measure("cpp", count, [&] {
            const Tensors outputs = version.predict({{input, Tensor::borrow(values.data(), shape)}});
            if (outputs.at(output).size() == 0) {
                std::abort();
            }
        });
    } catch (const Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
