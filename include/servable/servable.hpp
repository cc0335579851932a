// Models written in C++17, as the server's platform "native" loads them.
//
// Derive a class from servable::Servable and export it; this is a whole model:
//
//     #include <servable/servable.hpp>
//
//     class Half : public servable::Servable {
//      public:
//       void describe(servable::Description &model) const override {
//         model.signature("serving_default")
//             .input<float>("x", {servable::any})
//             .output<float>("y", {servable::any});
//       }
//
//       void run(servable::Run &run) const override {
//         const auto x = run.input<float>("x");
//         const auto y = run.output<float>("y", x.shape());
//         for (std::size_t at = 0; at < x.size(); ++at) y[at] = x[at] / 2;
//       }
//     };
//
//     SERVABLE_EXPORT(Half);
//
// It is compiled with -std=c++17 -shared -fPIC -fvisibility=hidden, and -fno-gnu-unique where that
// is gcc, into `servable.so`.
//
// This header puts classes, views and exceptions over <servable/servable.h>, and decides nothing
// that is not said there: who owns what, which threads there are, what is called when.
#ifndef SERVABLE_SERVABLE_HPP
#define SERVABLE_SERVABLE_HPP

#include <servable/servable.h>
#include <servable/tensor.hpp>

#include <cstdint>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace servable {

// What is to be loaded.
struct Version {
    // The version directory, and what the model's files are called from there.
    std::string directory;
    std::string model_name;
    std::int64_t number = 0;

    std::string file(std::string_view name) const { return directory + "/" + std::string(name); }
};

// The size of a dimension that clients choose.
inline constexpr std::int64_t any = -1;

// The inputs and outputs of one signature, in the order in which they are added.
class Signature {
   public:
    template <typename T>
    Signature &input(std::string name, std::vector<std::int64_t> dims) {
        return input(std::move(name), dtype_of<T>, std::move(dims));
    }
    template <typename T>
    Signature &output(std::string name, std::vector<std::int64_t> dims) {
        return output(std::move(name), dtype_of<T>, std::move(dims));
    }
    // The same with a type that has no C++ type: SERVABLE_INT4, SERVABLE_FLOAT8_E5M2 …
    Signature &input(std::string name, std::int32_t dtype, std::vector<std::int64_t> dims) {
        add(inputs_, std::move(name), dtype, std::move(dims));
        return *this;
    }
    Signature &output(std::string name, std::int32_t dtype, std::vector<std::int64_t> dims) {
        add(outputs_, std::move(name), dtype, std::move(dims));
        return *this;
    }
    // With any number of dimensions.
    Signature &input_of_any_rank(std::string name, std::int32_t dtype) {
        add(inputs_, std::move(name), dtype, {});
        inputs_.specs.back().rank = -1;
        return *this;
    }
    Signature &output_of_any_rank(std::string name, std::int32_t dtype) {
        add(outputs_, std::move(name), dtype, {});
        outputs_.specs.back().rank = -1;
        return *this;
    }

   private:
    friend class Description;

    // What the specs point to stays where it is when more is added.
    struct Tensors {
        std::deque<std::string> names;
        std::deque<std::vector<std::int64_t>> dims;
        std::vector<servable_tensor_spec> specs;
    };

    static void add(Tensors &tensors, std::string name, std::int32_t dtype,
                    std::vector<std::int64_t> dims) {
        const std::string &kept = tensors.names.emplace_back(std::move(name));
        const std::vector<std::int64_t> &sizes = tensors.dims.emplace_back(std::move(dims));
        const auto rank = static_cast<std::int32_t>(sizes.size());
        tensors.specs.push_back({kept.c_str(), dtype, rank, sizes.data()});
    }

    Tensors inputs_;
    Tensors outputs_;
};

// What a model offers; a servable fills it in once, after it was made.
class Description {
   public:
    Description() = default;
    Description(const Description &) = delete;
    Description &operator=(const Description &) = delete;

    // A signature for Predict; clients mean "serving_default" when they name none.
    Signature &signature(std::string name) { return add(std::move(name), SERVABLE_PREDICT); }

