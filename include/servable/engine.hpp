// The engine in a C++ program: open a model, run it, have it replaced by newer versions.
//
//   servable::engine::Model model("models/half_plus_two");
//   auto outputs = model.predict({{"x", Tensor(std::vector<float>{1, 2, 5})}});
//   float first = outputs.at("y").at<float>(0);
//
// A thin layer over <servable/engine.h>, which says what there is to know of memory, threads and
// where TensorFlow is found. What fails throws an Error with code and text.
#ifndef SERVABLE_ENGINE_HPP
#define SERVABLE_ENGINE_HPP

#include <servable/engine.h>
#include <servable/io.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace servable::engine {

using io::Code;
using io::DType;
using io::Error;
using io::name_of;
using io::Shape;
using io::Signature;
using io::Signatures;
using io::Tensor;
using io::Tensors;
using io::TensorSpec;
using io::text_of;

// What became of a version.
struct Event {
    enum class Kind : std::int32_t {
        loaded = SERVABLE_ENGINE_LOADED,
        failed = SERVABLE_ENGINE_FAILED,
        unloaded = SERVABLE_ENGINE_UNLOADED,
    };
    Kind kind;
    std::int64_t version;
    // Why it failed.
    Code code = Code::ok;
    std::string message = {};
};

// See servable_engine_options.
struct Options {
    // Empty: it is looked for.
    std::string tensorflow_directory = {};
    // None: "serve".
    std::vector<std::string> tags = {};
    // A serialized tensorflow.ConfigProto.
    std::string session_config = {};
    // How often to look for newer versions; 0: never.
    std::chrono::milliseconds poll_interval{0};
    // How many rows of requests that wait together are run as one; 0: each runs by itself.
    std::int64_t max_batch_size = 0;
    // How long a batch waits for more rows; 0: size and wait are found from what runs.
    std::chrono::microseconds batch_timeout{0};
    // Told of every version that is loaded, fails or is freed, on the thread where that happens;
    // must not throw, nor use the model.
    std::function<void(const Event &)> on_event = {};
};

// What may be said of one run.
struct RunOptions {
    // Empty: "serving_default".
    std::string signature = {};
    // The outputs wanted; none: all.
    std::vector<std::string> outputs = {};
    // After how long the result is of no use any more; 0: never.
    std::chrono::milliseconds timeout{0};
};

namespace detail {

inline void check(std::int32_t code, const servable_status &status) {
    if (code != SERVABLE_OK) {
        throw Error(static_cast<Code>(code), status.message);
    }
}

inline TensorSpec spec_of(const servable_engine_tensor_spec &spec) {
    TensorSpec made;
    made.dtype = static_cast<DType>(spec.dtype);
    if (spec.rank >= 0) {
        made.shape.emplace(spec.dims, spec.dims + spec.rank);
    }
    return made;
}

} // namespace detail

// One version, which stays loaded for as long as this or a copy of it is there. May be used from
// several threads at once.
class Version {
  public:
    std::int64_t number() const noexcept { return servable_engine_version_number(version_.get()); }

    Signatures signatures() const {
        std::size_t count = 0;
        const servable_engine_signature *all = servable_engine_signatures(version_.get(), &count);
        Signatures signatures;
        for (std::size_t at = 0; at < count; ++at) {
            Signature &made = signatures[all[at].name];
            made.method_name = all[at].method_name;
            for (std::size_t input = 0; input < all[at].num_inputs; ++input) {
                const auto &spec = all[at].inputs[input];
                made.inputs.emplace(spec.name, detail::spec_of(spec));
            }
            for (std::size_t output = 0; output < all[at].num_outputs; ++output) {
                const auto &spec = all[at].outputs[output];
                made.outputs.emplace(spec.name, detail::spec_of(spec));
            }
        }
        return signatures;
    }

