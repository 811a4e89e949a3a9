// The numbers of the exporter's own Python code, replayed: the file that the iOS kit's tests replay as well.

#include "testing.hpp"
#include "vggt_edge/camera.hpp"
#include "vggt_edge/figures.hpp"
#include "vggt_edge/points.hpp"
#include "vggt_edge/tensor.hpp"

using namespace vggt_edge;
using namespace testing;

namespace {

std::vector<Camera> cameras_of(const Json& each) { return decode_poses(floats(each.at("encoding")), size(each.at("size"))); }

}  // namespace

TEST(poses_decode_as_in_python) {
    for (const Json& each : cases("poses")) {
        const std::vector<Camera> cameras = cameras_of(each);
        EXPECT(cameras.size() == each.at("extrinsics").list().size());
        for (std::size_t frame = 0; frame < cameras.size(); ++frame) {
            const auto& [extrinsics, lens] = cameras[frame];
            std::vector<double> rows;
            for (std::size_t row = 0; row < 3; ++row) {
                rows.insert(rows.end(), extrinsics.rotation[row].begin(), extrinsics.rotation[row].end());
                rows.push_back(extrinsics.translation[row]);
            }
            EXPECT(all_near(doubles(each.at("extrinsics").list()[frame]), rows));
            const std::vector<double> matrix{lens.focal_x, 0, lens.center_x, 0, lens.focal_y, lens.center_y, 0, 0, 1};
            EXPECT(all_near(doubles(each.at("intrinsics").list()[frame]), matrix));
            EXPECT(all_near(doubles(each.at("centers").list()[frame]), extrinsics.center()));
            const Vector3 point{0.3, -2, 5}, back = extrinsics.to_world(extrinsics.to_camera(point));
            EXPECT(all_near({0.3, -2, 5}, back));
        }
    }
}

TEST(quaternion_signs_follow_the_reference) {
    for (const Json& each : cases("quaternion_signs")) {
        EXPECT(with_quaternion_signs(floats(each.at("values")), floats(each.at("reference"))) == floats(each.at("aligned")));
    }
}

TEST(senseless_poses_are_refused) {
    const FrameSize size{28, 14};
    EXPECT(refuses([&] { decode_poses({}, size); }));
    EXPECT(refuses([&] { decode_poses(std::vector<float>(10), size); }));
    EXPECT(refuses([&] { decode_poses(std::vector<float>(9), size); }));
    EXPECT(refuses([&] { decode_poses({NAN, 1, 1, 1, 1, 1, 1, 1, 1}, size); }));
    EXPECT(refuses([&] { with_quaternion_signs(std::vector<float>(9), std::vector<float>(18)); }));
}

TEST(pose_errors_are_those_of_python) {
    for (const Json& each : cases("pose_errors")) {
        const auto errors = pose_errors(floats(each.at("values")), floats(each.at("reference")));
        EXPECT(errors && near(each.at("rotation").number(), errors->rotation, 1e-6));
        EXPECT(errors && near(each.at("translation").number(), errors->translation, 1e-6));
    }
    EXPECT(!pose_errors(std::vector<float>(9, 1), std::vector<float>(9, 1)));
    EXPECT(!pose_errors(std::vector<float>(18), std::vector<float>(18)));
}

TEST(sizes_are_those_of_the_exporter) {
    for (const Json& each : cases("sizes")) {
        const FrameSize found = FrameSize::fitting(size(each.at("frame")), static_cast<int>(each.at("long_side").whole()));
        EXPECT_ABOUT(found == size(each.at("fitting")), found.text());
    }
    EXPECT(refuses([] { FrameSize::fitting({0, 5}, 518); }));
    EXPECT(refuses([] { FrameSize::fitting({5, 5}, 13); }));
    EXPECT(refuses([] { FrameSize::fitting({40000, 5}, 518); }));
}

TEST(intrinsics_follow_the_resize) {
    for (const Json& each : cases("intrinsics")) {
        const std::vector<double> before = doubles(each.at("before"));
        const Intrinsics lens{before[0], before[1], before[2], before[3]};
        const Intrinsics after = lens.resized(size(each.at("source")), size(each.at("target")));
        const std::vector<double> found{after.focal_x, after.focal_y, after.center_x, after.center_y};
        EXPECT(all_near(doubles(each.at("after")), found));
    }
}

TEST(resized_to_the_byte_as_in_python) {
    for (const Json& each : cases("resizes")) {
        const Picture picture{size(each.at("source")), bytes(each.at("pixels"))};
        const Picture resized = resized_to_cover(picture, size(each.at("target")));
        EXPECT_ABOUT(resized.pixels == bytes(each.at("resized")), picture.size.text());
    }
}

