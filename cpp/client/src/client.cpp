// The client's calls: messages made and read, deadlines kept, and an unavailable server tried again.

#include <servable/client.hpp>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>

#include "servable_wire/signature_def.pb.h"
#include "servable_wire/tensorflow_serving/apis/classification.pb.h"
#include "servable_wire/tensorflow_serving/apis/get_model_status.pb.h"
#include "servable_wire/tensorflow_serving/apis/predict.pb.h"
#include "servable_wire/tensorflow_serving/apis/regression.pb.h"

namespace servable::client {

namespace tf = ::servable_wire::tensorflow;
namespace serving = ::servable_wire::tensorflow::serving;

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds first_pause{50};
constexpr milliseconds longest_pause{1000};
constexpr milliseconds readiness_try{5000};

// Tensors into messages.

void encode(const Tensor &tensor, tf::TensorProto &proto) {
    if (tensor.dtype() == DType::invalid) {
        throw Error(Code::invalid_argument, "a tensor that was never given anything is no input");
    }
    proto.set_dtype(static_cast<tf::DataType>(tensor.dtype()));
    proto.mutable_tensor_shape();
    for (const std::int64_t size : tensor.shape()) {
        proto.mutable_tensor_shape()->add_dim()->set_size(size);
    }
    if (tensor.dtype() == DType::string) {
        proto.mutable_string_val()->Reserve(static_cast<int>(tensor.size()));
        for (std::size_t at = 0; at < tensor.size(); ++at) {
            const std::string_view string = tensor.string_at(at);
            proto.add_string_val(string.data(), string.size());
        }
    } else if (tensor.byte_size() > 0) {
        proto.set_tensor_content(tensor.raw(), tensor.byte_size());
    }
}

// Messages into tensors.

[[noreturn]] void bad_answer(const std::string &name, const std::string &problem) {
    throw Error(Code::internal, "the server's output " + name + " " + problem);
}

// Elements that stand in a repeated field: those that are missing are the last one again.
template <typename T, typename Field>
std::vector<T> filled(const std::string &name, const Field &field, std::size_t size) {
    if (static_cast<std::size_t>(field.size()) > size || (field.empty() && size > 0)) {
        bad_answer(name, "does not have the elements of its shape");
    }
    std::vector<T> values(size);
    std::transform(field.begin(), field.end(), values.begin(),
                   [](const auto &value) { return static_cast<T>(value); });
    if (!field.empty()) {
        std::fill(values.begin() + field.size(), values.end(), values[field.size() - 1]);
    }
    return values;
}

template <typename T, typename Field>
Tensor numbers(const std::string &name, DType dtype, const Shape &shape, std::size_t size,
               const Field &field, const std::shared_ptr<const void> &owner) {
    // Where the message has the elements as they are wanted, they stay there.
    if constexpr (std::is_same_v<typename Field::value_type, T>) {
        if (static_cast<std::size_t>(field.size()) == size) {
            return Tensor::of(dtype, shape, field.data(), size * sizeof(T), owner);
        }
    }
    auto values = std::make_shared<const std::vector<T>>(filled<T>(name, field, size));
    return Tensor::of(dtype, shape, values->data(), size * sizeof(T), values);
}

template <typename T>
Tensor complex_numbers(const std::string &name, DType dtype, const Shape &shape, std::size_t size,
                       const ::google::protobuf::RepeatedField<T> &field,
                       const std::shared_ptr<const void> &owner) {
    if (static_cast<std::size_t>(field.size()) != 2 * size) {
        bad_answer(name, "does not have the elements of its shape");
    }
    return Tensor::of(dtype, shape, field.data(), size * 2 * sizeof(T), owner);
}

Tensor decode(const std::string &name, const tf::TensorProto &proto,
              const std::shared_ptr<const void> &owner) {
    const auto dtype = static_cast<DType>(proto.dtype());
    const std::size_t each = servable_dtype_size(proto.dtype());
    Shape shape;
    std::size_t size = 1;
    for (const auto &dim : proto.tensor_shape().dim()) {
        shape.push_back(dim.size());
        if (dim.size() < 0 ||
            __builtin_mul_overflow(size, static_cast<std::size_t>(dim.size()), &size)) {
            bad_answer(name, "has no possible shape");
        }
    }
    // A few bytes of message must not ask for gigabytes of zeros.
    constexpr std::size_t most = std::size_t{1} << 34;
    if (each == 0 || size > most / each) {
        bad_answer(name, "is of a type or size that no tensor here has");
    }
    const std::string &content = proto.tensor_content();
    if (!content.empty()) {
        if (dtype == DType::string || content.size() != size * each) {
            bad_answer(name, "does not have the bytes of its shape");
        }
        return Tensor::of(dtype, shape, content.data(), content.size(), owner);
    }
    switch (dtype) {
    case DType::float32:
        return numbers<float>(name, dtype, shape, size, proto.float_val(), owner);
    case DType::float64:
        return numbers<double>(name, dtype, shape, size, proto.double_val(), owner);
    case DType::int64:
        return numbers<std::int64_t>(name, dtype, shape, size, proto.int64_val(), owner);
    case DType::uint32:
        return numbers<std::uint32_t>(name, dtype, shape, size, proto.uint32_val(), owner);
    case DType::uint64:
        return numbers<std::uint64_t>(name, dtype, shape, size, proto.uint64_val(), owner);
    case DType::boolean: {
        static_assert(sizeof(bool) == 1);
        return numbers<std::uint8_t>(name, dtype, shape, size, proto.bool_val(), owner);
    }
    case DType::complex64:
        return complex_numbers(name, dtype, shape, size, proto.scomplex_val(), owner);
    case DType::complex128:
        return complex_numbers(name, dtype, shape, size, proto.dcomplex_val(), owner);
    case DType::float16:
    case DType::bfloat16:
        return numbers<std::uint16_t>(name, dtype, shape, size, proto.half_val(), owner);
    case DType::string: {
        if (static_cast<std::size_t>(proto.string_val_size()) != size) {
            bad_answer(name, "does not have the strings of its shape");
        }
        struct Cells {
            std::shared_ptr<const void> owner;
            std::vector<servable_string> cells;
        };
        auto cells = std::make_shared<Cells>();
        cells->owner = owner;
        cells->cells.reserve(size);
        for (const std::string &value : proto.string_val()) {
            cells->cells.push_back({value.data(), value.size()});
        }
        return Tensor::of(dtype, shape, cells->cells.data(), size * each, cells);
    }
    default:
        break;
    }
    // The others stand in int_val, as wide as they are.
    const auto &ints = proto.int_val();
    switch (each) {
    case 1: return numbers<std::uint8_t>(name, dtype, shape, size, ints, owner);
    case 2: return numbers<std::uint16_t>(name, dtype, shape, size, ints, owner);
    case 4: return numbers<std::int32_t>(name, dtype, shape, size, ints, owner);
    default: bad_answer(name, "is of a type that is not known here");
    }
}

void encode(const Model &model, serving::ModelSpec &spec) {
    spec.set_name(model.name());
    spec.set_signature_name(model.signature());
    if (model.version()) {
        spec.mutable_version()->set_value(*model.version());
    } else if (!model.label().empty()) {
        spec.set_version_label(model.label());
    }
}

void encode(const Example &example, tf::Example &proto) {
    auto &features = *proto.mutable_features()->mutable_feature();
    for (const auto &[name, feature] : example) {
        tf::Feature &made = features[name];
        if (const auto *floats = std::get_if<std::vector<float>>(&feature.values)) {
            made.mutable_float_list()->mutable_value()->Add(floats->begin(), floats->end());
        } else if (const auto *ints = std::get_if<std::vector<std::int64_t>>(&feature.values)) {
            made.mutable_int64_list()->mutable_value()->Add(ints->begin(), ints->end());
        } else {
            auto &list = *made.mutable_bytes_list();
            for (const auto &text : std::get<std::vector<std::string>>(feature.values)) {
                list.add_value(text);
            }
        }
    }
}

void encode(const std::vector<Example> &examples, const Example &context, serving::Input &input) {
    const auto put = [&](auto &list) {
        for (const Example &example : examples) {
            encode(example, *list.add_examples());
        }
    };
    if (context.empty()) {
        put(*input.mutable_example_list());
    } else {
        put(*input.mutable_example_list_with_context());
        encode(context, *input.mutable_example_list_with_context()->mutable_context());
    }
}

TensorSpec decode(const serving::TensorInfo &info) {
    TensorSpec spec;
    // Reference types are what they refer to, for who feeds them.
    constexpr int reference = 100;
    const int number = info.dtype();
    spec.dtype = static_cast<DType>(number > reference ? number - reference : number);
    if (!info.tensor_shape().unknown_rank()) {
        spec.shape.emplace();
        for (const auto &dim : info.tensor_shape().dim()) {
            spec.shape->push_back(dim.size());
        }
    }
    return spec;
}

std::string text_of(const VersionStatus &version) {
    std::string text = "version " + std::to_string(version.version) + " is in state " +
                       std::to_string(static_cast<int>(version.state));
    if (version.code != Code::ok) {
        text += ": " + std::string(io::name_of(version.code)) + ": " + version.message;
    }
    return text;
}

// How long to wait before attempt number `attempt + 1`: twice as long each time, and not in step
// with other clients.
milliseconds pause_after(int attempt) {
    thread_local std::minstd_rand random(std::random_device{}());
    const double part = std::uniform_real_distribution<double>(0.5, 1.0)(random);
    const double longest = first_pause.count() * std::pow(2.0, std::min(attempt, 10));
    return milliseconds(
        static_cast<std::int64_t>(part * std::min<double>(longest, longest_pause.count())));
}

} // namespace

