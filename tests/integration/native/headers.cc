// The headers in a program of their own, to be run under sanitizers and valgrind: everything.cc is
// loaded, run in all of its ways and unloaded, and Examples are read that are none.
//
// Its argument is a version directory.

#include <servable/example.hpp>
#include <servable/testing.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using servable::Error;
using servable::Tensor;
using servable::testing::Model;

int failures = 0;

void expect(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "not so: %s\n", what);
    ++failures;
}

void expect_error(std::int32_t code, std::string_view text, const std::function<void()> &body) {
    try {
        body();
    } catch (const Error &error) {
        expect(error.code() == code, error.what());
        expect(text == error.what(), error.what());
        return;
    }
    expect(false, "an error");
}

Tensor floats(std::vector<float> values) {
    const auto size = static_cast<std::int64_t>(values.size());
    return Tensor({size}, std::move(values));
}

// {"x": [0.25], "names": ["few"], "n": [1, 2, -4]}, packed and not.
std::string example() {
    const auto field = [](char tag, const std::string &bytes) {
        return std::string{tag, static_cast<char>(bytes.size())} + bytes;
    };
    const auto entry = [&](const std::string &name, const std::string &feature) {
        return field('\x0a', field('\x0a', name) + field('\x12', feature));
    };
    const std::string quarter("\0\0\x80\x3e", 4);
    const std::string minus_four("\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10);
    return field('\x0a', entry("x", field('\x12', field('\x0a', quarter))) +
                             entry("y", field('\x12', "\x0d" + quarter)) +
                             entry("names", field('\x0a', field('\x0a', "few"))) +
                             entry("n", field('\x1a', field('\x0a', "\x01\x02" + minus_four) +
                                                          "\x08\x07")));
}

void runs_and_fails(const Model &model) {
    auto outputs = model.run("serving_default", "x", floats({1, 3}));
    const auto y = outputs.at("y").view<float>();
    expect(y.size() == 2 && y.shape()[0] == 2 && y[1] == 3.5F, "x / 2 + 2");
    expect(outputs.at("y").shape().elements() == 2, "a shape of two elements");
    outputs = model.run("serving_default", "x", floats({}));
    expect(outputs.at("y").view<float>().empty(), "nothing of nothing");
    const auto fail = [&](float x) { model.run("serving_default", "x", floats({x})); };
    expect_error(SERVABLE_NOT_FOUND, "no such thing", [&] { fail(-1); });
    expect_error(SERVABLE_INTERNAL, "thrown after an output", [&] { fail(-2); });
    expect_error(SERVABLE_INTERNAL, "something was thrown that is no std::exception",
                 [&] { fail(-3); });
    expect_error(SERVABLE_INTERNAL, "x is not as described", [&] {
        model.run("serving_default", "x", Tensor({1}, std::vector<std::int64_t>{1}));
    });
    expect_error(SERVABLE_NOT_FOUND, "there is no signature nothing",
                 [&] { model.run("nothing", "x", floats({1})); });
    expect_error(SERVABLE_INVALID_ARGUMENT, "there is no x",
                 [&] { model.run("serving_default", "z", floats({1})); });
    expect_error(SERVABLE_INTERNAL, "a tensor of type 1 was taken for one of type 2",
                 [&] { outputs.at("y").view<double>(); });
}

void echoes_strings_and_numbers(const Model &model) {
    const std::vector<std::string> given{"", "short", std::string(100, 'l')};
    auto outputs = model.run("echo_7", "x", Tensor({3, 1}, std::vector<std::string>(given)));
    const auto texts = outputs.at("y").view<std::string_view>();
    expect(texts.shape().rank() == 2, "two dimensions");
    expect(std::vector<std::string>(texts.begin(), texts.end()) == given, "the same strings");
    outputs = model.run("echo_9", "x", Tensor({2, 2}, std::vector<std::int64_t>{1, 2, 3, 4}));
    const auto rows = outputs.at("y").view<std::int64_t>();
    expect(rows.row(1)[0] == 3 && rows.row(1).size() == 2, "rows");
    outputs = model.run("echo_10", "x", Tensor(servable::allocate(SERVABLE_BOOL, {0, 3})));
    expect(outputs.at("y").view<bool>().empty(), "no bools");
    outputs = model.run("echo_3", "x", Tensor({}, std::vector<std::int32_t>{5}));
    expect(outputs.at("y").view<std::int32_t>()[0] == 5, "a scalar");
}

void reads_examples(const Model &model) {
    const std::string bytes = example();
    const servable::Example read(bytes);
    expect(read.floats("x") == std::vector<float>{0.25F}, "a float, packed");
    expect(read.floats("y") == std::vector<float>{0.25F}, "a float, not packed");
    expect(read.integers("n") == std::vector<std::int64_t>{1, 2, -4, 7}, "integers");
    expect(read.texts("names").size() == 1 && read.texts("names")[0] == "few", "a text");
    expect(!read.has("z") && read.floats("z").empty() && read.texts("x").empty(), "nothing else");
    auto outputs = model.run("classify", "inputs", Tensor({1}, std::vector<std::string>{bytes}));
    expect(outputs.at("scores").view<float>()[0] == 0.75F, "a score");
    expect(outputs.at("classes").view<std::string_view>()[0] == "few", "a class");
    outputs = model.run("regress", "inputs", Tensor({1}, std::vector<std::string>{bytes}));
    expect(outputs.at("outputs").view<float>()[0] == 6, "a sum");

    std::mt19937 random(1);
    for (int round = 0; round < 500; ++round) {
        std::string broken = bytes.substr(0, random() % (bytes.size() + 1));
        if (!broken.empty()) broken[random() % broken.size()] = static_cast<char>(random());
        // In memory of its very size, so that a byte too far is seen.
        const std::vector<char> exact(broken.begin(), broken.end());
        try {
            const servable::Example one({exact.data(), exact.size()});
            for (const char *name : {"x", "y", "n", "names"}) {
                one.floats(name), one.integers(name), one.texts(name);
            }
        } catch (const Error &error) {
            expect(error.code() == SERVABLE_INVALID_ARGUMENT, "an Example that is none");
        }
    }
}

void keeps_what_is_lent() {
    auto owner = std::make_shared<std::vector<float>>(3, 1.5F);
    const std::weak_ptr<std::vector<float>> watched = owner;
    {
        const float *start = owner->data();
        const Tensor lent(servable::borrow<float>({3}, start, std::move(owner)));
        expect(!watched.expired() && lent.view<float>()[2] == 1.5F, "the owner is kept");
        Tensor moved{};
        moved = Tensor(servable::borrow<float>({3}, start, watched.lock()));
    }
    expect(watched.expired(), "and let go");
    expect_error(SERVABLE_INVALID_ARGUMENT, "there is no tensor of this shape",
                 [] { servable::allocate(SERVABLE_FLOAT, {INT64_MAX, INT64_MAX}); });
    expect_error(SERVABLE_INVALID_ARGUMENT, "there is no tensor of this shape",
                 [] { servable::allocate(SERVABLE_FLOAT, {-1}); });
    expect_error(SERVABLE_INTERNAL, "there are 1 elements for a shape of 2",
                 [] { servable::adopt({2}, std::vector<float>{1}); });
}

void cuts_long_texts_between_characters() {
    servable_status status;
    // Two bytes each, so that the cut would fall into the middle of one.
    std::string text = "a";
    for (int at = 0; at < 1000; ++at) text += "\xc3\xa4";
    servable_status_set(&status, SERVABLE_ABORTED, text.c_str());
    expect(std::string(status.message) == text.substr(0, 1023), "1023 bytes");
    servable_status_set(&status, SERVABLE_ABORTED, text.c_str() + 1);
    expect(std::string(status.message) == text.substr(1, 1022), "no half of a character");
    expect(servable_status_set(nullptr, SERVABLE_ABORTED, "x") == SERVABLE_ABORTED, "no status");
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    const Model model(servable_entry, argv[1]);
    runs_and_fails(model);
    echoes_strings_and_numbers(model);
    reads_examples(model);
    keeps_what_is_lent();
    cuts_long_texts_between_characters();
    expect_error(SERVABLE_DATA_LOSS, "two.txt has no number",
                 [] { const Model none(servable_entry, "/nowhere"); });
    return failures;
}
