// vggt-edge-check: builds the engine on this device, checks it against the golden tensors, and measures.
//
// The same arguments, result.json and exit codes as build_and_verify.py.

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>

#include "vggt_edge/audit.hpp"
#include "vggt_edge/engine.hpp"
#include "vggt_edge/files.hpp"
#include "vggt_edge/result.hpp"
#include "vggt_edge/signature.hpp"

namespace {

using namespace vggt_edge;
namespace fs = std::filesystem;

constexpr const char* help =
    "usage: vggt-edge-check [options]\n"
    "\n"
    "Builds the TensorRT engine of a bundle's tensorrt folder, checks it, and measures the latency.\n"
    "\n"
    "  --folder FOLDER            holds model.onnx, kit.json, golden.safetensors (default: .)\n"
    "  --output FILE              where the result goes (default: <folder>/result.json)\n"
    "  --engine FILE              where the engine goes (default: <folder>/model.engine)\n"
    "  --store FOLDER             keep the engine there for apps, if the check passed (default: not kept)\n"
    "  --build-only               neither replay the golden tensors nor measure\n"
    "  --iterations N             measured runs (default: 100)\n"
    "  --warmup N                 runs before the measured ones (default: 20)\n"
    "  --workspace-mb N           limit of the builder's workspace in MiB\n"
    "  --optimization-level N     of the builder, 0 to 5\n"
    "  --key FILE                 public key (PEM) by which the bundle has to be signed (default: unchecked)\n"
    "  --min-release N            smallest signed release number to accept\n";

struct Arguments {
    fs::path folder = ".", output, engine, store;
    std::optional<fs::path> key;  // an empty one is given too
    std::optional<std::int64_t> min_release;
    bool build_only = false, help = false;
    int iterations = 100, warm_up = 20;
    BuildOptions build;
};

void say(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

KitError wrong_argument(const std::string& what) { return KitError(Exit::usage, what, "see --help"); }

template <class Whole>
Whole number(const std::string& option, const std::string& text, Whole lowest, Whole highest) {
    Whole value = 0;
    const auto [end, state] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_number = state == std::errc() && end == text.data() + text.size();
    if (is_number && value >= lowest && value <= highest) return value;
    throw wrong_argument(option + " is " + text.substr(0, 40) + " instead of a whole number from " +
                         std::to_string(lowest) + " to " + std::to_string(highest));
}

Arguments parsed(int count, char** words) {
    Arguments arguments;
    for (int index = 1; index < count; ++index) {
        const std::string option = words[index];
        const auto value = [&]() -> std::string {
            if (index + 1 >= count) throw wrong_argument(option + " needs a value");
            return words[++index];
        };
        if (option == "--folder") arguments.folder = value();
        else if (option == "--output") arguments.output = value();
        else if (option == "--engine") arguments.engine = value();
        else if (option == "--store") arguments.store = value();
        else if (option == "--build-only") arguments.build_only = true;
        else if (option == "--iterations") arguments.iterations = number(option, value(), 1, 1'000'000);
        else if (option == "--warmup") arguments.warm_up = number(option, value(), 1, 1'000'000);
        else if (option == "--workspace-mb") arguments.build.workspace_mib = number(option, value(), 1, 1 << 24);
        else if (option == "--optimization-level") arguments.build.optimization_level = number(option, value(), 0, 5);
        else if (option == "--key") arguments.key = value();
        else if (option == "--min-release") arguments.min_release = number(option, value(), std::int64_t{0}, largest_number);
        else if (option == "--help" || option == "-h") arguments.help = true;
        else throw wrong_argument("unknown option " + option.substr(0, 40));
    }
    if (arguments.output.empty()) arguments.output = arguments.folder / "result.json";
    if (arguments.engine.empty()) arguments.engine = arguments.folder / "model.engine";
    return arguments;
}

void check_author(const Arguments& arguments) {
    if (!arguments.key) {
        if (arguments.min_release) {
            throw KitError(Exit::usage, "--min-release checks nothing without a key", "give --key too");
        }
        say("signature: not checked; --key FILE checks it with the public key of whoever made the bundle");
        return;
    }
    const auto release = check_signature(arguments.folder, *arguments.key, arguments.min_release);
    say("signature: verified with " + arguments.key->string() + (release ? ", release " + std::to_string(*release) : ""));
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void feed(Engine& engine, const Golden& golden) {
    if (engine.inputs().size() != golden.inputs.size()) {
        throw KitError(Exit::usage, "the golden tensors are not inputs of the engine", bundle_again);
    }
    for (std::size_t index = 0; index < engine.inputs().size(); ++index) {
        const TensorInfo& info = engine.inputs()[index];
        const auto place = golden.inputs.find(info.name);
        if (place == golden.inputs.end() || place->second.shape != info.shape) {
            throw KitError(Exit::usage, "the golden tensors lack input " + info.name + " " + text_of(info.shape), bundle_again);
        }
        std::copy(place->second.values.begin(), place->second.values.end(), engine.input(index));
    }
}

std::vector<std::vector<float>> fetched(const Engine& engine) {
    std::vector<std::vector<float>> outputs;
    for (std::size_t index = 0; index < engine.outputs().size(); ++index) {
        const float* values = engine.output(index);
        outputs.emplace_back(values, values + engine.outputs()[index].count);
    }
    return outputs;
}

/// Replays the golden input and judges every run.
void verify(Engine& engine, const Golden& golden, const Arguments& arguments, Judge& judge, Measurement& measured) {
    feed(engine, golden);
    const auto began = std::chrono::steady_clock::now();
    engine.submit();
    engine.wait();
    measured.first_ms = milliseconds_since(began);
    judge.add(fetched(engine));
    for (int index = 0; index < arguments.warm_up + arguments.iterations; ++index) {
        const Engine::Timing timing = engine.predict_timed();
        judge.add(fetched(engine));
        if (index < arguments.warm_up) continue;
        measured.wall.add(timing.wall_ms);
        measured.gpu.add(timing.gpu_ms);
    }
    measured.uses_cuda_graph = engine.uses_cuda_graph();
}

void summarise(const std::vector<Entry>& entries, const Measurement& measured) {
    for (const Entry& entry : entries) say(entry.summary());
    for (const Json& block : measured.precision) {
        say(block.at("block").text() + " asked " + block.at("asked").text() + " " + block.at("status").text());
    }
    if (measured.gpu.count() > 0) {
        std::fprintf(stderr, "latency on the GPU: median %.3f ms, p90 %.3f ms, %zu runs\n", measured.gpu.at(0.5),
                     measured.gpu.at(0.9), measured.gpu.count());
    }
    say(std::string("status: ") + text_of(verdict_of(entries)));
}

/// The whole job. The result is written also when accuracy or precision fail.
Exit run(const Arguments& arguments) {
    check_author(arguments);
    Measurement measured;
    const Runtime runtime = find_runtime();
    measured.runtime_version = runtime.version;
    measured.capability = runtime.capability;
    const Kit kit = load_kit(arguments.folder);
    check_runtime(runtime, kit);
    std::optional<Golden> golden;
    if (!arguments.build_only) golden = load_golden(arguments.folder, kit);
    measured.thermal_before = thermal();
    say("building the engine; this takes minutes");
    auto began = std::chrono::steady_clock::now();
    const std::string serialized = build_engine(arguments.folder, kit, arguments.build);
    measured.compile_ms = milliseconds_since(began);
    measured.engine_bytes = static_cast<std::int64_t>(serialized.size());
    write_file(arguments.engine, serialized);
    began = std::chrono::steady_clock::now();
    Engine engine(serialized);
    measured.load_ms = milliseconds_since(began);
    measured.gpu_memory_bytes = engine.memory_bytes();
    measured.precision = audit(inspector_layers(engine.inspect()), kit.blocks);
    std::vector<Entry> entries;
    std::int64_t unlike_first = 0;
    if (golden) {
        engine.check_outputs(*golden);
        Judge judge(*golden, kit.tolerances);
        verify(engine, *golden, arguments, judge, measured);
        entries = judge.entries();
        unlike_first = judge.unlike_first();
    }
    measured.thermal_after = thermal();
    write_file(arguments.output, json_text(result_of(kit, entries, unlike_first, measured)));
    summarise(entries, measured);
    say("result: " + arguments.output.string());
    const Exit code = exit_of(kit, entries, measured);
    if (code == Exit::ok && !arguments.store.empty()) EngineStore(arguments.store).save(kit, runtime.identity(), serialized);
    return code;
}

}  // namespace

int main(int count, char** words) {
    try {
        const Arguments arguments = parsed(count, words);
        if (arguments.help) {
            std::fputs(help, stdout);
            return 0;
        }
        return static_cast<int>(run(arguments));
    } catch (const KitError& error) {
        say(std::string("error: ") + error.what());
        return static_cast<int>(error.code());
    } catch (const std::bad_alloc&) {
        say("error: not enough memory\n  next: close other programs, or add swap for the build");
        return static_cast<int>(Exit::resources);
    } catch (const fs::filesystem_error& error) {
        say(std::string("error: ") + error.what());
        return static_cast<int>(Exit::usage);
    }
}