Preprocess rule_of(const Json& each) {
    const std::map<std::string, Mode> modes{{"fit", Mode::fit}, {"crop", Mode::crop}, {"pad", Mode::pad}};
    return {modes.at(each.at("mode").text()), static_cast<int>(each.at("patch").whole())};
}

TEST(framed_to_the_byte_as_in_python) {
    for (const Json& each : cases("framings")) {
        const Picture picture{size(each.at("source")), bytes(each.at("pixels"))};
        const Picture found = framed(picture, size(each.at("target")), rule_of(each));
        EXPECT_ABOUT(found.pixels == bytes(each.at("framed")), each.at("mode").text() + " of " + picture.size.text());
    }
}

TEST(framings_tell_where_the_pixels_went) {
    for (const Json& each : cases("framings")) {
        const Framing framing(size(each.at("source")), size(each.at("target")), rule_of(each));
        const auto [left, top, right, bottom] = framing.content;
        const std::vector<double> content{double(left), double(top), double(right), double(bottom)};
        EXPECT(content == doubles(each.at("content")));
        const std::vector<double> before = doubles(each.at("before"));
        const Intrinsics after = Intrinsics{before[0], before[1], before[2], before[3]}.framed(framing);
        const std::vector<double> lens{after.focal_x, after.focal_y, after.center_x, after.center_y};
        EXPECT(all_near(doubles(each.at("after")), lens));
        const std::vector<double> matrix = doubles(each.at("picture_from_input"));
        const std::vector<double> place{(3.5 - framing.left) / framing.scale_x, (7.25 - framing.top) / framing.scale_y};
        EXPECT(all_near({matrix[0] * 3.5 + matrix[2], matrix[4] * 7.25 + matrix[5]}, place));
    }
    EXPECT(refuses([] { Framing({1, 3000}, {28, 14}, {Mode::crop, 14}); }));
    EXPECT(refuses([] { Framing({1, 3000}, {28, 14}, {Mode::pad, 0}); }));
    EXPECT((Framing({1, 3000}, {28, 14}, {Mode::pad, 14}).content == FrameArea{7, 0, 21, 14}));
}

TEST(white_pixels_have_no_point) {
    const std::vector<bool> shown = shown_pixels({{1, 0, 2, 2}, {0, 1, 3, 2}}, {3, 2});
    EXPECT(shown == (std::vector<bool>{0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1}));
    std::vector<float> confidence(12);
    for (std::size_t index = 0; index < 12; ++index) confidence[index] = shown[index] ? 1 + float(index) : 99;
    const std::vector<bool> kept = confident_pixels({confidence}, 0.6, shown);
    EXPECT(kept == (std::vector<bool>{0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1}));
    EXPECT(refuses([&] { confident_pixels({confidence}, 0.5, std::vector<bool>(11, true)); }));
}

TEST(turned) {
    const std::map<std::string, Turn> turns{{"upright", Turn::upright},
                                            {"clockwise", Turn::clockwise},
                                            {"half", Turn::half},
                                            {"counterclockwise", Turn::counterclockwise}};
    for (const Json& each : cases("turns")) {
        const Picture picture{size(each.at("source")), bytes(each.at("pixels"))};
        EXPECT(turned(picture, turns.at(each.at("turn").text())).pixels == bytes(each.at("turned")));
    }
}

TEST(absurd_pictures_are_refused) {
    const Picture picture{{2, 1}, std::vector<std::uint8_t>(6)};
    EXPECT(refuses([&] { resized_to_cover(picture, {15, 14}); }));
    EXPECT(framed(picture, {32, 16}, {Mode::fit, 16}).size == FrameSize({32, 16}));
    EXPECT(refuses([&] { framed(picture, {28, 14}, {Mode::fit, 16}); }));
    EXPECT(refuses([&] { framed(picture, {28, 14}, {Mode::fit, 0}); }));
    EXPECT(refuses([&] { resized_to_cover(picture, {0, 0}); }));
    EXPECT(refuses([&] { resized_to_cover(picture, {32760, 32760}); }));
    EXPECT(refuses([&] { resized_to_cover(picture, {14 << 20, 14}); }));
    EXPECT(refuses([] { resized_to_cover({{2, 2}, std::vector<std::uint8_t>(11)}, {14, 14}); }));
    EXPECT(refuses([] { turned({{1 << 20, 1 << 20}, {}}, Turn::half); }));
}

