// What the benchmark of the kit and that of an older kit have in common: the clock, and the data.
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
