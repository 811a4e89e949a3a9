// The same figures as `Benchmark` for a kit as it was before frames were prepared in one go; see benchmark.py --before.
import Foundation
import VGGTEdgeCore

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