TEST(planes_are_unit_values) {
    const Picture picture{{2, 1}, {0, 51, 102, 255, 204, 153}};
    std::vector<float> planes(6);
    put_planes(picture, planes.data());
    const std::vector<float> levels{0, 255, 51, 204, 102, 153};
    for (std::size_t index = 0; index < 6; ++index) EXPECT(planes[index] == levels[index] / 255.0f);
}

TEST(drift_is_that_of_the_report) {
    for (const Json& each : cases("drifts")) {
        const Json::Table found = drift_of(floats(each.at("values")), floats(each.at("reference"))).json().table();
        for (const auto& [key, expected] : each.at("drift").table()) {
            // Without a signal the exporter's report divides by 1, and Python's kit says 0.
            const bool is_silent = key == "max_rel" || key == "p99_rel";
            const std::vector<float> reference = floats(each.at("reference"));
            if (is_silent && std::all_of(reference.begin(), reference.end(), [](float value) { return value == 0; })) continue;
            EXPECT_ABOUT(near(expected.number(), found.at(key).number(), 1e-6), key);
        }
    }
    EXPECT(refuses([] { drift_of({}, {}); }));
    EXPECT(refuses([] { drift_of({1}, {1, 2}); }));
    EXPECT(refuses([] { drift_of({NAN}, {1}); }));
}

TEST(points_are_unprojected_as_in_python) {
    for (const Json& each : cases("unprojections")) {
        const std::vector<float> points = unproject(
            floats(each.at("depth")), cameras_of(each), size(each.at("size")),
            each.at("centers").text() == "half" ? PixelCenters::half : PixelCenters::integer);
        EXPECT(all_near(doubles(each.at("points")), points, 1e-6));
    }
    EXPECT(refuses([] { unproject(std::vector<float>(4), {}, {2, 2}); }));
    const std::vector<Camera> one = decode_poses(std::vector<float>(9, 1), {2, 2});
    EXPECT(refuses([&] { unproject({1, 2, 3, NAN}, one, {2, 2}); }));
    EXPECT(refuses([&] { unproject({}, one, {-1, -1}); }));
}

TEST(confident_pixels_are_those_of_python) {
    for (const Json& each : cases("confidences")) {
        std::vector<std::vector<float>> maps;
        for (const Json& map : each.at("maps").list()) maps.push_back(floats(map));
        const std::vector<bool> keep = confident_pixels(maps);
        const Json::List& expected = each.at("keep").list();
        EXPECT(keep.size() == expected.size());
        for (std::size_t index = 0; index < keep.size(); ++index) EXPECT(keep[index] == expected[index].boolean());
    }
    EXPECT(refuses([] { confident_pixels({}); }));
    EXPECT(refuses([] { confident_pixels({{1, 2}, {1}}); }));
    EXPECT(refuses([] { confident_pixels({{1, 2}}, 1.5); }));
    EXPECT(refuses([] { confident_pixels({{1, NAN}}); }));
}

TEST(latency_is_by_the_nearest_rank) {
    for (const Json& each : cases("latencies")) {
        Times times;
        for (const double sample : doubles(each.at("milliseconds"))) times.add(sample);
        EXPECT(json_text(times.quantiles()) == json_text(each.at("latency")));
    }
    EXPECT(Times().measured().is_null() && refuses([] { Times().at(0.5); }));
}

TEST(safetensors) {
    for (const Json& each : cases("safetensors")) {
        const auto read = [&] { return SafetensorsFile::of_bytes(decoded(each.at("file"))).tensor("t"); };
        if (each.find("values") == nullptr) {
            EXPECT_ABOUT(refuses([&] { read(); }), each.at("name").text());
            continue;
        }
        const Tensor tensor = read();
        EXPECT_ABOUT(tensor.values == floats(each.at("values")), each.at("name").text());
        EXPECT(tensor.shape == shape_of(each.at("shape")));
    }
    EXPECT(refuses([] { SafetensorsFile::open("/none"); }));
}

TEST(json_is_read_as_in_every_kit) {
    EXPECT(cases("json").size() > 80);
    for (const Json& each : cases("json")) {
        bool is_accepted = true;
        try {
            parse_json(decoded(each.at("text")));
        } catch (const JsonProblem& problem) {
            is_accepted = false;
            EXPECT(std::string(problem.what()).size() < 200);
        }
        EXPECT_ABOUT(is_accepted == each.at("accepted").boolean(), each.at("name").text());
    }
}
