/*
 * How long one run of a session takes with TensorFlow's C API: session MODEL FEED FETCH COUNT DIM...
 *
 * FEED and FETCH are OPERATION:INDEX. Prints the median and the CPU time of a run in microseconds:
 * as sessions are by default, and with all of it in the calling thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensorflow/c/c_api.h"

static double us_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return 1e6 * (double)time.tv_sec + 1e-3 * (double)time.tv_nsec;
}

static void require(TF_Status *status) {
    if (TF_GetCode(status) != TF_OK) {
        fprintf(stderr, "%s\n", TF_Message(status));
        exit(1);
    }
}

static TF_Output output_named(TF_Graph *graph, char *name) {
    char *colon = strrchr(name, ':');
    TF_Output output = {NULL, colon ? atoi(colon + 1) : 0};
    if (colon) {
        *colon = '\0';
    }
    output.oper = TF_GraphOperationByName(graph, name);
    if (output.oper == NULL) {
        fprintf(stderr, "no operation %s\n", name);
        exit(1);
    }
    return output;
}

static int by_size(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        return 2;
    }
    int count = atoi(argv[4]), rank = argc - 5;
    int64_t dims[8];
    size_t bytes = sizeof(float);
    for (int at = 0; at < rank && at < 8; ++at) {
        dims[at] = atoi(argv[5 + at]);
        bytes *= (size_t)dims[at];
    }
    float *values = malloc(bytes);
    for (size_t at = 0; at < bytes / sizeof(float); ++at) {
        values[at] = 1.0f;
    }
    TF_Status *status = TF_NewStatus();
    TF_Graph *graph = TF_NewGraph();
    TF_SessionOptions *options = TF_NewSessionOptions();
    const char *tags[] = {"serve"};
    TF_Session *session =
        TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
    require(status);
    TF_Output feed = output_named(graph, argv[2]), fetch = output_named(graph, argv[3]);
    /* RunOptions.inter_op_thread_pool = -1 */
    const unsigned char in_caller[] = {0x18, 0xff, 0xff, 0xff, 0xff, 0xff,
                                       0xff, 0xff, 0xff, 0xff, 0x01};
    TF_Buffer *run_options = TF_NewBufferFromString(in_caller, sizeof in_caller);
    double *took = malloc((size_t)count * sizeof(double));
    for (int mode = 0; mode < 2; ++mode) {
        double cpu = 0;
        for (int turn = -1000; turn < count; ++turn) {
            if (turn == 0) {
                cpu = us_of(CLOCK_PROCESS_CPUTIME_ID);
            }
            double began = us_of(CLOCK_MONOTONIC);
            TF_Tensor *input = TF_AllocateTensor(TF_FLOAT, dims, rank, bytes);
            memcpy(TF_TensorData(input), values, bytes);
            TF_Tensor *result = NULL;
            TF_SessionRun(session, mode ? run_options : NULL, &feed, &input, 1, &fetch, &result, 1,
                          NULL, 0, NULL, status);
            require(status);
            TF_DeleteTensor(input);
            TF_DeleteTensor(result);
            if (turn >= 0) {
                took[turn] = us_of(CLOCK_MONOTONIC) - began;
            }
        }
        cpu = (us_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / count;
        qsort(took, (size_t)count, sizeof(double), by_size);
        printf("%s %.2f %.2f\n", mode ? "session_in_caller" : "session", took[count / 2], cpu);
    }
    return 0;
}
