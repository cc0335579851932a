// Asks a server one thing and prints what came of it: client_checks CHECK ADDRESS [FILE...].
// tests/integration/test_cpp_client.py says what has to be printed.

#include <servable/client.hpp>

#include <atomic>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

using namespace servable::client;

namespace {

const Model half("half_plus_two");

template <typename T> std::string text(const Tensor &tensor) {
    std::ostringstream all;
    all << name_of(tensor.dtype()) << text_of(tensor.shape());
    for (const T value : tensor.to_vector<T>()) {
        all << " " << value;
    }
    return all.str();
}

template <typename Body> void told(const char *what, Body body) {
    try {
        body();
        std::cout << what << ": no error\n";
    } catch (const Error &error) {
        std::cout << what << ": " << error.what() << "\n";
    }
}

Tensors x(std::vector<float> values) { return {{"x", Tensor(std::move(values))}}; }

void predict(const Client &client) {
    const std::vector<float> numbers = {1, 2, 5};
    const Prediction newest = client.predict(half, {{"x", Tensor::borrow(numbers)}});
    std::cout << "version " << newest.version << ": " << text<float>(newest.at("y")) << "\n";
    const Prediction first = client.predict(Model(half).version(1), x({1, 2, 5}));
    std::cout << "version " << first.version << ": " << text<float>(first.at("y")) << "\n";
    const Prediction stable = client.predict(Model(half).label("stable"), x({1}));
    std::cout << "label stable: version " << stable.version << "\n";
    CallOptions options;
    options.outputs = {"two"};
    const Prediction both = client.predict(Model(half).signature("both"), {}, options);
    std::cout << both.outputs.size() << " output: " << text<float>(both.at("two")) << "\n";
    told("output", [&] { both.at("half"); });
}

template <typename T>
void echo(const Client &client, const char *type, std::vector<T> values) {
    const std::string signature = std::string("echo_") + type;
    const Tensor given(values);
    const Tensor y = client.predict(Model(half).signature(signature), {{"x", given}}).at("y");
    const bool same = y.dtype() == given.dtype() && y.to_vector<T>() == values;
    std::cout << type << (same ? " same\n" : " DIFFERS\n");
}

void types(const Client &client) {
    echo<float>(client, "FLOAT", {1, 1, 1, -2.5F});
    echo<std::int8_t>(client, "INT8", {-128, 127, 127});
    echo<bool>(client, "BOOL", {true, false, false});
    echo<std::uint16_t>(client, "UINT16", {65535, 1});
    echo<std::complex<float>>(client, "COMPLEX64", {{1, 2}, {3, -4}});
    echo<std::complex<double>>(client, "COMPLEX128", {{1, 2}, {3, -4}});
    const std::uint16_t bits[] = {0x3C00, 0xFFFF, 0x3C00};
    for (const auto &[type, dtype] : {std::pair("HALF", DType::float16),
                                      std::pair("BFLOAT16", DType::bfloat16)}) {
        const Model echo = Model(half).signature(std::string("echo_") + type);
        const Tensor y = client.predict(echo, {{"x", Tensor::of(dtype, {3}, bits, 6)}}).at("y");
        const bool same = y.dtype() == dtype && std::memcmp(y.raw(), bits, 6) == 0;
        std::cout << type << (same ? " same\n" : " DIFFERS\n");
    }
    const std::vector<std::string> strings = {"", std::string("a\0b", 3), std::string(1000, 'c')};
    const Model echo_strings = Model(half).signature("echo_STRING");
    const Tensor y = client.predict(echo_strings, {{"x", Tensor(strings)}}).at("y");
    std::cout << "STRING " << (y.strings() == strings ? "same" : "DIFFERS") << "\n";
    const Tensor none = client.predict(half, x({})).at("y");
    std::cout << "empty " << text<float>(none) << "\n";
}

void examples(const Client &client) {
    const std::vector<Example> examples = {{{"x", 2.0F}}, {{"x", std::vector<float>{5}}}};
    const Regression values = client.regress(Model(half).signature("regress"), examples);
    std::cout << "version " << values.version << ":";
    for (const float value : values.values) {
        std::cout << " " << value;
    }
    const Classification classes =
        client.classify(Model(half).signature("classify"), {Example{}, Example{}}, {{"x", 3.0}});
    std::cout << "\n" << classes.examples.size() << " examples:";
    for (const auto &example : classes.examples) {
        std::cout << " [" << example.at(0).label << "] " << example.at(0).score;
    }
    std::cout << "\n";
}

void describe(const Client &client) {
    const ModelMetadata metadata = client.metadata(half);
    const Signature &signature = metadata.signatures.at("regress");
    const TensorSpec &input = signature.inputs.at("inputs");
    std::cout << "version " << metadata.version << ": regress " << signature.method_name
              << " inputs " << name_of(input.dtype) << text_of(*input.shape) << "\n";
    for (const VersionStatus &version : client.status(half)) {
        std::cout << "version " << version.version << " available "
                  << (version.state == State::available) << " " << name_of(version.code)
                  << version.message << "\n";
    }
}

void refused(const Client &client) {
    told("model", [&] { client.predict("no_such", x({1})); });
    told("version", [&] { client.predict(Model(half).version(9), x({1})); });
    told("label", [&] { client.predict(Model(half).label("no_such"), x({1})); });
    told("signature", [&] { client.predict(Model(half).signature("no_such"), x({1})); });
    told("dtype", [&] { client.predict(half, {{"x", Tensor(std::vector<std::int32_t>{1})}}); });
    told("tensor", [&] { client.predict(half, {{"x", Tensor()}}); });
    told("element", [&] { client.predict(half, x({1})).at("y").at<double>(0); });
    told("index", [&] { client.predict(half, x({1})).at("y").at<float>(1); });
    CallOptions options;
    options.timeout = std::chrono::milliseconds(0);
    told("no time", [&] { client.predict(half, x({1}), options); });
    told("ready", [&] { client.wait_until_ready("no_such", std::chrono::milliseconds(200)); });
}

// One client, eight threads.
void threads(const Client &client) {
    std::atomic<int> wrong{0};
    std::vector<std::thread> asking;
    for (int thread = 0; thread < 8; ++thread) {
        asking.emplace_back([&, thread] {
            for (int turn = 0; turn < 25; ++turn) {
                const auto value = static_cast<float>(100 * thread + turn);
                const Prediction prediction = client.predict(Model(half).version(1), x({value}));
                wrong += prediction.at("y").at<float>(0) != value / 2 + 2;
            }
        });
    }
    for (std::thread &thread : asking) {
        thread.join();
    }
    std::cout << "wrong: " << wrong << "\n";
}

std::string read(const char *path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace

int main(int argc, char **argv) {
    const std::string check = argc > 2 ? argv[1] : "";
    Options options;
    try {
        if (check == "tls") { // CA, and certificate and key
            options.tls.emplace();
            options.tls->root_certificates = read(argv[3]);
            if (argc > 5) {
                options.tls->certificate_chain = read(argv[4]);
                options.tls->private_key = read(argv[5]);
            }
            options.timeout = std::chrono::seconds(5);
            options.attempts = 2;
        }
        if (check == "token") {
            options.token = [] { return std::string("secret"); };
        }
        if (check == "dead") {
            options.timeout = std::chrono::seconds(2);
            options.attempts = 2;
        }
        const Client client(argv[2], options);
        if (check == "predict") predict(client);
        else if (check == "types") types(client);
        else if (check == "examples") examples(client);
        else if (check == "describe") describe(client);
        else if (check == "refused") refused(client);
        else if (check == "threads") threads(client);
        else if (check == "ready") {
            client.wait_until_ready(half);
            std::cout << text<float>(client.predict(half, x({1})).at("y")) << "\n";
        }
        else if (check == "tls" || check == "token" || check == "dead")
            std::cout << text<float>(client.predict(half, x({1})).at("y")) << "\n";
        else return 2;
    } catch (const Error &error) {
        std::cout << error.what() << "\n";
        return 1;
    }
}
