// Ask a model of one input and one output: ask ADDRESS MODEL NUMBER...
//
//   $ ask localhost:8500 half_plus_two 1 2 5
//   version 1 takes x: float32[?]
//   y: 2.5 3 4.5

#include <servable/client.hpp>

#include <cstdlib>
#include <iostream>

using namespace servable::client;

int main(int argc, char **argv) {
    if (argc < 4) {
        std::cerr << "usage: ask ADDRESS MODEL NUMBER...\n";
        return 2;
    }
    std::vector<float> numbers;
    for (int at = 3; at < argc; ++at) {
        numbers.push_back(std::strtof(argv[at], nullptr));
    }
    try {
        const Client client(argv[1]);
        client.wait_until_ready(argv[2], std::chrono::seconds(10));

        const ModelMetadata metadata = client.metadata(argv[2]);
        const Signature &signature = metadata.signatures.at("serving_default");
        const auto &[name, spec] = *signature.inputs.begin();
        std::cout << "version " << metadata.version << " takes " << name << ": "
                  << name_of(spec.dtype) << (spec.shape ? text_of(*spec.shape) : "[...]") << "\n";

        // The numbers stay where they are: a tensor may borrow its elements.
        const Prediction prediction = client.predict(argv[2], {{name, Tensor::borrow(numbers)}});
        for (const auto &[output, tensor] : prediction.outputs) {
            std::cout << output << ":";
            for (const float value : tensor.to_vector<float>()) {
                std::cout << " " << value;
            }
            std::cout << "\n";
        }
    } catch (const Error &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
