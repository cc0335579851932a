// A servable that leaves threads of OpenMP behind, as any does that uses it.

#include <servable/servable.hpp>

class Threads : public servable::Servable {
   public:
    void describe(servable::Description &model) const override {
        model.signature("serving_default")
            .input<float>("x", {servable::any})
            .output<float>("y", {servable::any});
    }

    void run(servable::Run &run) const override {
        const auto x = run.input<float>("x");
        const auto y = run.output<float>("y", x.shape());
        int sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(4)
        for (int at = 0; at < 100; ++at) sum += at;
        for (float &value : y) value = static_cast<float>(sum);
    }
};

SERVABLE_EXPORT(Threads);
