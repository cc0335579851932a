/*
 * Models written in C or C++, as the server's platform "native" loads them.
 *
 * A version directory holds `servable.so`, which exports one object, `servable_entry`: a table of
 * four functions. The server opens the library, has it load the directory, asks once which
 * signatures there are, runs them for as long as the version is served, and unloads it.
 *
 * From C++ you need nothing of this: derive a class with <servable/servable.hpp>.
 *
 * Versions. The server looks at `abi` first and loads no library of another SERVABLE_ABI. Within
 * one of them things are added at the ends of structs that begin with `struct_size`: whoever fills
 * one in sets that to its sizeof, and whoever reads one looks at no field beyond it. Structs
 * without it stand in arrays and stay as they are.
 *
 * Threads. `load`, `describe` and `unload` of one instance are called one after the other, on any
 * thread. Between `describe` and `unload`, `run` is called on many threads at once, as many as
 * `threads` in the description says. Instances of several models and versions are independent of
 * each other, and each version has a library of its own, with globals of its own.
 *
 * Errors. A function that can fail returns a code, fills in the status that it is given, and has
 * then made nothing that somebody would have to free. No function may let an exception out: there
 * is nobody to catch it, and the process would end.
 */
#ifndef SERVABLE_SERVABLE_H
#define SERVABLE_SERVABLE_H

#include <servable/tensor.h>

/* The version of what is in this file and in tensor.h. */
#define SERVABLE_ABI 1

#if defined(__GNUC__)
#define SERVABLE_PUBLIC __attribute__((visibility("default")))
#else
#define SERVABLE_PUBLIC
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One loaded version; what it is, only its library knows. */
typedef struct servable_instance servable_instance;

/* What is to be loaded. All of it belongs to the server, and is there until `load` returns. */
typedef struct servable_load_options {
    size_t struct_size;
    /* The version directory, which holds whatever the model reads; an absolute path. */
    const char *directory;
    /* What clients call the model, and the number of the version. */
    const char *model_name;
    int64_t model_version;
} servable_load_options;

/* One input or output, as clients see it. */
typedef struct servable_tensor_spec {
    const char *name;
    int32_t dtype;
    /* How many dimensions, -1: any number. */
    int32_t rank;
    /* Their sizes, -1: any. */
    const int64_t *dims;
} servable_tensor_spec;

/* Which calls of the API a signature is for. */
enum {
    SERVABLE_PREDICT = 0,
    /*
     * One input `inputs`, SERVABLE_STRING of rank 1: serialized tf.Examples (<servable/example.hpp>
     * reads them). Outputs `classes`, SERVABLE_STRING [n, k], `scores`, SERVABLE_FLOAT [n, k], or
     * one of the two.
     */
    SERVABLE_CLASSIFY = 1,
    /* The same input, and one output `outputs`, SERVABLE_FLOAT [n] or [n, 1]. */
    SERVABLE_REGRESS = 2
};

typedef struct servable_signature {
    /* What clients call it; they mean `serving_default` when they name none. */
    const char *name;
    const servable_tensor_spec *inputs;
    size_t num_inputs;
    const servable_tensor_spec *outputs;
    size_t num_outputs;
    /* SERVABLE_PREDICT, SERVABLE_CLASSIFY or SERVABLE_REGRESS. */
    int32_t method;
} servable_signature;

/*
 * How long a run takes depends on nothing but the sizes of its inputs: it waits for no lock that
 * is held for long, no file and no peer. The server then spares short runs the way to another
 * thread. A run that waits all the same holds up requests to other models.
 */
#define SERVABLE_NEVER_WAITS 1u

/* What a version offers. It belongs to the instance, and stays as it is until `unload`. */
typedef struct servable_description {
    size_t struct_size;
    const servable_signature *signatures;
    size_t num_signatures;
    /* How many calls of `run` there may be at one time; 0: any number. */
    uint32_t threads;
    /* SERVABLE_NEVER_WAITS, or 0. */
    uint32_t flags;
} servable_description;

/* One run of one signature. */
typedef struct servable_run {
    size_t struct_size;
    /* Which: its position in the description. */
    size_t signature;
    /*
     * All inputs of the signature, in the order of the description, borrowed: tensor.h says what
     * that means. Their types and shapes are as described, and their elements are those that came
     * with the request, where possible in the very same memory.
     */
    const servable_tensor *inputs;
    size_t num_inputs;
    /* For each output whether somebody wants it: 1 or 0. */
    const uint8_t *wanted;
    /*
     * To be filled in: all outputs of the signature, in the order of the description. They come
     * with zeroes, which mean that an output is left out; one that is wanted may not be. They are
     * given away, and released by the server, also those that nobody wants. When the run fails
     * none may be filled in.
     */
    servable_tensor *outputs;
    size_t num_outputs;
    /* Nanoseconds after which nobody waits for the outputs any more; -1: never. */
    int64_t timeout_ns;
} servable_run;

/* What a library exports. */
typedef struct servable_library {
    /* SERVABLE_ABI. This field and the next are the first ones in all versions. */
    uint32_t abi;
    uint32_t struct_size;
    /* Make an instance of a version directory. May take its time. */
    int32_t (*load)(const servable_load_options *options, servable_instance **instance,
                    servable_status *status);
    /* Say what it offers; called once, after `load`. */
    int32_t (*describe)(servable_instance *instance, const servable_description **description,
                        servable_status *status);
    /* Run one signature. */
    int32_t (*run)(servable_instance *instance, const servable_run *run, servable_status *status);
    /*
     * Free the instance. All runs have returned, and all of their outputs were released. The
     * library is closed afterwards: no thread of it may still run, and nothing that it has
     * registered elsewhere may still refer to it.
     */
    void (*unload)(servable_instance *instance);
} servable_library;

/* The one object that the server looks for in `servable.so`; the library defines it. */
extern SERVABLE_PUBLIC const servable_library servable_entry;

#ifdef __cplusplus
}
#endif

#endif