    // A signature for Classify: its outputs are "classes" and "scores", or one of them.
    // <servable/example.hpp> reads what its run gets as `inputs`.
    Signature &classify(std::string name, bool classes = true, bool scores = true) {
        Signature &made = add(std::move(name), SERVABLE_CLASSIFY);
        made.input<std::string_view>("inputs", {any});
        if (classes) made.output<std::string_view>("classes", {any, any});
        if (scores) made.output<float>("scores", {any, any});
        return made;
    }

    // A signature for Regress: the same input, and one output "outputs".
    Signature &regress(std::string name) {
        Signature &made = add(std::move(name), SERVABLE_REGRESS);
        made.input<std::string_view>("inputs", {any});
        made.output<float>("outputs", {any});
        return made;
    }

    // How many runs there may be at one time; without it any number.
    Description &threads(std::uint32_t count) {
        c_.threads = count;
        return *this;
    }

    // Promise that runs wait for nothing; see SERVABLE_NEVER_WAITS.
    Description &never_waits() {
        c_.flags |= SERVABLE_NEVER_WAITS;
        return *this;
    }

    // As the C interface has it; valid while nothing is added.
    const servable_description &c() {
        c_signatures_.clear();
        for (Named &named : signatures_) {
            auto &in = named.signature.inputs_.specs, &out = named.signature.outputs_.specs;
            c_signatures_.push_back({named.name.c_str(), in.data(), in.size(), out.data(),
                                     out.size(), named.method});
        }
        c_.struct_size = sizeof c_;
        c_.signatures = c_signatures_.data();
        c_.num_signatures = c_signatures_.size();
        return c_;
    }

   private:
    struct Named {
        std::string name;
        std::int32_t method = SERVABLE_PREDICT;
        Signature signature;
    };

    Signature &add(std::string name, std::int32_t method) {
        Named &made = signatures_.emplace_back();
        made.name = std::move(name);
        made.method = method;
        return made.signature;
    }

    std::deque<Named> signatures_;
    std::vector<servable_signature> c_signatures_;
    servable_description c_{};
};

// One run: what was asked, and where the answer goes. Lives until the run returns.
class Run {
   public:
    Run(const servable_signature &signature, const servable_run &run)
        : signature_(signature), run_(run) {}
    Run(const Run &) = delete;
    Run &operator=(const Run &) = delete;

    // Outputs of a run that fails are given up.
    ~Run() {
        if (is_done_) return;
        for (std::size_t at = 0; at < run_.num_outputs; ++at) drop(run_.outputs[at]);
    }

    // Which signature is asked for.
    std::string_view signature() const { return signature_.name; }

    // An input, in the memory that it came in.
    template <typename T>
    TensorView<T> input(std::string_view name) const {
        return TensorView<T>(input(name));
    }
    const servable_tensor &input(std::string_view name) const {
        return run_.inputs[find(signature_.inputs, run_.num_inputs, name)];
    }

    // Whether somebody waits for an output; one that nobody wants may be left out.
    bool wants(std::string_view name) const {
        return run_.wanted[find(signature_.outputs, run_.num_outputs, name)] != 0;
    }

    // Memory for an output of numbers, to be written to; it is not zeroed.
    template <typename T>
    Span<T> output(std::string_view name, Shape shape) {
        static_assert(dtype_of<T> != SERVABLE_STRING, "strings are given with give()");
        return {static_cast<T *>(output(name, dtype_of<T>, shape)), shape.elements()};
    }
    // The same for any type of plain elements.
    void *output(std::string_view name, std::int32_t dtype, Shape shape) {
        return put(name, [&] { return allocate(dtype, shape); }).second;
    }

    // An output that is there already: its memory is taken over, and not copied.
    template <typename T>
    void give(std::string_view name, Shape shape, std::vector<T> &&elements) {
        put(name, [&] { return adopt(shape, std::move(elements)); });
    }

    // An output in memory that somebody else keeps, for as long as `owner` does; null: for as long
    // as the servable lives. Nobody may write to it meanwhile.
    template <typename T>
    void lend(std::string_view name, Shape shape, const T *elements,
              std::shared_ptr<const void> owner = nullptr) {
        put(name, [&] { return borrow(shape, elements, std::move(owner)); });
    }

