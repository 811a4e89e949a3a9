// Feeds damaged files to the readers of the kit: `Fuzz INPUTS [SEED]`.
//
// Each input is a good file with bytes changed, cut, doubled or exchanged. A reader may accept it or throw a
// `KitError`; another error or a trap is a fault. The seed of a run that failed is printed: the same seed gives the same inputs.
import Foundation
import VGGTEdgeCore

/// Small, and the same on every machine.
struct Generator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        let mixed = (state ^ (state >> 33)) &* 0xFF51_AFD7_ED55_8CCD
        return mixed ^ (mixed >> 33)
    }
}

/// Pieces that readers trip over.
let pieces = [
    "{", "}", "[", "]", "\"", ",", ":", "null", "true", "-", "0", "1e999", "9223372036854775807", "\\u0000", "\\ud800",
    "\u{301}", "/", "..", "\u{0}", "\"golden\"", "\"shape\"", "\"data_offsets\"", "//", "[[[[[[[[",
    "18446744073709551616",
].map { [UInt8]($0.utf8) }

func mutated(_ source: [UInt8], _ random: inout Generator) -> [UInt8] {
    var bytes = source
    for _ in 0..<Int.random(in: 1...6, using: &random) {
        let place = bytes.isEmpty ? 0 : Int.random(in: 0..<bytes.count, using: &random)
        let end = min(bytes.count, place + Int.random(in: 0...24, using: &random))
        switch Int.random(in: 0..<6, using: &random) {
        case 0 where !bytes.isEmpty: bytes[place] = UInt8.random(in: .min ... .max, using: &random)
        case 1 where !bytes.isEmpty: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        case 2: bytes.removeSubrange(place..<end)
        case 3: bytes.insert(contentsOf: bytes[place..<end], at: place)
        case 4: bytes.insert(contentsOf: pieces.randomElement(using: &random) ?? [], at: place)
        default: bytes.removeLast(min(bytes.count, Int.random(in: 0...8, using: &random)))
        }
    }
    return bytes
}

let header = """
    {"input/images":{"dtype":"F32","shape":[1,2,3,2,2],"data_offsets":[0,96]},\
    "simulation/depth":{"dtype":"F32","shape":[4],"data_offsets":[96,112]},"__metadata__":{"a":"b"}}
    """
let tensors = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { [UInt8]($0) } + [UInt8](header.utf8)
    + [UInt8](repeating: 1, count: 112)
let kit = [UInt8](
    """
    {"schema_version":1,"target":"ios-ar","plan_digest":"5","model":{"package":"vggt.mlpackage","sha256":"\
    \(String(repeating: "a", count: 64))","files":{"Data/x":"\(String(repeating: "b", count: 64))"},\
    "compute_units":"all","minimum_os":{"ios":17,"macos":14,"visionos":1}},"input":{"kind":"tensor","frames":2,\
    "height":14,"width":28},"outputs":[{"name":"pose_enc","shape":[1,2,9]}],\
    "blocks":[{"block":"a.0","scheme":"w4a16"}],"tolerances":{"backend_sqnr_db_min":30.0,"pose_degrees_max":null},"golden":{"file":"g","sha256":"\
    \(String(repeating: "c", count: 64))"}}
    """.utf8
)

/// Numbers of the size that layouts and pictures are asked for, sane and absurd.
func number(_ random: inout Generator) -> Int {
    let choices = [0, 1, 2, 3, 14, 28, -1, 255, 1 << 15, 1 << 31, 1 << 40, .max, .min, .max - 1]
    return choices.randomElement(using: &random) ?? 0
}

/// The picture files of VGGT_EDGE_PICTURES.
let pictures: [[UInt8]] = {
    let folder = URL(fileURLWithPath: ProcessInfo.processInfo.environment["VGGT_EDGE_PICTURES"] ?? ".")
    let names = ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).sorted()
    let kinds = [".jpg", ".png", ".webp"]
    return names.filter { name in kinds.contains { name.hasSuffix($0) } }.compactMap { name in
        (try? Data(contentsOf: folder.appendingPathComponent(name))).map { [UInt8]($0) }
    }
}()

/// One input for one reader. Throws what the reader throws.
let readers: [(name: String, read: (inout Generator) throws -> Void)] = [
    ("kit.json", { random in _ = try Kit(json: Data(mutated(kit, &random))) }),
    ("safetensors", { random in
        let file = try SafetensorsFile(data: Data(mutated(tensors, &random)))
        for name in file.names { _ = try file.tensor(name) }
    }),
    ("picture files", { random in
        let file = Data(mutated(pictures.randomElement(using: &random) ?? [], &random))
        do {
            // As if nothing were packed: the decompressor is the system's.
            _ = try PictureHeader.orientation(of: file) { parts, use in for part in parts where !use(part) { return } }
        } catch let problem as PictureProblem {
            throw KitError(.wrongInput, problem.reason, remedy: problem.remedy)
        }
    }),
    ("pictures", { random in
        let bytes = [UInt8](repeating: 200, count: Int.random(in: 0...4096, using: &random))
        let size = FrameSize(width: number(&random), height: number(&random))
        let (row, target) = (number(&random), FrameSize(width: number(&random), height: 14))
        try bytes.withUnsafeBytes { bytes in
            let plane = BytePlane(bytes: bytes, bytesPerRow: row)
            let encoding = YCbCrEncoding(matrix: .bt601, levels: .video)
            let image = random.next() % 2 == 0
                ? try RGBImage(bytes: bytes, size: size, bytesPerRow: row, order: .bgra)
                : try RGBImage(luma: plane, chroma: plane, size: size, encoding: encoding)
            _ = try image.turned(.clockwise).resized(toCover: target)
        }
    }),
    ("layouts", { random in
        let sides = Int.random(in: 0...5, using: &random)
        let shape = (0..<sides).map { _ in number(&random) }
        let layout = try StridedLayout(shape: shape, strides: (0..<sides).map { _ in number(&random) })
        _ = try [Float](repeating: 1, count: 64).withUnsafeBufferPointer { try layout.gather($0) }
    }),
    ("points", { random in
        let values = (0..<Int.random(in: 0...40, using: &random)).map { _ in
            Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))
        }
        let size = FrameSize(width: number(&random), height: number(&random))
        let cameras = try PoseEncoding.cameras([1, 2, 3, 0.1, 0.2, 0.3, 1, 1, 1], size: size)
        _ = try PointCloud.confidentPixels([values], share: Double(number(&random)))
        _ = try Drift(of: values, from: values.map { $0 + 1 })
        _ = try PointCloud.unproject(depth: values, cameras: cameras, size: size)
    }),
]

let arguments = CommandLine.arguments.dropFirst().compactMap { UInt64($0) }
let (inputs, seed) = (arguments.first ?? 100_000, arguments.dropFirst().first ?? 1)
for (name, read) in readers {
    var (accepted, refused) = (0, 0)
    for index in 0..<inputs {
        var random = Generator(state: seed &* 1_000_003 &+ index)
        do {
            try read(&random)
            accepted += 1
        } catch is KitError {
            refused += 1
        } catch {
            print("\(name): input \(index) of seed \(seed) gave \(error), which is no KitError")
            exit(1)
        }
    }
    print("\(name): \(inputs) inputs, \(accepted) accepted, \(refused) refused")
}
