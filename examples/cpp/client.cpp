// A committed model in C++, as C99 that needs no library, and whether it gives the bits of its golden vectors:
//   python -c "import qstrategies as qs; qs.export_c('exported/qat.onnx', 'build', 'digit')"
//   cc -std=c99 -O2 -c build/digit.c -o build/digit.o
//   c++ -std=c++17 -O2 -Ibuild examples/cpp/client.cpp build/digit.o -o build/client
//   build/client exported/qat.onnx
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

extern "C" {
#include "digit.h"
}

using Image = std::array<std::uint8_t, DIGIT_INPUT_0_SIZE>;
using Logits = std::array<std::uint8_t, DIGIT_OUTPUT_0_SIZE>;

// Integers from `low` to `high`, drawn from the seed `x` (docs/specification.md).
Image generated(std::uint32_t x, std::uint32_t low, std::uint32_t high) {
    Image image;
    for (auto &pixel : image) {
        x = x * 1664525u + 1013904223u;
        pixel = static_cast<std::uint8_t>(low + ((x >> 24) * (high - low + 1) >> 8));
    }
    return image;
}

// The numbers of a JSON list, from behind its bracket.
Logits integers(const char *list) {
    Logits logits;
    for (auto &logit : logits) {
        char *end;
        logit = static_cast<std::uint8_t>(std::strtoul(list, &end, 10));
        list = end + 1;
    }
    return logits;
}

int main(int, char **arguments) {
    const std::string path = arguments[1], name = path.substr(0, path.rfind('.')), mark = "\"outputs\": [[";
    std::ifstream file(name + ".vectors.json");
    const std::string golden{std::istreambuf_iterator<char>(file), {}};
    int equal = 0, count = 0;
    for (auto at = golden.find("{\"seed\":"); at != std::string::npos; at = golden.find("{\"seed\":", at)) {
        std::uint32_t seed, low, high;
        std::sscanf(&golden[at], "{\"seed\": %u, \"low\": %u, \"high\": %u", &seed, &low, &high);
        Logits found;
        digit_run(generated(seed, low, high).data(), found.data());
        at = golden.find(mark, at) + mark.size();
        equal += found == integers(&golden[at]);
        count++;
    }
    const bool same = count > 0 && equal == count;
    const char *verdict = same ? "equal" : "NOT equal";
    std::printf("%s: %s, %d of %d golden vectors\n", path.c_str(), verdict, equal, count);
    return same ? 0 : 1;
}
