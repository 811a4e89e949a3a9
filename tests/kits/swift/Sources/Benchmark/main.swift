// Times of the kit on this machine: `Benchmark`, built with `-c release`. One line per figure: the best of several runs,
// in milliseconds of the processor, since the machine may be shared.
import CoreML
import CoreVideo
import Foundation
import VGGTEdge
import VGGTEdgeCore

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
    report("prepare turned", try best { _ = try frame.image(turn: .clockwise, to: ModelFrame(target)) })
    report("prepare upright", try best { _ = try frame.image(turn: .upright, to: ModelFrame(target)) })
    report("prepare turned, Display P3", try best { _ = try wide.image(turn: .clockwise, to: ModelFrame(target)) })
    report("convert and turn, whole", try best { _ = try frame.image(turn: .clockwise, to: nil) })
    let turned = try frame.image(turn: .clockwise, to: nil)
    report("resize", try best { _ = try turned.resized(toCover: target) })
    let whole = try turned.resized(toCover: target)
    let part = try frame.image(turn: .clockwise, to: ModelFrame(target))
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
