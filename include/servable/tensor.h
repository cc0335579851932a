/*
 * Tensors and errors, as they cross from one library into another.
 *
 * This header decides how a tensor lies in memory, who owns it and for how long, and how a call
 * says that it failed. It knows nothing of who calls whom: <servable/servable.h> is for models
 * that a server loads, and whoever runs models from a C or C++ program includes this file too.
 *
 * It is plain C99 without any function to link against.
 */
#ifndef SERVABLE_TENSOR_H
#define SERVABLE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

/*
 * The version of what is in this file. The structs here stand in arrays, so that none of them
 * ever grows: a layout that has to change gets a new name, and this number goes up.
 */
#define SERVABLE_TENSOR_ABI 1

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Types of elements, with the numbers that TensorFlow's DataType has.
 *
 * An element takes the bytes given here, in the byte order of the machine; types of less than a
 * byte take one byte each. A bool is 0 or 1.
 */
enum {
    SERVABLE_FLOAT = 1,
    SERVABLE_DOUBLE = 2,
    SERVABLE_INT32 = 3,
    SERVABLE_UINT8 = 4,
    SERVABLE_INT16 = 5,
    SERVABLE_INT8 = 6,
    SERVABLE_STRING = 7, /* servable_string */
    SERVABLE_COMPLEX64 = 8,
    SERVABLE_INT64 = 9,
    SERVABLE_BOOL = 10,
    SERVABLE_QINT8 = 11,
    SERVABLE_QUINT8 = 12,
    SERVABLE_QINT32 = 13,
    SERVABLE_BFLOAT16 = 14,
    SERVABLE_QINT16 = 15,
    SERVABLE_QUINT16 = 16,
    SERVABLE_UINT16 = 17,
    SERVABLE_COMPLEX128 = 18,
    SERVABLE_HALF = 19,
    /* 20 and 21, resources and variants, have no elements that could be handed over. */
    SERVABLE_UINT32 = 22,
    SERVABLE_UINT64 = 23,
    SERVABLE_FLOAT8_E5M2 = 24,
    SERVABLE_FLOAT8_E4M3FN = 25,
    SERVABLE_FLOAT8_E4M3FNUZ = 26,
    SERVABLE_FLOAT8_E4M3B11FNUZ = 27,
    SERVABLE_FLOAT8_E5M2FNUZ = 28,
    SERVABLE_INT4 = 29,
    SERVABLE_UINT4 = 30,
    SERVABLE_INT2 = 31,
    SERVABLE_UINT2 = 32,
    SERVABLE_FLOAT4_E2M1FN = 33
};

/* One string: any bytes, not ended by a zero. `data` may be null where `size` is 0. */
typedef struct servable_string {
    const char *data;
    size_t size;
} servable_string;

/* Frees what its tensor's owner keeps; called once at most, on any thread. Must not throw. */
typedef void (*servable_release_fn)(void *context);

/*
 * A type, a shape, and as many elements as the shape says, in row-major order.
 *
 * Whoever gets a tensor as an argument borrows it: `dims`, `data` and the bytes of strings are
 * there until the call returns, nobody changes them meanwhile, and `release` is not his to call.
 *
 * Whoever gets one as a result owns it: all of that stays there, unchanged, until he calls
 * `release(context)`, which he does exactly once, from whatever thread, and not before the call
 * has returned. Where `release` is null there is nothing to free, and the memory stays for as long
 * as what the result came from: a servable until it is unloaded.
 */
typedef struct servable_tensor {
    /* One of the numbers above. */
    int32_t dtype;
    /* How many dimensions there are: 0 for a scalar, 254 at most. */
    int32_t rank;
    /* Their sizes, outermost first, none below 0. May be null where `rank` is 0. */
    const int64_t *dims;
    /*
     * The elements, aligned for their type; for SERVABLE_STRING an array of servable_string.
     * May be null where `size` is 0.
     */
    const void *data;
    /* Bytes at `data`: elements times the size of one; of strings, sizeof(servable_string). */
    size_t size;
    servable_release_fn release;
    void *context;
} servable_tensor;