const Tensor &Prediction::at(const std::string &name) const {
    const auto found = outputs.find(name);
    if (found == outputs.end()) {
        throw Error(Code::not_found, "the answer has no output " + name);
    }
    return found->second;
}

// The channel, and how a call goes over it.
class Client::Connection {
  public:
    Connection(const std::string &address, Options options) : options_(std::move(options)) {
        grpc::ChannelArguments arguments;
        // The server limits messages; a large answer is not the client's to refuse.
        arguments.SetMaxReceiveMessageSize(-1);
        arguments.SetMaxSendMessageSize(-1);
        if (options_.keep_alive.count() > 0) {
            arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                             static_cast<int>(options_.keep_alive.count()));
        }
        channel_ = grpc::CreateCustomChannel(address, credentials(arguments), arguments);
    }

    Clock::time_point deadline(const CallOptions &options) const {
        const milliseconds timeout = options.timeout.value_or(options_.timeout);
        if (timeout.count() <= 0) {
            throw Error(Code::deadline_exceeded, "a timeout of " + std::to_string(timeout.count()) +
                                                     " ms leaves no time for a call");
        }
        return Clock::now() + timeout;
    }

    // Send a request, and again while the server is UNAVAILABLE and there is time.
    template <typename Response, typename Request>
    void call(const char *method, const Request &request, Response &response,
              Clock::time_point deadline) const {
        for (int attempt = 0;; ++attempt) {
            try {
                return once(method, request, response, deadline);
            } catch (const Error &error) {
                const milliseconds pause = pause_after(attempt);
                if (error.code() != Code::unavailable || attempt + 1 >= options_.attempts ||
                    Clock::now() + pause >= deadline) {
                    throw;
                }
                std::this_thread::sleep_for(pause);
            }
        }
    }

    // The same, once.
    template <typename Response, typename Request>
    void once(const char *method, const Request &request, Response &response,
              Clock::time_point deadline) const {
        using grpc::protobuf::MessageLite;
        grpc::ClientContext context;
        const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
        context.set_deadline(std::chrono::system_clock::now() + std::max(left, milliseconds(0)));
        if (options_.token) {
            context.AddMetadata("authorization", "Bearer " + options_.token());
        }
        const grpc::internal::RpcMethod rpc(method, grpc::internal::RpcMethod::NORMAL_RPC,
                                            channel_);
        const grpc::Status status =
            grpc::internal::BlockingUnaryCall<Request, Response, MessageLite, MessageLite>(
                channel_.get(), rpc, &context, request, &response);
        if (!status.ok()) {
            throw Error(static_cast<Code>(status.error_code()), status.error_message());
        }
    }

  private:
    std::shared_ptr<grpc::ChannelCredentials>
    credentials(grpc::ChannelArguments &arguments) const {
        if (!options_.tls) {
            return grpc::InsecureChannelCredentials();
        }
        const Tls &tls = *options_.tls;
        if (tls.private_key.empty() != tls.certificate_chain.empty()) {
            throw Error(Code::invalid_argument,
                        "tls has one of private_key and certificate_chain, and needs both or none");
        }
        if (!tls.server_name.empty()) {
            arguments.SetSslTargetNameOverride(tls.server_name);
        }
        return grpc::SslCredentials(
            {tls.root_certificates, tls.private_key, tls.certificate_chain});
    }

    Options options_;
    std::shared_ptr<grpc::Channel> channel_;
};

