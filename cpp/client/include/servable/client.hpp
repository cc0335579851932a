// A client of a model server, over gRPC: tensors in, tensors out.
//
//   servable::client::Client client("localhost:8500");
//   auto outputs = client.predict("half_plus_two", {{"x", Tensor(std::vector<float>{1, 2, 5})}});
//   float first = outputs.at("y").at<float>(0);
//
// It decides how long a call may take and when it is tried again; what the server answers and
// refuses, with which code and text, comes through unchanged, as an Error. No header of gRPC or
// of protobuf is needed to compile what uses it.
#ifndef SERVABLE_CLIENT_HPP
#define SERVABLE_CLIENT_HPP

#include <servable/io.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace servable::client {

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

// Certificates and keys in PEM, the texts and not the names of their files.
struct Tls {
    // Whom to trust; empty: the roots of the system.
    std::string root_certificates = {};
    // What to show to a server that asks who the client is; both or none.
    std::string private_key = {};
    std::string certificate_chain = {};
    // The name that the server's certificate is for, where it is not that of the address.
    std::string server_name = {};
};

struct Options {
    // Without it nothing is encrypted.
    std::optional<Tls> tls = {};
    // Asked before every call, and what it returns is sent as a bearer token; must be safe to call
    // from several threads.
    std::function<std::string()> token = {};
    // How long a call may take that does not say so itself.
    std::chrono::milliseconds timeout = std::chrono::seconds(10);
    // How often a server is tried that is UNAVAILABLE, within that time.
    int attempts = 4;
    // After how long a silent connection is probed; 0: never.
    std::chrono::milliseconds keep_alive = std::chrono::seconds(300);
};

// Which model, which version of it, and which of its signatures.
class Model {
  public:
    Model(std::string name) : name_(std::move(name)) {}
    Model(const char *name) : name_(name) {}

    // A version by its number, or by a label such as "canary"; otherwise the server chooses,
    // which is the newest unless it has been told to divide requests.
    Model &version(std::int64_t number) & {
        version_ = number;
        label_.clear();
        return *this;
    }
    Model &label(std::string label) & {
        label_ = std::move(label);
        version_.reset();
        return *this;
    }
    // A signature; otherwise "serving_default".
    Model &signature(std::string name) & {
        signature_ = std::move(name);
        return *this;
    }

    Model version(std::int64_t number) && { return std::move(this->version(number)); }
    Model label(std::string label) && { return std::move(this->label(std::move(label))); }
    Model signature(std::string name) && { return std::move(this->signature(std::move(name))); }

    const std::string &name() const noexcept { return name_; }
    const std::optional<std::int64_t> &version() const noexcept { return version_; }
    const std::string &label() const noexcept { return label_; }
    const std::string &signature() const noexcept { return signature_; }

  private:
    std::string name_;
    std::optional<std::int64_t> version_;
    std::string label_;
    std::string signature_;
};

// What may be said of one call.
struct CallOptions {
    // All attempts together; otherwise Options::timeout.
    std::optional<std::chrono::milliseconds> timeout = {};
    // The outputs wanted of predict; none: all.
    std::vector<std::string> outputs = {};
};

// Named tensors, and the version that they are from.
struct Prediction {
    Tensors outputs;
    std::int64_t version = 0;

    // The output of that name; throws NOT_FOUND if there is none.
    const Tensor &at(const std::string &name) const;
};

// The values of one feature of an example: numbers, integers, or strings.
class Feature {
  public:
    Feature(float value) : values(std::vector<float>{value}) {}
    Feature(double value) : Feature(static_cast<float>(value)) {}
    Feature(int value) : values(std::vector<std::int64_t>{value}) {}
    Feature(std::int64_t value) : values(std::vector<std::int64_t>{value}) {}
    Feature(std::string value) : values(std::vector<std::string>{std::move(value)}) {}
    Feature(const char *value) : Feature(std::string(value)) {}
    Feature(std::vector<float> values) : values(std::move(values)) {}
    Feature(std::vector<std::int64_t> values) : values(std::move(values)) {}
    Feature(std::vector<std::string> values) : values(std::move(values)) {}

    std::variant<std::vector<float>, std::vector<std::int64_t>, std::vector<std::string>> values;
};

// Named features.
using Example = std::map<std::string, Feature>;

struct Class {
    std::string label;
    float score = 0;
};

// The classes of each example.
struct Classification {
    std::vector<std::vector<Class>> examples;
    std::int64_t version = 0;
};

// A number for each example.
struct Regression {
    std::vector<float> values;
    std::int64_t version = 0;
};

struct ModelMetadata {
    std::int64_t version = 0;
    Signatures signatures;
};

enum class State : std::int32_t {
    unknown = 0,
    start = 10,
    loading = 20,
    available = 30,
    unloading = 40,
    end = 50,
};

struct VersionStatus {
    std::int64_t version = 0;
    State state = State::unknown;
    // Why it failed, where it did.
    Code code = Code::ok;
    std::string message;
};

// May be used from several threads at once. Every call throws Error: with the server's code and
// text, UNAVAILABLE where it was not reached, DEADLINE_EXCEEDED where there was no answer in time.
class Client {
  public:
    // `address` is what gRPC takes: "host:8500", "unix:/path", "dns:///name:8500",
    // "ipv4:10.0.0.1:8500,10.0.0.2:8500". Nothing is connected before the first call.
    explicit Client(const std::string &address, Options options = {});
    ~Client();
    Client(Client &&) noexcept;
    Client &operator=(Client &&) noexcept;

    // Run a signature. What `inputs` borrow has to stay until the call returns.
    Prediction predict(const Model &model, const Tensors &inputs,
                       const CallOptions &options = {}) const;

    // Classify or regress examples; the features in `context` are part of each.
    Classification classify(const Model &model, const std::vector<Example> &examples,
                            const Example &context = {}, const CallOptions &options = {}) const;
    Regression regress(const Model &model, const std::vector<Example> &examples,
                       const Example &context = {}, const CallOptions &options = {}) const;

    // The version that answers, and its signatures.
    ModelMetadata metadata(const Model &model, const CallOptions &options = {}) const;

    // The state of every version there is or was; of one, where the model names it.
    std::vector<VersionStatus> status(const Model &model, const CallOptions &options = {}) const;

    // Return when the model can be asked. Throws DEADLINE_EXCEEDED if it takes longer, and
    // FAILED_PRECONDITION when every version has failed to load.
    void wait_until_ready(const Model &model,
                          std::chrono::milliseconds timeout = std::chrono::seconds(60)) const;

  private:
    class Connection;
    std::unique_ptr<Connection> connection_;
};

} // namespace servable::client

#endif
