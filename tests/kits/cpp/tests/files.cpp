// kit.json, golden tensors, digests and stored engines, each also where it is damaged or planted.

#include <sys/stat.h>
#include <unistd.h>

#include "testing.hpp"
#include "vggt_edge/audit.hpp"
#include "vggt_edge/engine_store.hpp"
#include "vggt_edge/kit.hpp"
#include "vggt_edge/sha256.hpp"

using namespace vggt_edge;
using namespace testing;
namespace fs = std::filesystem;

namespace {

fs::path good() { return prepared() / "good"; }

std::string kit_text() { return read_file(good() / "kit.json", 1 << 20); }

/// The kit with one part of its text exchanged.
std::string changed(const std::string& from, const std::string& to) {
    std::string text = kit_text();
    const std::size_t place = text.find(from);
    EXPECT_ABOUT(place != std::string::npos, from);
    return place == std::string::npos ? text : text.replace(place, from.size(), to);
}

/// A fresh folder.
fs::path folder(const std::string& name) {
    const fs::path path = prepared() / "scratch" / name;
    fs::remove_all(path);
    fs::create_directories(path.parent_path());
    return path;
}

}  // namespace

TEST(digests_are_those_of_the_standards) {
    EXPECT(sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT(sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT(sha256_of(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    // RFC 4231, cases 2 and 6: a short key, and one that is longer than a block.
    EXPECT(hmac_sha256("Jefe", "what do ya want for nothing?") ==
           "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    EXPECT(hmac_sha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First") ==
           "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(pieces_have_the_digest_of_the_whole) {
    const std::string text(300, 'x');
    for (std::size_t cut = 0; cut < text.size(); cut += 7) {
        EXPECT(hex(Sha256().add(text.substr(0, cut)).add(text.substr(cut)).digest()) == sha256_of(text));
    }
}

TEST(json_that_is_written_is_read) {
    const Json value = Json::Table{{"a", Json::List{1, 2.5, 1e300, 5.0, nullptr, true, -0.1}}, {"b\"\\\n\x01", "é😀"}, {"c", Json::Table{}}};
    const std::string text = json_text(value);
    EXPECT(json_text(parse_json(text)) == text);
    EXPECT(text.find("5.0") != std::string::npos);
    EXPECT(json_text("\xff?") == "\"\xEF\xBF\xBD?\"\n");
    bool is_refused = false;
    try {
        json_text(NAN);
    } catch (const JsonProblem&) {
        is_refused = true;
    }
    EXPECT(is_refused);
}

TEST(what_python_writes_is_read) {
    const Kit kit = load_kit(good());
    EXPECT(kit.target == "jetson-orin" && kit.model == "model.onnx" && kit.files.size() == 3);
    EXPECT(kit.outputs.size() == 3 && kit.outputs[0].first == "pose_enc" && kit.outputs[1].second == Shape({1, 2, 14, 28}));
    EXPECT(kit.tolerances.sqnr_db_min == 25.0 && kit.tolerances.pose_degrees_max == 5.0);
    EXPECT(kit.preprocess.mode == Mode::pad && kit.preprocess.patch == 7);
    EXPECT(kit.pixel_centers == PixelCenters::integer && read_kit(good()).target == kit.target);
    const Golden golden = load_golden(good(), kit);
    EXPECT(golden.inputs.at("images").shape == Shape({1, 2, 3, 14, 28}));
    EXPECT(golden.expected.size() == 3 && golden.expected[2].first == "depth_conf" && golden.fp32.size() == 3);
}

TEST(earlier_kits_fit_pictures) {
    const Kit kit = parse_kit(changed("\"preprocess\"", "\"x\""));
    EXPECT(kit.preprocess.mode == Mode::fit && kit.preprocess.patch == 14);
    EXPECT(parse_kit(changed("\"pixel_centers\"", "\"x\"")).pixel_centers == PixelCenters::half);
    EXPECT(parse_kit(changed("\"pad\"", "\"crop\"")).preprocess.mode == Mode::crop);
}

TEST(versions_are_compared_by_their_numbers) {
    EXPECT(version_of("10.3.0.26-1") == std::vector<int>({10, 3, 0, 26}) && version_of("dev").empty());
    Kit kit = load_kit(good());
    const std::vector<std::pair<std::string, std::vector<int>>> cases{
        {">=10.8", {10, 8}}, {">=10.3, >=10.13,<11", {10, 13}}, {"<11", {}}, {"", {}}, {">=99999999999", {}}, {",,", {}}};
    for (const auto& [text, wanted] : cases) {
        kit.needs["tensorrt"] = text;
        EXPECT_ABOUT(needed_version(kit, "tensorrt") == wanted, text);
    }
    EXPECT(needed_version(kit, "cuda").empty() && version_of("10.3.0.26") < version_of("10.13"));
}

TEST(hostile_kits_are_refused) {
    const std::vector<std::string> texts{
        changed("\"schema_version\": 1", "\"schema_version\": 2"), changed("\"schema_version\": 1", "\"schema_version\": true"),
        changed("\"schema_version\": 1", "\"schema_version\": 1, \"schema_version\": 1"),
        changed("\"target\"", "\"goal\""), changed("\"model.onnx\"", "\"other.onnx\""),
        changed("\"golden.safetensors\"", "\"../golden.safetensors\""), changed("\"golden.safetensors\"", "\"a\\u0000b\""),
        changed("\"sqnr_db_min\": 25.0", "\"sqnr_db_min\": 0"), changed("\"sqnr_db_min\": 25.0", "\"sqnr_db_min\": 201"),
        changed("\"sqnr_db_min\": 25.0", "\"sqnr_db_min\": \"25\""), changed("\"sqnr_db_min\"", "\"sqnr_db\""),
        changed("\"pose_degrees_max\": 5.0", "\"pose_degrees_max\": -1"), changed("\"packed\": 10", "\"packed\": -10"),
        changed("\"computed\": \"w8a8\"", "\"computed\": \"w2\""), changed("\"name\": \"depth\"", "\"name\": \"pose_enc\""),
        changed("\"pad\"", "\"stretch\""), changed("\"patch\": 7", "\"patch\": 0"), changed("\"integer\"", "\"third\""),
        changed("\"weight_bytes\"", "\"weights\""), kit_text() + "{}", "", "[]", "nothing", std::string(200000, '['),
    };
    for (const std::string& text : texts) EXPECT_ABOUT(refuses([&] { parse_kit(text); }), text.substr(0, 60));
}

TEST(damaged_files_are_named) {
    const fs::path copy = folder("damaged");
    fs::copy(good(), copy);
    load_kit(copy);
    write_file(copy / "model.onnx.data", "unlisted");
    EXPECT(refuses([&] { load_kit(copy); }));
    write_file(copy / "model.onnx.data", read_file(good() / "model.onnx.data", 1 << 20));
    write_file(copy / "model.onnx", "another graph");
    EXPECT(refuses([&] { load_kit(copy); }));
    EXPECT(refuses([&] { load_kit(folder("missing")); }));
}

TEST(golden_tensors_of_another_kit_are_refused) {
    Kit kit = load_kit(good());
    const auto read = [&] { load_golden(good(), kit); };
    kit.outputs[1].first = "points";
    EXPECT(refuses(read));
    kit.outputs[1] = {"depth", {1, 2, 28, 14}};
    EXPECT(refuses(read));
    kit.files.erase("golden.safetensors");
    EXPECT(refuses(read));
}

TEST(layers_are_read_as_in_python) {
    const Json all = parse_json(read_file(prepared() / "layers.json", 1 << 24));
    EXPECT(all.list().size() > 200);
    for (const Json& each : all.list()) {
        const std::optional<std::string> found = layer_precision(each.at("layer"));
        const Json& wanted = each.at("precision");
        EXPECT_ABOUT(wanted.is_null() ? !found : found == wanted.text(), json_text(each));
        Json::List nodes;
        for (const std::string& node : onnx_nodes(each.at("layer"))) nodes.push_back(node);
        EXPECT_ABOUT(json_text(nodes) == json_text(each.at("nodes")), json_text(each));
    }
    EXPECT(refuses([] { inspector_layers("{}"); }));
    EXPECT(refuses([] { inspector_layers("{\"Layers\": 1}"); }));
    EXPECT(inspector_layers("{\"Layers\": [\"a\"], \"Layers\": [\"b\"]}").front().text() == "b");
}

TEST(an_engine_comes_back_only_as_it_was_stored) {
    const fs::path path = folder("store");
    const Kit kit = load_kit(good());
    EXPECT(!EngineStore(path).load(kit, "10.3 orin"));
    EngineStore(path).save(kit, "10.3 orin", "engine");
    const EngineStore store(path);
    EXPECT(store.load(kit, "10.3 orin") == "engine");
    EXPECT(!store.load(kit, "10.4 orin"));
    Kit other = kit;
    other.files["model.onnx.data"] = std::string(64, '0');
    EXPECT(!store.load(other, "10.3 orin"));
}

TEST(a_planted_engine_is_not_used) {
    const fs::path path = folder("planted"), foreign = folder("foreign");
    const Kit kit = load_kit(good());
    const EngineStore store(path);
    store.save(kit, "10.3", "engine");
    EngineStore(foreign).save(kit, "10.3", "planted");
    for (const auto& entry : fs::directory_iterator(foreign)) {
        if (entry.path().extension() == ".key") continue;
        fs::copy(entry.path(), path / entry.path().filename(), fs::copy_options::overwrite_existing);
    }
    EXPECT(!store.load(kit, "10.3"));  // engine and record belong together, but another key signed them
    store.save(kit, "10.3", "engine");
    for (const auto& entry : fs::directory_iterator(path)) {
        if (entry.path().extension() == ".engine") write_file(entry.path(), "changed");
    }
    EXPECT(!store.load(kit, "10.3"));
}

TEST(a_store_that_others_can_open_is_refused) {
    const fs::path path = folder("open");
    EngineStore{path};
    ::chmod((path / "engine.key").c_str(), 0644);
    EXPECT(refuses([&] { EngineStore{path}; }));
    ::chmod((path / "engine.key").c_str(), 0600);
    ::chmod(path.c_str(), 0777);
    EXPECT(refuses([&] { EngineStore{path}; }));
    ::chmod(path.c_str(), 0700);
    write_file(path / "engine.key", "short", 0600);
    EXPECT(refuses([&] { EngineStore{path}; }));
    const fs::path link = folder("link");
    fs::create_symlink(path, link);
    EXPECT(refuses([&] { EngineStore{link}; }));
}

TEST(files_are_written_whole_or_not) {
    const fs::path path = folder("written");
    fs::create_directories(path);
    write_file(path / "target", "kept");
    fs::create_symlink(path / "target", path / "result.json.part");
    write_file(path / "result.json", "new");
    EXPECT(read_file(path / "target", 9) == "kept" && read_file(path / "result.json", 9) == "new");
    EXPECT(refuses([&] { write_file(path / "none" / "a", "x"); }));
    EXPECT(refuses([&] { read_file(path / "result.json", 2); }));
}
