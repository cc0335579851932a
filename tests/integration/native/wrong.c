/*
 * A servable in plain C that does wrong what `how.txt` in its version directory says: in loading,
 * in describing itself, and in runs. It is compiled as C99, with ABI set to the one it claims.
 */
#include <servable/servable.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ABI
#define ABI SERVABLE_ABI
#endif
#ifdef UNDEFINED
void nobody_defines_this(void);
#endif

struct servable_instance {
    char how[32];
};

static const int64_t any[] = {-1};
static const int64_t below[] = {-2};
static const servable_tensor_spec x[] = {{"x", SERVABLE_FLOAT, 1, any}};
static const servable_tensor_spec y[] = {{"y", SERVABLE_FLOAT, 1, any}};
static const servable_tensor_spec s[] = {{"y", SERVABLE_STRING, 1, any}};
static const servable_tensor_spec twice[] = {{"y", SERVABLE_FLOAT, 1, any},
                                             {"y", SERVABLE_FLOAT, 1, any}};
static const servable_tensor_spec odd_type[] = {{"y", 20, 1, any}};
static const servable_tensor_spec odd_size[] = {{"y", SERVABLE_FLOAT, 1, below}};
static const servable_tensor_spec unnamed[] = {{NULL, SERVABLE_FLOAT, 1, any}};
static const servable_tensor_spec no_sizes[] = {{"y", SERVABLE_FLOAT, 1, NULL}};
#define SIGNATURE(outputs, count) {"serving_default", x, 1, outputs, count, SERVABLE_PREDICT}
static const servable_signature good = SIGNATURE(y, 1);
static const servable_signature texts = SIGNATURE(s, 1);
static const servable_signature with_twice = SIGNATURE(twice, 2);
static const servable_signature with_odd_type = SIGNATURE(odd_type, 1);
static const servable_signature with_odd_size = SIGNATURE(odd_size, 1);
static const servable_signature with_unnamed = SIGNATURE(unnamed, 1);
static const servable_signature with_no_sizes = SIGNATURE(no_sizes, 1);
static const servable_signature with_null = SIGNATURE(NULL, 1);
static const servable_signature with_none = SIGNATURE(y, 0);
static const servable_signature odd_method = {"serving_default", x, 1, y, 1, 9};

static const struct {
    const char *how;
    servable_description description;
} descriptions[] = {
    {"no signatures", {sizeof(servable_description), &good, 0, 0, 0}},
    {"null signatures", {sizeof(servable_description), NULL, 1, 0, 0}},
    {"many signatures", {sizeof(servable_description), &good, (size_t)-1, 0, 0}},
    {"no size", {0, &good, 1, 0, 0}},
    {"twice", {sizeof(servable_description), &with_twice, 1, 0, 0}},
    {"odd type", {sizeof(servable_description), &with_odd_type, 1, 0, 0}},
    {"odd size", {sizeof(servable_description), &with_odd_size, 1, 0, 0}},
    {"unnamed", {sizeof(servable_description), &with_unnamed, 1, 0, 0}},
    {"no sizes", {sizeof(servable_description), &with_no_sizes, 1, 0, 0}},
    {"null outputs", {sizeof(servable_description), &with_null, 1, 0, 0}},
    {"no outputs", {sizeof(servable_description), &with_none, 1, 0, 0}},
    {"odd method", {sizeof(servable_description), &odd_method, 1, 0, 0}},
    {"null text", {sizeof(servable_description), &texts, 1, 0, 0}},
    {"good", {sizeof(servable_description), &good, 1, 0, 0}},
};

static int32_t load(const servable_load_options *options, servable_instance **instance,
                    servable_status *status) {
    char path[4096];
    FILE *file = NULL;
    servable_instance *made = NULL;
    snprintf(path, sizeof path, "%s/how.txt", options->directory);
    file = fopen(path, "r");
    made = calloc(1, sizeof *made);
    if (file == NULL || made == NULL || fgets(made->how, sizeof made->how, file) == NULL) abort();
    fclose(file);
    if (strcmp(made->how, "fails") == 0) {
        free(made);
        return servable_status_set(status, SERVABLE_DATA_LOSS, "the weights are torn");
    }
    if (strcmp(made->how, "fails without a text") == 0) {
        free(made);
        return SERVABLE_UNAVAILABLE;
    }
    if (strcmp(made->how, "no instance") == 0) {
        free(made);
        return SERVABLE_OK;
    }
    *instance = made;
#ifdef UNDEFINED
    nobody_defines_this();
#endif
    return SERVABLE_OK;
}

static int32_t describe(servable_instance *instance, const servable_description **description,
                        servable_status *status) {
    const size_t count = sizeof descriptions / sizeof descriptions[0];
    size_t at = 0;
    (void)status;
    if (strcmp(instance->how, "no description") == 0) return SERVABLE_OK;
    while (at + 1 < count && strcmp(instance->how, descriptions[at].how) != 0) ++at;
    *description = &descriptions[at].description;
    return SERVABLE_OK;
}

static int32_t run(servable_instance *instance, const servable_run *run, servable_status *status) {
    static const float elements[] = {1, 2, 3, 4};
    static const int64_t sizes[] = {2, 2};
    static const int64_t negative[] = {-4};
    static const int64_t huge[] = {INT64_MAX, 4};
    static const servable_string strings[] = {{"a", 1}, {NULL, 0}, {NULL, 7}};
    static const int64_t three[] = {3};
    static const int64_t four[] = {4};
    const char *how = instance->how;
    servable_tensor *output = &run->outputs[0];
    servable_tensor given = {SERVABLE_FLOAT, 1, four, elements, sizeof elements, NULL, NULL};
    if (strcmp(how, "left out") == 0) return SERVABLE_OK;
    if (strcmp(how, "failed") == 0) return SERVABLE_RESOURCE_EXHAUSTED;
    if (strcmp(how, "odd code") == 0) return servable_status_set(status, 4711, "odd");
    if (strcmp(how, "long text") == 0) {
        char text[5000];
        memset(text, 'a', sizeof text);
        text[sizeof text - 1] = '\0';
        return servable_status_set(status, SERVABLE_ABORTED, text);
    }
    if (strcmp(how, "other type") == 0) given.dtype = SERVABLE_INT32;
    if (strcmp(how, "no type") == 0) given.dtype = 99;
    if (strcmp(how, "other rank") == 0) {
        given.rank = 2;
        given.dims = sizes;
    }
    if (strcmp(how, "negative rank") == 0) given.rank = -1;
    if (strcmp(how, "null dims") == 0) given.dims = NULL;
    if (strcmp(how, "negative size") == 0) given.dims = negative;
    if (strcmp(how, "huge") == 0) {
        given.rank = 2;
        given.dims = huge;
    }
    if (strcmp(how, "other bytes") == 0) given.size = 3;
    if (strcmp(how, "null data") == 0) given.data = NULL;
    if (strcmp(how, "null text") == 0) {
        given.dtype = SERVABLE_STRING;
        given.dims = three;
        given.data = strings;
        given.size = sizeof strings;
    }
    *output = given;
    return SERVABLE_OK;
}

static void unload(servable_instance *instance) { free(instance); }

#ifdef NO_RUN
const servable_library servable_entry = {ABI, sizeof(servable_library), load, describe, NULL, unload};
#elif defined(NO_ENTRY)
const servable_library another_entry = {ABI, sizeof(servable_library), load, describe, run, unload};
#else
const servable_library servable_entry = {ABI, sizeof(servable_library), load, describe, run, unload};
#endif
