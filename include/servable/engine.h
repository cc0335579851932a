/*
 * The engine in your program: SavedModels that are opened, run and replaced in the process.
 *
 * Link against libservable: pkg-config has it by that name, and CMake's find_package(servable_engine)
 * as servable::engine. In C++, <servable/engine.hpp> is more pleasant. TensorFlow's C library is
 * found when a model is opened, see servable_engine_options; there is no network and no Python.
 *
 * Every function that can fail returns a code and fills in a servable_status, which may be null.
 * None throws. All may be called from any thread and at the same time; what is closed or released
 * must not be used any more, nor while it is.
 */
#ifndef SERVABLE_ENGINE_H
#define SERVABLE_ENGINE_H

#include <servable/tensor.h>

/* The version of what is in this file; it goes up when programs have to be compiled again. */
#define SERVABLE_ENGINE_ABI 1

#ifdef __cplusplus
extern "C" {
#endif

/* A model that was opened, whichever of its versions answers. */
typedef struct servable_engine_model servable_engine_model;

/* One version of it, which stays loaded until it is released. */
typedef struct servable_engine_version servable_engine_version;

/* What became of a version; see servable_engine_options. */
enum {
    /* It answers from now on. */
    SERVABLE_ENGINE_LOADED = 1,
    /* It does not load, and `status` says why; it is tried again when its files have changed. */
    SERVABLE_ENGINE_FAILED = 2,
    /* The last that used it released it, and it was freed. */
    SERVABLE_ENGINE_UNLOADED = 3
};

/* Called while a model is opened or replaced; must not throw, nor call anything of this file. */
typedef void (*servable_engine_event_fn)(void *context, int64_t version, int32_t event,
                                         const servable_status *status);

/*
 * How to open a model. Zero is the default of everything but `struct_size`; begin with
 * SERVABLE_ENGINE_OPTIONS_INIT. Nothing of it is used any more when the model was opened, but for
 * `on_event` and `event_context`.
 */
typedef struct servable_engine_options {
    /* sizeof(servable_engine_options) */
    size_t struct_size;
    /*
     * The directory of libtensorflow_cc.so.2, or of libtensorflow.so.2: site-packages/tensorflow in
     * a Python environment. Null: what the environment variable SERVABLE_TENSORFLOW_DIR names, or
     * else the first found of the environment that libservable is installed in (PREFIX/lib), the
     * one in VIRTUAL_ENV, LD_LIBRARY_PATH, /usr/local/lib and /usr/lib. A process has one library:
     * the first model that is opened decides.
     */
    const char *tensorflow_directory;
    /* The tags of the graph; none: "serve". */
    const char *const *tags;
    size_t num_tags;
    /* A serialized tensorflow.ConfigProto. */
    const void *session_config;
    size_t session_config_size;
    /* How often to look for newer versions, in milliseconds; 0: never. */
    int64_t poll_interval_ms;
    /* How many rows of requests that wait together are run as one; 0: each runs by itself. */
    int64_t max_batch_size;
    /*
     * How long a batch waits for more rows, in microseconds; 0: size and wait are found from what
     * runs.
     */
    int64_t batch_timeout_us;
    /* Told of every version that is loaded, fails or is freed; null: nobody is. */
    servable_engine_event_fn on_event;
    void *event_context;
} servable_engine_options;

/* clang-format off */
#define SERVABLE_ENGINE_OPTIONS_INIT \
    { sizeof(servable_engine_options), NULL, NULL, 0, NULL, 0, 0, 0, 0, NULL, NULL }
/* clang-format on */

/* One input or output of a signature. */
typedef struct servable_engine_tensor_spec {
    const char *name;
    int32_t dtype;
    /* How many dimensions, -1: any number. */
    int32_t rank;
    /* Their sizes, -1: any. */
    const int64_t *dims;
} servable_engine_tensor_spec;

typedef struct servable_engine_signature {
    const char *name;
    /* Such as "tensorflow/serving/predict". */
    const char *method_name;
    const servable_engine_tensor_spec *inputs;
    size_t num_inputs;
    const servable_engine_tensor_spec *outputs;
    size_t num_outputs;
} servable_engine_signature;

/* One run of one signature. */
typedef struct servable_engine_call {
    /* sizeof(servable_engine_call) */
    size_t struct_size;
    /* Null or empty: "serving_default". */
    const char *signature;
    /* Names and tensors, which are borrowed until the call returns; aligned to 64 bytes, dense
     * elements are not even copied. */
    const char *const *input_names;
    const servable_tensor *inputs;
    size_t num_inputs;
    /* What is wanted, and where it is put, in that order. Whoever called owns the results. */
    const char *const *output_names;
    servable_tensor *outputs;
    size_t num_outputs;
    /*
     * After how many milliseconds the result is of no use any more, 0: never. TensorFlow stops
     * between operations, and runs that are known to be short are not interrupted.
     */
    int64_t timeout_ms;
} servable_engine_call;

/* SERVABLE_ENGINE_ABI of the library. */
int32_t servable_engine_abi(void);

/*
 * Open the SavedModel in the directory `path`, or the newest version below it that loads: a base
 * path, whose versions are directories named by numbers. Blocks until it can answer.
 * `options` may be null.
 */
int32_t servable_engine_open(const char *path, const servable_engine_options *options,
                             servable_engine_model **model, servable_status *status);

/* Look for newer versions no more. Versions that are in use stay until they are released. */
void servable_engine_close(servable_engine_model *model);

/* The version of TensorFlow, such as "2.21.0"; it stays as long as the process. */
const char *servable_engine_tensorflow_version(const servable_engine_model *model);

/* The version that answers now, to be released after use. Costs next to nothing. */
int32_t servable_engine_acquire(const servable_engine_model *model,
                                servable_engine_version **version, servable_status *status);
void servable_engine_release(servable_engine_version *version);

/* The number of a version; 0 for a SavedModel whose directory is not named by one. */
int64_t servable_engine_version_number(const servable_engine_version *version);

/* The signatures, sorted by name; they stay until the version is released. */
const servable_engine_signature *servable_engine_signatures(const servable_engine_version *version,
                                                            size_t *count);

/* Run a signature, on the calling thread unless requests are batched. Blocks. */
int32_t servable_engine_run(const servable_engine_version *version,
                            const servable_engine_call *call, servable_status *status);

#ifdef __cplusplus
}
#endif

#endif
