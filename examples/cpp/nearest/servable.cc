// The nearest neighbours of vectors, exactly: all of `vectors.npy` in the version directory are
// compared with each query.
//
// `vectors.npy` is what numpy.save writes of a float32 array [n, dimensions]. `k.txt`, where there
// is one, says how many neighbours are returned: 10 without it.

#include <servable/servable.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

using servable::Error;

// A float32 matrix as numpy.save writes it.
struct Matrix {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::vector<float> values;

    explicit Matrix(const std::string &path) {
        std::ifstream file(path, std::ios::binary);
        if (!file) throw Error(SERVABLE_NOT_FOUND, "there is no vectors.npy");
        char head[10];
        file.read(head, sizeof head);
        if (!file || std::string_view(head, 7) != std::string_view("\x93NUMPY\x01", 7)) {
            throw Error(SERVABLE_INVALID_ARGUMENT, "vectors.npy is no array of numpy.save");
        }
        std::uint16_t length = 0;
        std::memcpy(&length, head + 8, sizeof length);
        std::string dictionary(length, '\0');
        file.read(dictionary.data(), length);
        const std::size_t shape = dictionary.find("'shape': (");
        const bool is_plain = dictionary.find("'<f4'") != std::string::npos &&
                              dictionary.find("'fortran_order': False") != std::string::npos;
        if (!is_plain || shape == std::string::npos ||
            std::sscanf(dictionary.c_str() + shape, "'shape': (%ld, %ld)", &rows, &columns) != 2 ||
            rows < 1 || columns < 1) {
            throw Error(SERVABLE_INVALID_ARGUMENT, "vectors.npy is no float32 array [n, d]");
        }
        values.resize(servable::Shape({rows, columns}).elements());
        file.read(reinterpret_cast<char *>(values.data()),
                  static_cast<std::streamsize>(values.size() * sizeof(float)));
        if (!file) throw Error(SERVABLE_DATA_LOSS, "vectors.npy ends too early");
    }

    const float *row(std::int64_t at) const { return values.data() + at * columns; }
};

float squared_distance(const float *one, const float *other, std::int64_t columns) {
    float sum = 0;
    for (std::int64_t at = 0; at < columns; ++at) {
        const float difference = one[at] - other[at];
        sum += difference * difference;
    }
    return sum;
}

class Nearest : public servable::Servable {
   public:
    explicit Nearest(const servable::Version &version) : vectors_(version.file("vectors.npy")) {
        std::ifstream file(version.file("k.txt"));
        if (file && !(file >> k_ && k_ > 0)) {
            throw Error(SERVABLE_INVALID_ARGUMENT, "k.txt has no number above 0");
        }
        k_ = std::min(k_, vectors_.rows);
    }

    void describe(servable::Description &model) const override {
        model.signature("serving_default")
            .input<float>("queries", {servable::any, vectors_.columns})
            .output<std::int64_t>("indices", {servable::any, k_})
            .output<float>("distances", {servable::any, k_});
    }

    void run(servable::Run &run) const override {
        const auto queries = run.input<float>("queries");
        const std::int64_t count = queries.shape()[0];
        const auto indices = run.output<std::int64_t>("indices", {count, k_});
        const auto distances = run.output<float>("distances", {count, k_});
        std::vector<Heap> heaps(static_cast<std::size_t>(count));
        // A block of vectors stays in the cache while all queries of the batch are compared.
        for (std::int64_t start = 0; start < vectors_.rows; start += block) {
            const std::int64_t end = std::min(start + block, vectors_.rows);
            for (std::int64_t query = 0; query < count; ++query) {
                const float *point = queries.data() + query * vectors_.columns;
                look_through(point, start, end, heaps[static_cast<std::size_t>(query)]);
            }
        }
        for (std::size_t query = 0; query < heaps.size(); ++query) {
            std::sort_heap(heaps[query].begin(), heaps[query].end());
            std::size_t at = query * static_cast<std::size_t>(k_);
            for (const auto &[distance, index] : heaps[query]) {
                distances[at] = distance;
                indices[at++] = index;
            }
        }
    }

   private:
    // The nearest so far, the farthest of them on top; of equal ones the first counts as nearer.
    using Heap = std::vector<std::pair<float, std::int64_t>>;
    static constexpr std::int64_t block = 256;

    void look_through(const float *query, std::int64_t start, std::int64_t end, Heap &heap) const {
        for (std::int64_t at = start; at < end; ++at) {
            const float distance = squared_distance(query, vectors_.row(at), vectors_.columns);
            if (static_cast<std::int64_t>(heap.size()) == k_) {
                if (distance >= heap.front().first) continue;
                std::pop_heap(heap.begin(), heap.end());
                heap.pop_back();
            }
            heap.emplace_back(distance, at);
            std::push_heap(heap.begin(), heap.end());
        }
    }

    Matrix vectors_;
    std::int64_t k_ = 10;
};

}  // namespace

SERVABLE_EXPORT(Nearest);
