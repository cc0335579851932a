// A second opinion on the load generator: the same closed loop, written with gRPC's own C++ client.
//
// usage: load HOST:PORT METHOD BODY_FILE IN_FLIGHT SECONDS
// Prints one line of JSON.  The first second is not counted.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::duration<double, std::micro>;

struct Target {
  grpc::GenericStub stub;
  std::string method;
  grpc::ByteBuffer body;
  grpc::CompletionQueue queue;
};

struct Call {
  std::optional<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer answer;
  grpc::Status status;
  Clock::time_point sent;

  void Send(Target& target) {
    context.emplace();
    answer.Clear();
    sent = Clock::now();
    reader = target.stub.PrepareUnaryCall(&*context, target.method, target.body, &target.queue);
    reader->StartCall();
    reader->Finish(&answer, &status, this);
  }
};

double At(const std::vector<double>& sorted, double quantile) {
  if (sorted.empty()) return 0;
  const auto rank = static_cast<size_t>(quantile * static_cast<double>(sorted.size()));
  return sorted[std::min(rank, sorted.size() - 1)];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s HOST:PORT METHOD BODY_FILE IN_FLIGHT SECONDS\n", argv[0]);
    return 2;
  }
  std::ifstream file(argv[3], std::ios::binary);
  const std::string body{std::istreambuf_iterator<char>(file), {}};
  const grpc::Slice slice(body);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  Target target{grpc::GenericStub(grpc::CreateCustomChannel(
                    argv[1], grpc::InsecureChannelCredentials(), arguments)),
                argv[2],
                grpc::ByteBuffer(&slice, 1),
                {}};

  const double seconds = std::atof(argv[5]);
  const auto opens = Clock::now() + std::chrono::seconds(1);
  const auto closes =
      opens + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::vector<Call> calls(std::max(1, std::atoi(argv[4])));
  for (auto& call : calls) call.Send(target);

  std::vector<double> latencies;
  latencies.reserve(1 << 20);
  long errors = 0;
  size_t running = calls.size();
  void* tag = nullptr;
  for (bool ok = false; running > 0 && target.queue.Next(&tag, &ok);) {
    auto& call = *static_cast<Call*>(tag);
    const auto now = Clock::now();
    if (now >= opens && now < closes) {
      if (call.status.ok()) {
        latencies.push_back(Microseconds(now - call.sent).count());
      } else if (errors++ == 0) {
        std::fprintf(stderr, "%s\n", call.status.error_message().c_str());
      }
    }
    if (now < closes) {
      call.Send(target);
    } else {
      --running;
    }
  }
  const double cpu = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  const auto count = static_cast<double>(latencies.size());
  std::sort(latencies.begin(), latencies.end());
  std::printf(
      "{\"ok\": %.0f, \"errors\": %ld, \"requests_per_s\": %.1f, \"p50\": %.1f, \"p99\": %.1f, "
      "\"max\": %.1f, \"client_cpu_s\": %.3f}\n",
      count, errors, count / seconds, At(latencies, .5), At(latencies, .99), At(latencies, 1), cpu);
  return errors > 0;
}