    // Nanoseconds that are left when the run begins; below 0: nobody counts.
    std::int64_t timeout_ns() const { return run_.timeout_ns; }

    // The outputs are the caller's from now on.
    void finish() { is_done_ = true; }

   private:
    static std::size_t find(const servable_tensor_spec *specs, std::size_t count,
                            std::string_view name) {
        for (std::size_t at = 0; at < count; ++at) {
            if (name == specs[at].name) return at;
        }
        throw Error(SERVABLE_INTERNAL, "the signature has no '" + std::string(name) + "'");
    }

    static void drop(servable_tensor &tensor) {
        if (tensor.release != nullptr) tensor.release(tensor.context);
        tensor = servable_tensor{};
    }

    template <typename Make>
    std::pair<servable_tensor *, void *> put(std::string_view name, Make make) {
        servable_tensor &target = run_.outputs[find(signature_.outputs, run_.num_outputs, name)];
        drop(target);
        target = make();
        return {&target, const_cast<void *>(target.data)};
    }

    const servable_signature &signature_;
    const servable_run &run_;
    bool is_done_ = false;
};

// One version of a model. It is made with its Version, or with nothing; a constructor that throws
// fails the load. Whatever is thrown becomes the status of what was asked: an Error its own, and
// any other exception SERVABLE_INTERNAL with its text.
class Servable {
   public:
    Servable() = default;
    Servable(const Servable &) = delete;
    Servable &operator=(const Servable &) = delete;
    virtual ~Servable() = default;

    // Say which signatures there are.
    virtual void describe(Description &model) const = 0;

    // Answer one request. Called on several threads at once, unless the description says
    // otherwise, and therefore const: what it changes needs a lock or an atomic.
    virtual void run(Run &run) const = 0;
};

namespace detail {

struct Instance {
    std::unique_ptr<Servable> servable;
    Description description;
    const servable_description *c = nullptr;
};

inline Instance *of(servable_instance *instance) { return reinterpret_cast<Instance *>(instance); }

template <typename Class>
std::unique_ptr<Servable> make(const servable_load_options &options) {
    static_assert(std::is_base_of_v<Servable, Class>, "derive the class from servable::Servable");
    if constexpr (std::is_constructible_v<Class, const Version &>) {
        return std::make_unique<Class>(
            Version{options.directory, options.model_name, options.model_version});
    } else {
        static_assert(std::is_default_constructible_v<Class>,
                      "a servable is made with a const servable::Version &, or with nothing");
        return std::make_unique<Class>();
    }
}

template <typename Class>
std::int32_t load(const servable_load_options *options, servable_instance **instance,
                  servable_status *status) {
    return guarded(status, [&] {
        auto made = std::make_unique<Instance>();
        made->servable = make<Class>(*options);
        *instance = reinterpret_cast<servable_instance *>(made.release());
    });
}

inline std::int32_t describe(servable_instance *instance, const servable_description **description,
                             servable_status *status) {
    return guarded(status, [&] {
        Instance &one = *of(instance);
        one.servable->describe(one.description);
        one.c = &one.description.c();
        *description = one.c;
    });
}

inline std::int32_t run(servable_instance *instance, const servable_run *asked,
                        servable_status *status) {
    return guarded(status, [&] {
        const Instance &one = *of(instance);
        Run run(one.c->signatures[asked->signature], *asked);
        one.servable->run(run);
        run.finish();
    });
}

// A destructor that throws ends the process, as everywhere in C++.
inline void unload(servable_instance *instance) { delete of(instance); }

template <typename Class>
constexpr servable_library library() {
    return {SERVABLE_ABI, sizeof(servable_library), load<Class>, describe, run, unload};
}

}  // namespace detail

}  // namespace servable

// Export a class as what `servable.so` serves; once in a library, outside of any namespace.
#define SERVABLE_EXPORT(Class) \
    const servable_library servable_entry = ::servable::detail::library<Class>()

#endif
