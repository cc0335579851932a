// Classify handwritten digits with the model of the demo, in this process: digits MODEL < CSV
//
// Each line of the CSV is a digit and its 64 pixels, from 0 to 1; digits.py writes such lines.

#include <servable/engine.hpp>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <sstream>

using namespace servable::engine;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t pixels = 64;

struct Image {
    int digit;
    std::vector<float> pixels;
};

std::vector<Image> read(std::istream &lines) {
    std::vector<Image> images;
    for (std::string line; std::getline(lines, line);) {
        std::replace(line.begin(), line.end(), ',', ' ');
        std::istringstream numbers(line);
        Image image{0, std::vector<float>(pixels)};
        numbers >> image.digit;
        for (float &pixel : image.pixels) {
            numbers >> pixel;
        }
        if (!numbers) {
            throw Error(Code::invalid_argument, "a line is not a digit and 64 pixels: " + line);
        }
        images.push_back(std::move(image));
    }
    return images;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: digits MODEL < CSV\n";
        return 2;
    }
    try {
        const std::vector<Image> images = read(std::cin);
        const Model model(argv[1]);
        const Version version = model.acquire();
        // Keras names inputs and outputs as it likes; there is one of each.
        const Signatures signatures = version.signatures();
        const Signature &signature = signatures.at("serving_default");
        const std::string &input = signature.inputs.begin()->first;
        const std::string &output = signature.outputs.begin()->first;

        std::size_t right = 0;
        std::vector<double> took;
        for (const Image &image : images) {
            const auto began = Clock::now();
            const Tensors outputs =
                version.predict({{input, Tensor::borrow(image.pixels.data(), {1, 8, 8})}});
            const Tensor &scores = outputs.at(output);
            const float *first = scores.data<float>();
            const auto best = std::max_element(first, first + scores.size()) - first;
            took.push_back(std::chrono::duration<double, std::micro>(Clock::now() - began).count());
            right += best == image.digit;
        }
        std::cout << "version " << version.number() << ": " << right << " of " << images.size()
                  << " right\n";
        if (!took.empty()) {
            std::nth_element(took.begin(), took.begin() + took.size() / 2, took.end());
            std::cerr << "median " << took[took.size() / 2] << " us an image, TensorFlow "
                      << model.tensorflow_version() << "\n";
        }
    } catch (const Error &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
