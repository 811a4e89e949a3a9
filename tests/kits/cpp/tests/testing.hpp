#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "vggt_edge/error.hpp"
#include "vggt_edge/files.hpp"
#include "vggt_edge/json.hpp"
#include "vggt_edge/picture.hpp"

/// A few lines in place of a test library: `TEST(name) { EXPECT(1 + 1 == 2); }`.
namespace testing {

struct Test {
    const char* name;
    void (*body)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Registration {
    Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

inline void expect(bool holds, const char* what, const char* file, int line, const std::string& detail = "") {
    if (holds) return;
    failures() += 1;
    std::printf("%s:%d: failed: %s %s\n", file, line, what, detail.c_str());
}

/// Near in the larger of both, or nearly nothing apart.
inline bool near(double a, double b, double tolerance = 1e-9) {
    return std::abs(a - b) <= tolerance * std::max({std::abs(a), std::abs(b), 1e-3});
}

template <class Values>
bool all_near(const std::vector<double>& expected, const Values& values, double tolerance = 1e-9) {
    if (expected.size() != values.size()) return false;
    for (std::size_t index = 0; index < values.size(); ++index) {
        if (!near(expected[index], values[index], tolerance)) return false;
    }
    return true;
}

/// Whether the action ends with the kit's own error, of few words.
inline bool refuses(const std::function<void()>& action) {
    try {
        action();
    } catch (const vggt_edge::KitError& error) {
        return std::string(error.what()).size() < 600;
    }
    return false;
}

// --- where things lie, from the command line --------------------------------------------------------------------------

inline std::filesystem::path& repository() {
    static std::filesystem::path path;
    return path;
}

/// Made by prepare.py.
inline std::filesystem::path& prepared() {
    static std::filesystem::path path;
    return path;
}

/// What the exporter's own Python code says: the file that the iOS kit's tests replay as well.
inline const vggt_edge::Json& vectors() {
    static const vggt_edge::Json all = vggt_edge::parse_json(vggt_edge::read_file(
        repository() / "runtimes/coreml/kit/VGGTEdge/Tests/VGGTEdgeCoreTests/Resources/vectors.json", 1 << 24));
    return all;
}

inline const vggt_edge::Json::List& cases(const std::string& name) {
    const vggt_edge::Json::List& list = vectors().at(name).list();
    expect(!list.empty(), name.c_str(), __FILE__, __LINE__, "no vectors");
    return list;
}

inline std::vector<double> doubles(const vggt_edge::Json& list) {
    std::vector<double> result;
    for (const auto& each : list.list()) result.push_back(each.number());
    return result;
}

inline std::vector<float> floats(const vggt_edge::Json& list) {
    std::vector<float> result;
    for (const auto& each : list.list()) result.push_back(static_cast<float>(each.number()));
    return result;
}

inline vggt_edge::FrameSize size(const vggt_edge::Json& table) {
    return {static_cast<int>(table.at("width").whole()), static_cast<int>(table.at("height").whole())};
}

inline std::string decoded(const vggt_edge::Json& base64) {
    static const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string result;
    std::uint32_t bits = 0;
    int held = 0;
    for (const char each : base64.text()) {
        if (each == '=') break;
        bits = bits << 6 | static_cast<std::uint32_t>(digits.find(each));
        held += 6;
        if (held < 8) continue;
        held -= 8;
        result += static_cast<char>(bits >> held & 255);
    }
    return result;
}

inline std::vector<std::uint8_t> bytes(const vggt_edge::Json& base64) {
    const std::string text = decoded(base64);
    return {text.begin(), text.end()};
}

}  // namespace testing

#define TEST(name)                                                        \
    static void test_##name();                                            \
    static const testing::Registration registration_##name(#name, test_##name); \
    static void test_##name()

#define EXPECT(condition) testing::expect((condition), #condition, __FILE__, __LINE__)
#define EXPECT_ABOUT(condition, detail) testing::expect((condition), #condition, __FILE__, __LINE__, detail)
