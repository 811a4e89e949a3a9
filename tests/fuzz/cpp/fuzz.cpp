// Hostile input for every reader of the Jetson kit in C++, and for what computes: `fuzz FOLDER COUNT [SEED]`.
//
// FOLDER holds kit.json and golden.safetensors. The only thing that may be thrown is the kit's own error, in few words.
// An input that leads to anything else is printed; sanitizers end the program.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "vggt_edge/audit.hpp"
#include "vggt_edge/camera.hpp"
#include "vggt_edge/files.hpp"
#include "vggt_edge/judge.hpp"
#include "vggt_edge/points.hpp"
#include "vggt_edge/signature.hpp"

using namespace vggt_edge;

namespace {

using Random = std::mt19937_64;

constexpr std::size_t longest_words = 600;
constexpr std::size_t longest_input = 1 << 20;

std::size_t below(Random& random, std::size_t end) { return end == 0 ? 0 : static_cast<std::size_t>(random() % end); }

// --- damage -----------------------------------------------------------------------------------------------------------

const std::vector<std::string> tokens{
    "{", "}", "[", "]", ",", ":", "\"", "\\", "null", "true", "-", "0", "016", "1e999", "-1e-999", "9007199254740993",
    "18446744073709551616", "9223372036854775807", "-9223372036854775808", "NaN", "0.1", "\\u0000", "\\ud800", "\\udc00",
    "\xff", "\xc0\xaf", "\xed\xa0\x80", "\xef\xbb\xbf", "//", "\n", "\"a\":", "\"shape\"", "\"data_offsets\"", "\"F64\"",
    "../", std::string(64, '['), std::string(64, '0'),
};

/// One to eight changes before the place `end`: bits, bytes, tokens, spans cut, doubled or moved.
std::string damaged(Random& random, std::string text, std::size_t end = std::string::npos) {
    for (std::size_t change = 1 + below(random, 1 + below(random, 8)); change > 0; --change) {
        const std::size_t limit = std::min(end, text.size());
        const std::size_t at = below(random, limit + 1), length = below(random, 1 + below(random, 40));
        switch (below(random, 7)) {
            case 0:
                if (at < limit) text[at] = static_cast<char>(text[at] ^ 1 << below(random, 8));
                break;
            case 1:
                if (at < limit) text[at] = static_cast<char>(random());
                break;
            case 2: text.insert(at, tokens[below(random, tokens.size())]); break;
            case 3: text.replace(at, length, tokens[below(random, tokens.size())]); break;
            case 4: text.erase(at, length); break;
            case 5: text.insert(at, text.substr(below(random, limit + 1), length)); break;
            default:
                if (below(random, 10) == 0) text.resize(at);
        }
        if (text.size() > longest_input) text.resize(longest_input);
    }
    return text;
}

/// The header of a safetensors file damaged, with the length in front of it right again; else any bytes of the start.
std::string damaged_safetensors(Random& random, const std::string& file) {
    std::uint64_t length = 0;
    for (std::size_t index = 8; index > 0; --index) length = length << 8 | static_cast<unsigned char>(file[index - 1]);
    if (below(random, 3) == 0) return damaged(random, file, 8 + length + 64);
    const std::string header = damaged(random, file.substr(8, length));
    std::string prefix;
    for (std::size_t index = 0; index < 8; ++index) prefix += static_cast<char>(header.size() >> 8 * index & 255);
    return prefix + header + file.substr(8 + length);
}

// --- numbers ----------------------------------------------------------------------------------------------------------

float number(Random& random) {
    static const std::vector<float> edges{0, -0.0f, 1, -1, 1e-45f, 1e-20f, 3e38f, -3e38f, 1e10f};
    switch (below(random, 12)) {
        case 0: return edges[below(random, edges.size())];
        case 1: return below(random, 4) == 0 ? std::numeric_limits<float>::quiet_NaN() : 0.5f;
        case 2: return below(random, 4) == 0 ? std::numeric_limits<float>::infinity() : 2;
        default: return std::normal_distribution<float>()(random);
    }
}

/// Every other time plain ones, so that the code behind the check for NaN is reached.
std::vector<float> numbers(Random& random, std::size_t count) {
    std::vector<float> values(count);
    const bool are_plain = below(random, 2) == 0;
    for (float& value : values) value = are_plain ? std::normal_distribution<float>()(random) : number(random);
    return values;
}

int side(Random& random) {
    static const std::vector<int> edges{0, -1, 1, 13, 14, 28, 32768, 32769, 1 << 20, std::numeric_limits<int>::max(),
                                        std::numeric_limits<int>::min()};
    return below(random, 4) == 0 ? edges[below(random, edges.size())] : static_cast<int>(below(random, 60));
}

void pictures(Random& random) {
    Picture picture{{side(random), side(random)}, {}};
    const bool fits = picture.size.width > 0 && picture.size.height > 0 && picture.size.width < 64 && picture.size.height < 64;
    picture.pixels.resize(fits ? 3 * picture.size.pixel_count() : below(random, 100));
    for (std::uint8_t& each : picture.pixels) each = static_cast<std::uint8_t>(random());
    const FrameSize target = below(random, 2) == 0 ? FrameSize{28, 14} : FrameSize{side(random), side(random)};
    const Picture resized = resized_to_cover(turned(picture, static_cast<Turn>(below(random, 4))), target);
    std::vector<float> planes(3 * resized.size.pixel_count());
    put_planes(resized, planes.data());
}

void geometry(Random& random) {
    FrameSize size{side(random), side(random)};
    if (below(random, 2) == 0) size = {28, 14};
    const std::vector<Camera> cameras = decode_poses(numbers(random, 9 * below(random, 4) + (below(random, 9) == 0)), size);
    const bool fits = size.width > 0 && size.height > 0 && size.width < 64 && size.height < 64;
    unproject(numbers(random, fits ? cameras.size() * size.pixel_count() : below(random, 50)), cameras, size);
    cameras.at(0).intrinsics.resized(size, FrameSize::fitting(size, side(random)));
}

void figures(Random& random) {
    const std::size_t count = below(random, 40);
    const std::vector<float> first = numbers(random, count), second = numbers(random, count + (below(random, 9) == 0));
    pose_errors(first, second);
    confident_pixels({first, first}, below(random, 9) == 0 ? 2 : 0.3);
    json_text(drift_of(first, second).json());
    with_quaternion_signs(first, second);
}

// --- readers ----------------------------------------------------------------------------------------------------------

using Target = std::pair<std::string, std::function<void(Random&)>>;

std::vector<Target> targets(const std::filesystem::path& folder) {
    const std::string kit = read_file(folder / "kit.json", longest_input);
    const std::string golden = read_file(folder / "golden.safetensors", longest_input);
    const std::string json = R"({"a":[1,-2.5e3,"\u00e9\ud83d\ude00\n",null,true,{}],"b":{"c":[]}})";
    const std::string report = R"({"Layers":[{"Name":"a + b","Metadata":"[ONNX Layer: frame/MatMul]","TacticName":"sm80_i8i8",)"
                               R"("Weights":{"Type":"Int8"},"Inputs":[{"Format/Datatype":"Half"},{"Datatype":"FP8"}]},"c"]})";
    const std::string envelope = R"({"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json",)"
                                 R"("signatures":[{"keyid":"","sig":"MEUCIQ=="}]}})";
    const std::string statement = R"({"predicateType":"https://model_signing/signature/v1.0","predicate":{"resources":)"
                                  R"([{"name":"a/kit.json","algorithm":"sha256","digest":"00"}],"serialization":)"
                                  R"({"method":"files"},"vggt-edge":{"release":2}}})";
    const Kit whole = parse_kit(kit);
    return {
        {"json", [=](Random& random) { json_text(parse_json(damaged(random, json))); }},
        {"kit.json", [=](Random& random) { needed_version(parse_kit(damaged(random, kit)), "tensorrt"); }},
        {"safetensors",
         [=](Random& random) {
             SafetensorsFile file = SafetensorsFile::of_bytes(damaged_safetensors(random, golden));
             for (const auto& [key, shape] : file.shapes()) file.tensor(key);
         }},
        {"golden tensors",
         [=](Random& random) {
             SafetensorsFile file = SafetensorsFile::of_bytes(damaged_safetensors(random, golden));
             const Golden tensors = golden_of(file, whole, "golden");
             Judge(tensors, whole.tolerances);
         }},
        {"inspector",
         [=](Random& random) { json_text(audit(inspector_layers(damaged(random, report)), whole.blocks)); }},
        {"model.sig", [=](Random& random) { parse_envelope(damaged(random, envelope)); }},
        {"signed statement", [=](Random& random) { parse_statement(damaged(random, statement)); }},
        {"pictures", pictures},
        {"geometry", geometry},
        {"figures", figures},
    };
}

/// Whether the input was taken; counts what is neither that nor a refusal.
bool is_taken(const Target& target, std::uint64_t seed, int& faults) {
    Random random(seed);
    std::string what;
    try {
        target.second(random);
        return true;
    } catch (const KitError& error) {
        what = error.what();
    } catch (const JsonProblem& problem) {
        what = problem.what();
    } catch (const std::exception& error) {
        faults += 1;
        std::printf("%s, seed %llu: %s\n", target.first.c_str(), static_cast<unsigned long long>(seed), error.what());
    }
    if (what.size() > longest_words) {
        faults += 1;
        std::printf("%s, seed %llu: an error of %zu bytes\n", target.first.c_str(), static_cast<unsigned long long>(seed), what.size());
    }
    return false;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) {
        std::printf("usage: fuzz FOLDER COUNT [SEED]\n");
        return 2;
    }
    const std::uint64_t inputs = std::strtoull(arguments[2], nullptr, 10);
    const std::uint64_t seed = count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 1;
    int faults = 0;
    for (const Target& target : targets(arguments[1])) {
        const auto start = std::chrono::steady_clock::now();
        std::uint64_t taken = 0;
        for (std::uint64_t index = 0; index < inputs; ++index) taken += is_taken(target, seed * 1'000'003 + index, faults);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        std::printf("%s: %llu inputs, %llu taken, %.1f s\n", target.first.c_str(), static_cast<unsigned long long>(inputs),
                    static_cast<unsigned long long>(taken), seconds);
        // Where nothing is taken, the code behind the first check is not reached.
        if (taken == 0) faults += 1;
    }
    std::printf(faults == 0 ? "nothing but the kit's own errors\n" : "%d faults\n", faults);
    return faults == 0 ? 0 : 1;
}
