// Times of the kit on this machine: `Benchmark`, built with `-c release`. One line per figure: the best of several runs,
// in milliseconds of the processor, since the machine may be shared.
import CoreML
import CoreVideo
import Foundation
import VGGTEdge
import VGGTEdgeCore

func best(of runs: Int = 15, _ body: () throws -> Void) rethrows -> Double {
    var least = Double.infinity
    for _ in 0..<runs {
        let start = processorMilliseconds()
        try body()
        least = min(least, processorMilliseconds() - start)
    }
    return least
}

func processorMilliseconds() -> Double {
    var used = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used)
    return Double(used.tv_sec) * 1e3 + Double(used.tv_nsec) / 1e6
}

func report(_ name: String, _ milliseconds: Double) { print("\(name)\t\((milliseconds * 100).rounded() / 100)") }

func random(_ count: Int) -> [Float] {
    var state: UInt64 = 1
    return (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Float(state >> 40) / Float(1 << 24) + 0.5
    }
}

let camera = FrameSize(width: 1920, height: 1440)
let target = FrameSize(width: 518, height: 392)
let luma = (0..<camera.pixelCount).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) }
let chroma = (0..<(camera.pixelCount / 2)).map { UInt8(truncatingIfNeeded: $0 &* 40_503 >> 7) }
let encoding = YCbCrEncoding(matrix: .bt601, levels: .full)

func planes<Value>(_ body: (PlanarPixels) throws -> Value) throws -> Value {
    try luma.withUnsafeBytes { luma in
        try chroma.withUnsafeBytes { chroma in
            try body(
                PlanarPixels(
                    luma: BytePlane(bytes: luma, bytesPerRow: camera.width),
                    chroma: BytePlane(bytes: chroma, bytesPerRow: camera.width),
                    size: camera,
                    area: PixelArea(of: camera),
                    encoding: encoding
                )
            )
        }
    }
}

try planes { source in
    let frame = FrameInMemory(.planar(source), space: .sRGB)
    let wide = FrameInMemory(.planar(source), space: .displayP3)
    report("prepare turned", try best { _ = try frame.image(turn: .clockwise, toCover: target) })
    report("prepare upright", try best { _ = try frame.image(turn: .upright, toCover: target) })
    report("prepare turned, Display P3", try best { _ = try wide.image(turn: .clockwise, toCover: target) })
    report("convert and turn, whole", try best { _ = try frame.image(turn: .clockwise, toCover: nil) })
    let turned = try frame.image(turn: .clockwise, toCover: nil)
    report("resize", try best { _ = try turned.resized(toCover: target) })
    let whole = try turned.resized(toCover: target)
    let part = try frame.image(turn: .clockwise, toCover: target)
    precondition(part == whole, "not the same bytes")
}

let count = 8 * target.pixelCount
let (values, reference) = (random(count * 3), random(count * 3 + 1))
let shifted = Array(reference.dropLast())
report("Drift of 4.9 million", try best(of: 5) { _ = try Drift(of: values, from: shifted) })
let confidence = Array(values.prefix(count))
report("confident pixels of 1.6 million", try best(of: 5) { _ = try PointCloud.confidentPixels([confidence]) })
let encodings: [Float] = (0..<8).flatMap { (frame: Int) -> [Float] in [Float(frame), 0, 0, 0.1, 0.2, 0.1, 1, 1, 1.2] }
let cameras = try PoseEncoding.cameras(encodings, size: target)
report(
    "unproject 8 x 392 x 518",
    try best(of: 5) { _ = try PointCloud.unproject(depth: confidence, cameras: cameras, size: target) }
)
let layout = try StridedLayout(shape: [1, 8, 392, 518], strides: [8 * 392 * 544, 392 * 544, 544, 1])
let memory = [Float](repeating: 1, count: layout.extent)
try memory.withUnsafeBufferPointer { memory in
    report("padded output 8 x 392 x 518", try best(of: 5) { _ = try layout.gather(memory) })
}
