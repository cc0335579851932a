// Answers every unary gRPC call with its own bytes: what gRPC itself costs a server.
//
// One thread, one completion queue, no message is parsed.  usage: echo HOST:PORT

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>

namespace {

// Enough calls waiting to be accepted that a burst finds one.
constexpr int kWaiting = 128;

class Exchange {
 public:
  Exchange(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue& queue)
      : service_(service), queue_(queue), stream_(&context_) {
    service_.RequestCall(&context_, &stream_, &queue_, &queue_, this);
  }

  // Takes the next step; the exchange deletes itself after the last.
  void Advance(bool ok) {
    switch (next_) {
      case Step::kReceive:
        if (!ok) break;  // the server shuts down
        new Exchange(service_, queue_);
        next_ = Step::kAnswer;
        stream_.Read(&message_, this);
        return;
      case Step::kAnswer:
        next_ = Step::kDone;
        if (ok) {
          stream_.WriteAndFinish(message_, {}, grpc::Status::OK, this);
        } else {
          stream_.Finish({grpc::StatusCode::INVALID_ARGUMENT, "no message"}, this);
        }
        return;
      case Step::kDone:
        break;
    }
    delete this;
  }

 private:
  enum class Step { kReceive, kAnswer, kDone };

  grpc::AsyncGenericService& service_;
  grpc::ServerCompletionQueue& queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer message_;
  Step next_ = Step::kReceive;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s HOST:PORT\n", argv[0]);
    return 2;
  }
  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterAsyncGenericService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server || port == 0) {
    std::fprintf(stderr, "cannot listen on %s\n", argv[1]);
    return 1;
  }
  for (int i = 0; i < kWaiting; ++i) new Exchange(service, *queue);
  void* tag = nullptr;
  for (bool ok = false; queue->Next(&tag, &ok);) static_cast<Exchange*>(tag)->Advance(ok);
}
