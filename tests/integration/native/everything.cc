// A servable that uses all of <servable/servable.hpp>: every type, every method, and ways to fail.

#include <servable/example.hpp>
#include <servable/servable.hpp>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

// Of the kind that two versions would share, were it not for -fno-gnu-unique.
inline std::atomic<std::int64_t> runs{0};

class Everything : public servable::Servable {
   public:
    explicit Everything(const servable::Version &version) : version_(version.number) {
        std::ifstream file(version.file("two.txt"));
        if (!(file >> two_)) throw servable::Error(SERVABLE_DATA_LOSS, "two.txt has no number");
        if (two_ < 0) throw std::runtime_error("thrown by a constructor");
    }

    void describe(servable::Description &model) const override {
        using servable::any;
        model.signature("serving_default").input<float>("x", {any}).output<float>("y", {any});
        for (std::int32_t dtype = 1; dtype <= 33; ++dtype) {
            if (servable_dtype_size(dtype) == 0) continue;
            model.signature("echo_" + std::to_string(dtype))
                .input_of_any_rank("x", dtype)
                .output_of_any_rank("y", dtype);
        }
        model.signature("who")
            .input<float>("x", {any})
            .output<std::int64_t>("version", {any})
            .output<std::int64_t>("runs", {any})
            .output<std::int64_t>("rows", {any});
        model.classify("classify");
        model.regress("regress");
    }

    void run(servable::Run &run) const override {
        const std::string_view signature = run.signature();
        if (signature == "serving_default") return half_plus_two(run);
        if (signature == "who") return who(run);
        if (signature == "classify") return classify(run);
        if (signature == "regress") return regress(run);
        echo(run);
    }

   private:
    void half_plus_two(servable::Run &run) const {
        const auto x = run.input<float>("x");
        if (!x.empty() && x[0] == -1) throw servable::Error(SERVABLE_NOT_FOUND, "no such thing");
        const auto y = run.output<float>("y", x.shape());
        if (!x.empty() && x[0] == -2) throw std::runtime_error("thrown after an output");
        if (!x.empty() && x[0] == -3) throw 3;
        for (std::size_t at = 0; at < x.size(); ++at) y[at] = x[at] / 2 + two_;
    }

    void who(servable::Run &run) const {
        const auto x = run.input<float>("x");
        const auto rows = static_cast<std::int64_t>(x.size());
        const std::vector<std::int64_t> count(x.size(), ++runs);
        run.give("version", {rows}, std::vector<std::int64_t>(x.size(), version_));
        run.give("runs", {rows}, std::vector<std::int64_t>(count));
        if (run.wants("rows")) run.give("rows", {rows}, std::vector<std::int64_t>(x.size(), rows));
    }

    static void classify(servable::Run &run) {
        const auto examples = run.input<std::string_view>("inputs");
        const auto rows = static_cast<std::int64_t>(examples.size());
        std::vector<std::string> classes;
        const auto scores = run.output<float>("scores", {rows, 2});
        for (std::size_t at = 0; at < examples.size(); ++at) {
            const servable::Example example(examples[at]);
            const auto x = example.floats("x");
            const auto names = example.texts("names");
            classes.emplace_back(names.empty() ? "low" : std::string(names[0]));
            classes.emplace_back("high");
            scores[2 * at] = x.empty() ? 0 : 1 - x[0];
            scores[2 * at + 1] = x.empty() ? 0 : x[0];
        }
        run.give("classes", {rows, 2}, std::move(classes));
    }

    static void regress(servable::Run &run) {
        const auto examples = run.input<std::string_view>("inputs");
        const auto outputs = run.output<float>("outputs", examples.shape());
        for (std::size_t at = 0; at < examples.size(); ++at) {
            const servable::Example example(examples[at]);
            float sum = 0;
            for (const std::int64_t number : example.integers("n")) {
                sum += static_cast<float>(number);
            }
            outputs[at] = sum;
        }
    }

    static void echo(servable::Run &run) {
        const servable_tensor &x = run.input("x");
        const servable::Shape shape(x.dims, static_cast<std::size_t>(x.rank));
        if (x.dtype == SERVABLE_STRING) {
            const servable::TensorView<std::string_view> texts(x);
            run.give("y", shape, std::vector<std::string>(texts.begin(), texts.end()));
        } else {
            void *y = run.output("y", x.dtype, shape);
            if (x.size > 0) std::memcpy(y, x.data, x.size);
        }
    }

    std::int64_t version_;
    float two_ = 2;
};

}  // namespace

SERVABLE_EXPORT(Everything);