Client::Client(const std::string &address, Options options)
    : connection_(std::make_unique<Connection>(address, std::move(options))) {}
Client::~Client() = default;
Client::Client(Client &&) noexcept = default;
Client &Client::operator=(Client &&) noexcept = default;

Prediction Client::predict(const Model &model, const Tensors &inputs,
                           const CallOptions &options) const {
    const auto deadline = connection_->deadline(options);
    serving::PredictRequest request;
    encode(model, *request.mutable_model_spec());
    for (const auto &[name, tensor] : inputs) {
        encode(tensor, (*request.mutable_inputs())[name]);
    }
    for (const std::string &name : options.outputs) {
        request.add_output_filter(name);
    }
    // The tensors of the result keep the message that has their elements.
    auto response = std::make_shared<serving::PredictResponse>();
    connection_->call("/tensorflow.serving.PredictionService/Predict", request, *response,
                      deadline);
    Prediction prediction;
    prediction.version = response->model_spec().version().value();
    for (const auto &[name, proto] : response->outputs()) {
        prediction.outputs.emplace(name, decode(name, proto, response));
    }
    return prediction;
}

Classification Client::classify(const Model &model, const std::vector<Example> &examples,
                                const Example &context, const CallOptions &options) const {
    const auto deadline = connection_->deadline(options);
    serving::ClassificationRequest request;
    encode(model, *request.mutable_model_spec());
    encode(examples, context, *request.mutable_input());
    serving::ClassificationResponse response;
    connection_->call("/tensorflow.serving.PredictionService/Classify", request, response,
                      deadline);
    Classification classification;
    classification.version = response.model_spec().version().value();
    for (const auto &each : response.result().classifications()) {
        auto &classes = classification.examples.emplace_back();
        for (const auto &found : each.classes()) {
            classes.push_back({found.label(), found.score()});
        }
    }
    return classification;
}

