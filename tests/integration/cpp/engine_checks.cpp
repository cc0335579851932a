// Does one thing with the engine and prints what came of it: engine_checks CHECK PATH.
// tests/integration/test_embedding.py says what has to be printed.

#include <servable/engine.hpp>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <thread>

using namespace servable::engine;

namespace {

template <typename T> std::string text(const Tensor &tensor) {
    std::string all = name_of(tensor.dtype()) + text_of(tensor.shape());
    for (const T value : tensor.to_vector<T>()) {
        all += " " + std::to_string(static_cast<double>(value));
        all.erase(all.find_last_not_of('0') + 1);
    }
    return all;
}

Tensors x(std::vector<float> values) { return {{"x", Tensor(std::move(values))}}; }

// What a call throws, or nothing.
template <typename Body> void told(const char *what, Body body) {
    try {
        body();
        std::cout << what << ": no error\n";
    } catch (const Error &error) {
        std::cout << what << ": " << error.what() << "\n";
    }
}

void predict(const std::string &path) {
    const Model model(path);
    const Version version = model.acquire();
    const auto outputs = version.predict(x({1, 2, 5}));
    std::cout << "version " << version.number() << ": " << text<float>(outputs.at("y")) << "\n";
}

void signatures(const std::string &path) {
    const Model model(path);
    for (const auto &[name, signature] : model.acquire().signatures()) {
        if (name != "serving_default" && name != "regress" && name != "constant") {
            continue;
        }
        std::cout << name << " " << signature.method_name << ":";
        for (const auto &[input, spec] : signature.inputs) {
            std::cout << " " << input << " " << name_of(spec.dtype) << text_of(*spec.shape);
        }
        std::cout << " ->";
        for (const auto &[output, spec] : signature.outputs) {
            std::cout << " " << output << " " << name_of(spec.dtype) << text_of(*spec.shape);
        }
        std::cout << "\n";
    }
}

void chosen(const std::string &path) {
    const Model model(path);
    RunOptions both;
    both.signature = "both";
    both.outputs = {"two"};
    const auto outputs = model.predict({}, both);
    std::cout << outputs.size() << " output: " << text<float>(outputs.at("two")) << "\n";
}

// Every type comes back as it went in, from memory that is changed and freed afterwards.
void echo(const std::string &path) {
    const Model model(path);
    const auto check = [&](const char *type, DType dtype, std::size_t size) {
        constexpr std::size_t count = 1024;
        const std::size_t bytes = count * size;
        // Aligned as the runtime wants it, so that it is lent and not copied.
        auto *memory = static_cast<unsigned char *>(std::aligned_alloc(64, bytes));
        for (std::size_t at = 0; at < bytes; ++at) {
            memory[at] = static_cast<unsigned char>(dtype == DType::boolean ? at % 2 : at % 120);
        }
        const std::vector<unsigned char> before(memory, memory + bytes);
        RunOptions options;
        options.signature = std::string("echo_") + type;
        const auto outputs =
            model.predict({{"x", Tensor::of(dtype, {count}, memory, bytes)}}, options);
        std::fill(memory, memory + bytes, 0xEE);
        std::free(memory);
        const Tensor &y = outputs.at("y");
        const bool same = y.dtype() == dtype && y.byte_size() == bytes &&
                          std::equal(before.begin(), before.end(),
                                     static_cast<const unsigned char *>(y.raw()));
        std::cout << type << (same ? " same\n" : " DIFFERS\n");
    };
    check("FLOAT", DType::float32, 4);
    check("INT8", DType::int8, 1);
    check("HALF", DType::float16, 2);
    check("BOOL", DType::boolean, 1);
    check("BFLOAT16", DType::bfloat16, 2);
    check("UINT16", DType::uint16, 2);
    check("COMPLEX64", DType::complex64, 8);
    check("COMPLEX128", DType::complex128, 16);
    RunOptions options;
    options.signature = "echo_STRING";
    const std::vector<std::string> strings = {"", "short", std::string(1000, 'a') + '\0' + "b"};
    const auto outputs = model.predict({{"x", Tensor(strings)}}, options);
    std::cout << "STRING " << (outputs.at("y").strings() == strings ? "same" : "DIFFERS") << "\n";
    const auto none = model.predict({{"x", Tensor(std::vector<std::string>())}}, options);
    std::cout << "no STRING " << text_of(none.at("y").shape()) << "\n";
}

void refused(const std::string &path) {
    const Model model(path);
    const auto with = [](const char *signature, std::vector<std::string> outputs = {}) {
        RunOptions options;
        options.signature = signature;
        options.outputs = std::move(outputs);
        return options;
    };
    told("signature", [&] { model.predict(x({1}), with("no_such")); });
    told("input", [&] { model.predict({{"z", Tensor(std::vector<float>{1})}}); });
    told("no input", [&] { model.predict({}); });
    told("output", [&] { model.predict(x({1}), with("", {"z"})); });
    told("dtype", [&] { model.predict({{"x", Tensor(std::vector<std::int32_t>{1})}}); });
    told("element type", [&] { model.predict({{"x", Tensor()}}); });
    told("negative", [&] { Tensor::borrow<float>(nullptr, {-1}); });
    told("shape", [&] { Tensor(std::vector<float>{1, 2}, Shape{3}); });
    told("resource", [&] {
        servable_tensor none{};
        none.dtype = 20;
        const char *name = "x";
        servable_engine_call call{};
        call.struct_size = sizeof call;
        call.input_names = &name;
        call.inputs = &none;
        call.num_inputs = 1;
        call.output_names = &name;
        call.outputs = &none;
        call.num_outputs = 1;
        servable_engine_model *opened = nullptr;
        servable_engine_version *version = nullptr;
        servable_status status{};
        servable_engine_open(path.c_str(), nullptr, &opened, nullptr);
        servable_engine_acquire(opened, &version, nullptr);
        const auto code = servable_engine_run(version, &call, &status);
        servable_engine_release(version);
        servable_engine_close(opened);
        throw Error(static_cast<Code>(code), status.message);
    });
}

void nulls(const std::string &path) {
    servable_status status{};
    const auto tell = [&](const char *what, std::int32_t code) {
        std::cout << what << ": " << code << " " << status.message << "\n";
        status = {};
    };
    servable_engine_model *model = nullptr;
    servable_engine_version *version = nullptr;
    tell("path", servable_engine_open(nullptr, nullptr, &model, &status));
    tell("model", servable_engine_open(path.c_str(), nullptr, nullptr, &status));
    servable_engine_options options = SERVABLE_ENGINE_OPTIONS_INIT;
    options.struct_size = 8;
    tell("struct_size", servable_engine_open(path.c_str(), &options, &model, &status));
    options = SERVABLE_ENGINE_OPTIONS_INIT;
    options.num_tags = 1;
    tell("tags", servable_engine_open(path.c_str(), &options, &model, &status));
    options = SERVABLE_ENGINE_OPTIONS_INIT;
    options.max_batch_size = -1;
    tell("max_batch_size", servable_engine_open(path.c_str(), &options, &model, &status));
    tell("acquire", servable_engine_acquire(nullptr, &version, &status));
    std::cout << "no status: " << servable_engine_open(nullptr, nullptr, nullptr, nullptr) << "\n";
    servable_engine_close(nullptr);
    servable_engine_release(nullptr);
    std::size_t count = 1;
    std::cout << (servable_engine_signatures(nullptr, &count) == nullptr) << count
              << servable_engine_version_number(nullptr)
              << (servable_engine_tensorflow_version(nullptr) == nullptr) << "\n";
    servable_engine_open(path.c_str(), nullptr, &model, nullptr);
    servable_engine_acquire(model, &version, nullptr);
    tell("version", servable_engine_run(nullptr, nullptr, &status));
    tell("call", servable_engine_run(version, nullptr, &status));
    servable_engine_call call{};
    tell("call size", servable_engine_run(version, &call, &status));
    call.struct_size = sizeof call;
    call.num_inputs = 1;
    tell("input_names", servable_engine_run(version, &call, &status));
    const char *names[] = {nullptr};
    call.input_names = names;
    servable_tensor tensor{};
    call.inputs = &tensor;
    tell("a name", servable_engine_run(version, &call, &status));
    names[0] = "x";
    tell("outputs", servable_engine_run(version, &call, &status));
    const char *y = "y";
    servable_tensor result{};
    call.output_names = &y;
    call.outputs = &result;
    call.num_outputs = 1;
    tensor.dtype = SERVABLE_FLOAT;
    tensor.rank = 1;
    tell("dims", servable_engine_run(version, &call, &status));
    const std::int64_t dims[] = {2};
    tensor.dims = dims;
    tell("size", servable_engine_run(version, &call, &status));
    tensor.size = 8;
    tell("data", servable_engine_run(version, &call, &status));
    servable_engine_release(version);
    servable_engine_close(model);
}

// Eight threads ask while versions are replaced, until version 2 was freed: each answer is one of
// the version that gave it, which adds its number.
void threads(const std::string &path) {
    std::atomic<bool> is_replaced{false};
    Options options;
    options.poll_interval = std::chrono::milliseconds(5);
    options.on_event = [&](const Event &event) {
        if (event.kind == Event::Kind::loaded) {
            std::cout << "loaded " << event.version << std::endl;
        }
        is_replaced = is_replaced || (event.kind == Event::Kind::unloaded && event.version == 2);
    };
    std::atomic<int> wrong{0};
    {
        const Model model(path, options);
        std::vector<std::thread> asking;
        for (int thread = 0; thread < 8; ++thread) {
            asking.emplace_back([&, thread] {
                while (!is_replaced) {
                    const Version version = model.acquire();
                    const auto value = static_cast<float>(thread);
                    const auto outputs = version.predict(x({value}));
                    const auto expected = value / 2 + static_cast<float>(version.number());
                    wrong += outputs.at("y").at<float>(0) != expected;
                }
            });
        }
        for (std::thread &thread : asking) {
            thread.join();
        }
    }
    std::cout << "wrong: " << wrong << "\n";
}

// What becomes of versions, as they come; until the input ends.
void watch(const std::string &path) {
    Options options;
    options.poll_interval = std::chrono::milliseconds(20);
    options.on_event = [](const Event &event) {
        const char *kinds[] = {"", "loaded", "failed", "unloaded"};
        std::cout << event.version << " " << kinds[static_cast<int>(event.kind)];
        if (event.kind == Event::Kind::failed) {
            std::cout << " " << name_of(event.code);
        }
        std::cout << std::endl;
    };
    const Model model(path, options);
    std::string line;
    std::optional<Version> held;
    while (std::getline(std::cin, line)) {
        if (line == "hold") {
            held = model.acquire();
            std::cout << "held " << held->number() << std::endl;
        } else if (line == "use") {
            std::cout << text<float>(held->predict(x({1})).at("y")) << std::endl;
        } else if (line == "release") {
            held.reset();
        } else {
            std::cout << text<float>(model.predict(x({1})).at("y")) << std::endl;
        }
    }
}

// Requests of many threads, run together.
void batched(const std::string &path, std::chrono::microseconds timeout) {
    Options options;
    options.max_batch_size = 16;
    options.batch_timeout = timeout;
    const Model model(path, options);
    std::atomic<int> wrong{0};
    std::vector<std::thread> asking;
    for (int thread = 0; thread < 8; ++thread) {
        asking.emplace_back([&, thread] {
            for (int turn = 0; turn < 50; ++turn) {
                const auto value = static_cast<float>(thread * 100 + turn);
                const auto y = model.predict(x({value, value + 1})).at("y").to_vector<float>();
                wrong += y != std::vector<float>{value / 2 + 2, (value + 1) / 2 + 2};
            }
        });
    }
    for (std::thread &thread : asking) {
        thread.join();
    }
    const auto large = model.predict(x(std::vector<float>(40, 1))).at("y").to_vector<float>();
    std::cout << "split: " << (large == std::vector<float>(40, 2.5F) ? "same" : "DIFFERS") << "\n";
    RunOptions late;
    late.timeout = std::chrono::milliseconds(5000);
    std::cout << "wrong: " << wrong << ", in time: " << text<float>(model.predict(x({1}), late).at("y"))
              << "\n";
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    const std::string check = argv[1];
    const std::string path = argv[2];
    try {
        if (check == "predict") predict(path);
        else if (check == "signatures") signatures(path);
        else if (check == "chosen") chosen(path);
        else if (check == "echo") echo(path);
        else if (check == "refused") refused(path);
        else if (check == "nulls") nulls(path);
        else if (check == "threads") threads(path);
        else if (check == "watch") watch(path);
        else if (check == "adaptive") batched(path, std::chrono::microseconds(0));
        else if (check == "fixed") batched(path, std::chrono::microseconds(2000));
        else return 2;
    } catch (const Error &error) {
        std::cout << error.what() << "\n";
        return 1;
    }
}
