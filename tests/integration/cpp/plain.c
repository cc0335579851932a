/* Runs x/2+2 with nothing but C: plain MODEL. */

#include <servable/engine.h>

#include <stdio.h>

int main(int argc, char **argv) {
    servable_status status;
    servable_engine_options options = SERVABLE_ENGINE_OPTIONS_INIT;
    servable_engine_model *model;
    servable_engine_version *version;
    const float values[] = {1.0f, 2.0f, 5.0f};
    const int64_t dims[] = {3};
    const char *input_name = "x", *output_name = "y";
    servable_tensor input = {SERVABLE_FLOAT, 1, NULL, NULL, sizeof values, NULL, NULL};
    servable_tensor output;
    servable_engine_call call = {sizeof call, NULL, NULL, NULL, 1, NULL, NULL, 1, 0};

    if (argc != 2 || servable_engine_open(argv[1], &options, &model, &status) != SERVABLE_OK) {
        printf("%s\n", argc == 2 ? status.message : "usage: plain MODEL");
        return 1;
    }
    input.dims = dims;
    input.data = values;
    call.input_names = &input_name;
    call.inputs = &input;
    call.output_names = &output_name;
    call.outputs = &output;
    if (servable_engine_acquire(model, &version, &status) != SERVABLE_OK ||
        servable_engine_run(version, &call, &status) != SERVABLE_OK) {
        printf("%s\n", status.message);
        return 1;
    }
    for (size_t at = 0; at < output.size / sizeof(float); ++at) {
        printf("%g ", (double)((const float *)output.data)[at]);
    }
    printf("version %d\n", (int)servable_engine_version_number(version));
    servable_engine_release(version);
    servable_engine_close(model);
    /* Results outlive what they came from. */
    output.release(output.context);
    return 0;
}
