import Foundation

/// From maps per pixel to points in space.
public enum PointCloud {
    /// The world point of every pixel.
    ///
    /// - Parameters:
    ///   - depth: Distances along the optical axis, frame after frame, row after row.
    ///   - cameras: One per frame.
    ///   - size: The size of a frame.
    /// - Returns: As many points, in the same order, in the coordinates of frame 0's camera.
    /// - Throws: `KitError` unless there is one depth per pixel of each frame.
    public static func unproject(depth: [Float], cameras: [Camera], size: FrameSize) throws -> [SIMD3<Float>] {
        guard !cameras.isEmpty, depth.count == cameras.count * size.pixelCount else {
            throw KitError(
                .wrongInput,
                "\(depth.count) depths for \(cameras.count) frames of \(size) pixels",
                remedy: "pass depth and cameras of one prediction, and its frame size"
            )
        }
        var points = [SIMD3<Float>]()
        points.reserveCapacity(depth.count)
        for camera in cameras {
            for row in 0..<size.height {
                for column in 0..<size.width {
                    let along = Double(depth[points.count])
                    let inCamera = camera.intrinsics.ray(column: column, row: row) * along
                    points.append(SIMD3<Float>(camera.extrinsics.toWorld(inCamera)))
                }
            }
        }
        return points
    }

    /// True for the pixels with the highest product of confidences, ties included.
    ///
    /// - Parameters:
    ///   - confidences: One or more maps of the same pixels, such as `depth_conf` and `points_conf`.
    ///   - share: How many to keep, from 0 to 1. The exporter's figures keep half.
    /// - Throws: `KitError` for no map, maps of different lengths, NaN or infinity.
    public static func confidentPixels(_ confidences: [[Float]], share: Double = 0.5) throws -> [Bool] {
        guard let first = confidences.first, !first.isEmpty, confidences.allSatisfy({ $0.count == first.count }),
            (0...1).contains(share)
        else {
            throw KitError(
                .wrongInput,
                "no mask from \(confidences.count) confidence maps and the share \(share)",
                remedy: "pass confidence maps of one prediction and a share from 0 to 1"
            )
        }
        guard confidences.allSatisfy({ $0.allSatisfy(\.isFinite) }) else {
            throw KitError(
                .unusableOutput,
                "NaN or infinity among the confidences",
                remedy: "run DeviceCheck; if it fails too, export again with the depth and point heads in fp32"
            )
        }
        var joint = [Double](repeating: 0, count: first.count)
        for map in confidences {
            for (index, confidence) in map.enumerated() {
                joint[index] += log(max(Double(confidence), 1e-12))
            }
        }
        let limit = Drift.percentile(1 - share, ofSorted: joint.sorted())
        return joint.map { $0 >= limit }
    }
}