Regression Client::regress(const Model &model, const std::vector<Example> &examples,
                           const Example &context, const CallOptions &options) const {
    const auto deadline = connection_->deadline(options);
    serving::RegressionRequest request;
    encode(model, *request.mutable_model_spec());
    encode(examples, context, *request.mutable_input());
    serving::RegressionResponse response;
    connection_->call("/tensorflow.serving.PredictionService/Regress", request, response, deadline);
    Regression regression;
    regression.version = response.model_spec().version().value();
    for (const auto &each : response.result().regressions()) {
        regression.values.push_back(each.value());
    }
    return regression;
}

ModelMetadata Client::metadata(const Model &model, const CallOptions &options) const {
    const auto deadline = connection_->deadline(options);
    serving::GetModelMetadataRequest request;
    encode(model, *request.mutable_model_spec());
    request.add_metadata_field("signature_def");
    serving::GetModelMetadataResponse response;
    connection_->call("/tensorflow.serving.PredictionService/GetModelMetadata", request, response,
                      deadline);
    ModelMetadata metadata;
    metadata.version = response.model_spec().version().value();
    const auto found = response.metadata().find("signature_def");
    serving::SignatureDefMap map;
    if (found == response.metadata().end() || !map.ParseFromString(found->second.value())) {
        throw Error(Code::internal, "the server's answer has no signatures");
    }
    for (const auto &[name, def] : map.signature_def()) {
        Signature &signature = metadata.signatures[name];
        signature.method_name = def.method_name();
        for (const auto &[input, info] : def.inputs()) {
            signature.inputs.emplace(input, decode(info));
        }
        for (const auto &[output, info] : def.outputs()) {
            signature.outputs.emplace(output, decode(info));
        }
    }
    return metadata;
}