    // Run a signature and return its outputs by name. Blocks; what `inputs` borrow has to stay
    // until it returns.
    Tensors predict(const Tensors &inputs, const RunOptions &options = {}) const {
        std::vector<const char *> wanted;
        wanted.reserve(options.outputs.size());
        for (const std::string &name : options.outputs) {
            wanted.push_back(name.c_str());
        }
        if (wanted.empty()) {
            wanted = outputs_of(options.signature);
        }
        std::vector<const char *> names;
        std::vector<servable_tensor> lent;
        names.reserve(inputs.size());
        lent.reserve(inputs.size());
        for (const auto &[name, tensor] : inputs) {
            names.push_back(name.c_str());
            lent.push_back(tensor.lend());
        }
        std::vector<servable_tensor> results(wanted.size());
        servable_engine_call call{};
        call.struct_size = sizeof call;
        call.signature = options.signature.c_str();
        call.input_names = names.data();
        call.inputs = lent.data();
        call.num_inputs = lent.size();
        call.output_names = wanted.data();
        call.outputs = results.data();
        call.num_outputs = results.size();
        call.timeout_ms = options.timeout.count();
        servable_status status{};
        detail::check(servable_engine_run(version_.get(), &call, &status), status);
        Tensors outputs;
        for (std::size_t at = 0; at < results.size(); ++at) {
            outputs.emplace(wanted[at], Tensor::take(results[at]));
        }
        return outputs;
    }

  private:
    friend class Model;

    explicit Version(servable_engine_version *version)
        : version_(version, &servable_engine_release) {}

    std::vector<const char *> outputs_of(const std::string &signature) const {
        const std::string name = signature.empty() ? "serving_default" : signature;
        std::size_t count = 0;
        const servable_engine_signature *all = servable_engine_signatures(version_.get(), &count);
        std::vector<const char *> names;
        for (std::size_t at = 0; at < count; ++at) {
            if (name == all[at].name) {
                for (std::size_t output = 0; output < all[at].num_outputs; ++output) {
                    names.push_back(all[at].outputs[output].name);
                }
                return names;
            }
        }
        throw Error(Code::failed_precondition,
                    "Serving signature key \"" + name + "\" not found.");
    }

    std::shared_ptr<servable_engine_version> version_;
};

// A model that is open. May be used from several threads at once.
class Model {
  public:
    // Open the SavedModel in the directory `path`, or the newest version below it that loads.
    // Blocks until it can answer.
    explicit Model(const std::string &path, const Options &options = {})
        : on_event_(std::make_unique<Listener>(options.on_event)) {
        std::vector<const char *> tags;
        for (const std::string &tag : options.tags) {
            tags.push_back(tag.c_str());
        }
        servable_engine_options made = SERVABLE_ENGINE_OPTIONS_INIT;
        made.tensorflow_directory =
            options.tensorflow_directory.empty() ? nullptr : options.tensorflow_directory.c_str();
        made.tags = tags.data();
        made.num_tags = tags.size();
        made.session_config = options.session_config.data();
        made.session_config_size = options.session_config.size();
        made.poll_interval_ms = options.poll_interval.count();
        made.max_batch_size = options.max_batch_size;
        made.batch_timeout_us = options.batch_timeout.count();
        if (options.on_event) {
            made.on_event = &tell;
            made.event_context = on_event_.get();
        }
        servable_status status{};
        servable_engine_model *model = nullptr;
        detail::check(servable_engine_open(path.c_str(), &made, &model, &status), status);
        model_.reset(model);
    }

    // The version that answers now, for who needs several answers from the same one.
    Version acquire() const {
        servable_status status{};
        servable_engine_version *version = nullptr;
        detail::check(servable_engine_acquire(model_.get(), &version, &status), status);
        return Version(version);
    }

    // Run a signature of the version that answers now; see Version::predict.
    Tensors predict(const Tensors &inputs, const RunOptions &options = {}) const {
        return acquire().predict(inputs, options);
    }

    // The version of TensorFlow that runs it.
    std::string tensorflow_version() const {
        return servable_engine_tensorflow_version(model_.get());
    }

  private:
    using Listener = std::function<void(const Event &)>;

    struct Close {
        void operator()(servable_engine_model *model) const { servable_engine_close(model); }
    };

    static void tell(void *context, std::int64_t version, std::int32_t event,
                     const servable_status *status) {
        (*static_cast<const Listener *>(context))({static_cast<Event::Kind>(event), version,
                                                   static_cast<Code>(status->code),
                                                   status->message});
    }

    // Declared first: it is still called while the model is closed.
    std::unique_ptr<Listener> on_event_;
    std::unique_ptr<servable_engine_model, Close> model_;
};

} // namespace servable::engine

#endif