/* Why a call failed, with the numbers that gRPC's status codes have. */
enum {
    SERVABLE_OK = 0,
    SERVABLE_CANCELLED = 1,
    SERVABLE_UNKNOWN = 2,
    SERVABLE_INVALID_ARGUMENT = 3,
    SERVABLE_DEADLINE_EXCEEDED = 4,
    SERVABLE_NOT_FOUND = 5,
    SERVABLE_ALREADY_EXISTS = 6,
    SERVABLE_PERMISSION_DENIED = 7,
    SERVABLE_RESOURCE_EXHAUSTED = 8,
    SERVABLE_FAILED_PRECONDITION = 9,
    SERVABLE_ABORTED = 10,
    SERVABLE_OUT_OF_RANGE = 11,
    SERVABLE_UNIMPLEMENTED = 12,
    SERVABLE_INTERNAL = 13,
    SERVABLE_UNAVAILABLE = 14,
    SERVABLE_DATA_LOSS = 15,
    SERVABLE_UNAUTHENTICATED = 16
};

/* Bytes of an error's text, the zero at its end among them. */
#define SERVABLE_MESSAGE_SIZE 1024

/*
 * What became of a call. The caller has it, so that nobody ever frees it; a function that takes
 * one returns the same code, and leaves `message` alone where that is SERVABLE_OK.
 */
typedef struct servable_status {
    /* One of the numbers above. */
    int32_t code;
    /* UTF-8 that ends with a zero. */
    char message[SERVABLE_MESSAGE_SIZE];
} servable_status;

/* Fill in a status, if there is one, with a text that may be null and is cut to fit. */
static inline int32_t servable_status_set(servable_status *status, int32_t code,
                                          const char *message) {
    size_t at = 0;
    if (status == NULL) {
        return code;
    }
    status->code = code;
    if (message != NULL) {
        for (; at + 1 < SERVABLE_MESSAGE_SIZE && message[at] != '\0'; ++at) {
            status->message[at] = message[at];
        }
        /* Leave no half of a character at the end. */
        if (message[at] != '\0') {
            while (at > 0 && ((unsigned char)message[at] & 0xC0u) == 0x80u) {
                --at;
            }
        }
    }
    status->message[at] = '\0';
    return code;
}

/* Bytes of one element; 0 for a number that is no type whose elements can be handed over. */
static inline size_t servable_dtype_size(int32_t dtype) {
    switch (dtype) {
    case SERVABLE_UINT8:
    case SERVABLE_INT8:
    case SERVABLE_BOOL:
    case SERVABLE_QINT8:
    case SERVABLE_QUINT8:
    case SERVABLE_FLOAT8_E5M2:
    case SERVABLE_FLOAT8_E4M3FN:
    case SERVABLE_FLOAT8_E4M3FNUZ:
    case SERVABLE_FLOAT8_E4M3B11FNUZ:
    case SERVABLE_FLOAT8_E5M2FNUZ:
    case SERVABLE_INT4:
    case SERVABLE_UINT4:
    case SERVABLE_INT2:
    case SERVABLE_UINT2:
    case SERVABLE_FLOAT4_E2M1FN:
        return 1;
    case SERVABLE_INT16:
    case SERVABLE_UINT16:
    case SERVABLE_QINT16:
    case SERVABLE_QUINT16:
    case SERVABLE_HALF:
    case SERVABLE_BFLOAT16:
        return 2;
    case SERVABLE_FLOAT:
    case SERVABLE_INT32:
    case SERVABLE_UINT32:
    case SERVABLE_QINT32:
        return 4;
    case SERVABLE_DOUBLE:
    case SERVABLE_INT64:
    case SERVABLE_UINT64:
    case SERVABLE_COMPLEX64:
        return 8;
    case SERVABLE_COMPLEX128:
        return 16;
    case SERVABLE_STRING:
        return sizeof(servable_string);
    default:
        return 0;
    }
}

#ifdef __cplusplus
}
#endif

#endif