namespace {

std::vector<VersionStatus> decode(const serving::GetModelStatusResponse &response) {
    std::vector<VersionStatus> versions;
    for (const auto &each : response.model_version_status()) {
        versions.push_back({each.version(), static_cast<State>(each.state()),
                            static_cast<Code>(each.status().error_code()),
                            each.status().error_message()});
    }
    return versions;
}

constexpr const char *get_model_status = "/tensorflow.serving.ModelService/GetModelStatus";

} // namespace

std::vector<VersionStatus> Client::status(const Model &model, const CallOptions &options) const {
    const auto deadline = connection_->deadline(options);
    serving::GetModelStatusRequest request;
    encode(model, *request.mutable_model_spec());
    serving::GetModelStatusResponse response;
    connection_->call(get_model_status, request, response, deadline);
    return decode(response);
}

void Client::wait_until_ready(const Model &model, milliseconds timeout) const {
    const auto deadline = Clock::now() + timeout;
    serving::GetModelStatusRequest request;
    encode(model, *request.mutable_model_spec());
    std::string last = "nothing was heard of it";
    for (int attempt = 0; Clock::now() < deadline; ++attempt) {
        try {
            serving::GetModelStatusResponse response;
            connection_->once(get_model_status, request, response,
                              std::min(deadline, Clock::now() + readiness_try));
            const auto versions = decode(response);
            const auto is = [](State state) {
                return [state](const VersionStatus &version) { return version.state == state; };
            };
            if (std::any_of(versions.begin(), versions.end(), is(State::available))) {
                return;
            }
            last.clear();
            for (const VersionStatus &version : versions) {
                last += (last.empty() ? "" : "; ") + text_of(version);
            }
            const bool failed =
                std::all_of(versions.begin(), versions.end(), is(State::end)) &&
                std::any_of(versions.begin(), versions.end(),
                            [](const VersionStatus &each) { return each.code != Code::ok; });
            if (failed) {
                throw Error(Code::failed_precondition, "the model did not become available: " + last);
            }
        } catch (const Error &error) {
            switch (error.code()) {
            case Code::deadline_exceeded:
                // The last try is cut short, and knows less than those before it.
                if (Clock::now() >= deadline) break;
                last = error.what();
                break;
            case Code::unavailable:
            case Code::not_found:
                last = error.what();
                break;
            default:
                throw;
            }
        }
        const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
        std::this_thread::sleep_for(std::max(milliseconds(0), std::min(left, pause_after(attempt))));
    }
    throw Error(Code::deadline_exceeded, "the model " + model.name() + " was not ready within " +
                                             std::to_string(timeout.count()) + " ms: " + last);
}

} // namespace servable::client
