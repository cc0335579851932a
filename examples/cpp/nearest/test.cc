// The index by itself, in a directory that this makes: no server is needed to test a servable.

#include <servable/testing.hpp>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

// Write float32 [rows, columns] as numpy.save does.
void save(const std::string &path, std::int64_t rows, std::int64_t columns,
          const std::vector<float> &values) {
    std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows) + ", " + std::to_string(columns) + "), }";
    text.resize(118 - 1, ' ');
    text += '\n';
    std::ofstream file(path, std::ios::binary);
    file << "\x93NUMPY" << '\x01' << '\0' << static_cast<char>(text.size()) << '\0' << text;
    file.write(reinterpret_cast<const char *>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(float)));
}

int failures = 0;

void expect(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "not so: %s\n", what);
    ++failures;
}

}  // namespace

int main() {
    const auto directory = std::filesystem::temp_directory_path() / "nearest_test";
    std::filesystem::create_directories(directory);
    save(directory / "vectors.npy", 4, 2, {0, 0, 3, 4, 1, 0, 0, 1});
    std::ofstream(directory / "k.txt") << 2;
    {
        const servable::testing::Model model(servable_entry, directory);
        const auto outputs = model.run("serving_default", "queries",
                                       servable::Tensor({2, 2}, std::vector<float>{0, 0, 3, 3}));
        const auto indices = outputs.at("indices").view<std::int64_t>();
        const auto distances = outputs.at("distances").view<float>();
        expect(indices.shape()[0] == 2 && indices.shape()[1] == 2, "two neighbours of each");
        expect(indices[0] == 0 && distances[0] == 0, "a vector is nearest to itself");
        expect(indices[1] == 2 && distances[1] == 1, "of equally near ones the first is taken");
        expect(indices[2] == 1 && distances[2] == 1, "the second query has neighbours of its own");
    }
    std::ofstream(directory / "k.txt") << "many";
    try {
        const servable::testing::Model model(servable_entry, directory);
        expect(false, "a k that is no number is refused");
    } catch (const servable::Error &error) {
        expect(error.code() == SERVABLE_INVALID_ARGUMENT, "and that is said");
    }
    std::filesystem::remove_all(directory);
    return failures;
}
