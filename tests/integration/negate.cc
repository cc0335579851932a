// An operation of somebody else, as small as one can be.
// It says when it is made, and when it is run.
#include <cstdio>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

REGISTER_OP("ServableTestNegate")
    .Input("x: float")
    .Output("y: float")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(0));
      return absl::OkStatus();
    });

class ServableTestNegate : public tensorflow::OpKernel {
 public:
  explicit ServableTestNegate(tensorflow::OpKernelConstruction* context)
      : OpKernel(context) {
    std::fputs("negate is made\n", stderr);
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::fputs("negate is run\n", stderr);
    const tensorflow::Tensor& x = context->input(0);
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    y->flat<float>() = -x.flat<float>();
  }
};

REGISTER_KERNEL_BUILDER(Name("ServableTestNegate").Device(tensorflow::DEVICE_CPU),
                        ServableTestNegate);
