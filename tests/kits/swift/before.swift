// The same figures as `Benchmark` for a kit as it was before frames were prepared in one go; see benchmark.py --before.
import Foundation
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

func frame() throws -> RGBImage {
    try luma.withUnsafeBytes { luma in
        try chroma.withUnsafeBytes { chroma in
            try RGBImage(
                luma: BytePlane(bytes: luma, bytesPerRow: camera.width),
                chroma: BytePlane(bytes: chroma, bytesPerRow: camera.width),
                size: camera,
                encoding: YCbCrEncoding(matrix: .bt601, levels: .full)
            )
        }
    }
}

report("prepare turned", try best { _ = try frame().turned(.clockwise).resized(toCover: target) })
report("prepare upright", try best { _ = try frame().resized(toCover: target) })
let count = 8 * target.pixelCount
let (values, reference) = (random(count * 3), Array(random(count * 3 + 1).dropLast()))
report("Drift of 4.9 million", try best(of: 5) { _ = try Drift(of: values, from: reference) })
let confidence = Array(values.prefix(count))
report("confident pixels of 1.6 million", try best(of: 5) { _ = try PointCloud.confidentPixels([confidence]) })
let layout = try StridedLayout(shape: [1, 8, 392, 518], strides: [8 * 392 * 544, 392 * 544, 544, 1])
let memory = [Float](repeating: 1, count: 8 * 392 * 544)
try memory.withUnsafeBufferPointer { memory in
    report("padded output 8 x 392 x 518", try best(of: 5) { _ = try layout.gather(memory) })
}
