import Foundation

/// From maps per pixel to points in space.
public enum PointCloud {
    /// The world point of every pixel.
    ///
    /// - Parameters:
    ///   - depth: Distances along the optical axis, frame after frame, row after row.
    ///   - cameras: One per frame.
    ///   - size: The size of a frame.
    ///   - centers: Where the centre of the first pixel lies; the kit's `pixelCenters`.
    /// - Returns: As many points, in the same order, in the coordinates of frame 0's camera.
    /// - Throws: `KitError` unless there is one finite depth per pixel of each frame.
    public static func unproject(
        depth: [Float], cameras: [Camera], size: FrameSize, centers: PixelCenters = .half
    ) throws -> [SIMD3<Float>] {
        let pixels = size.pixelCount
        guard !cameras.isEmpty, pixels > 0, depth.count % pixels == 0, depth.count / pixels == cameras.count else {
            throw KitError(
                .wrongInput,
                "\(depth.count) depths for \(cameras.count) frames of \(size) pixels",
                remedy: "pass depth and cameras of one prediction, and its frame size"
            )
        }
        guard depth.allSatisfy(\.isFinite) else { throw notFinite("depths") }
        return [SIMD3<Float>](unsafeUninitializedCapacity: depth.count) { points, count in
            depth.withUnsafeBufferPointer { depth in
                for (frame, camera) in cameras.enumerated() {
                    unproject(depth, from: frame * pixels, camera, size, centers, to: points)
                }
            }
            count = depth.count
        }
    }

    /// One frame. The world point is `rotation^T * (ray * depth - translation)`, in the order of `Extrinsics.toWorld`.
    private static func unproject(
        _ depth: UnsafeBufferPointer<Float>,
        from start: Int,
        _ camera: Camera,
        _ size: FrameSize,
        _ centers: PixelCenters,
        to points: UnsafeMutableBufferPointer<SIMD3<Float>>
    ) {
        let (turn, shift) = (camera.extrinsics.rotation.transposed, camera.extrinsics.translation)
        let across = (0..<size.width).map { camera.intrinsics.ray(column: $0, row: 0, centers: centers).x }
        for row in 0..<size.height {
            let down = camera.intrinsics.ray(column: 0, row: row, centers: centers).y
            for column in 0..<size.width {
                let index = start + row * size.width + column
                let along = Double(depth[index])
                let (x, y, z) = (across[column] * along - shift.x, down * along - shift.y, along - shift.z)
                points.initializeElement(
                    at: index,
                    to: SIMD3(
                        Float(turn.row0.x * x + turn.row0.y * y + turn.row0.z * z),
                        Float(turn.row1.x * x + turn.row1.y * y + turn.row1.z * z),
                        Float(turn.row2.x * x + turn.row2.y * y + turn.row2.z * z)
                    )
                )
            }
        }
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
        guard confidences.allSatisfy({ $0.allSatisfy(\.isFinite) }) else { throw notFinite("confidences") }
        var joint = [Double](repeating: 0, count: first.count)
        for map in confidences {
            for (index, confidence) in map.enumerated() {
                joint[index] += log(max(Double(confidence), 1e-12))
            }
        }
        var ranked = joint
        let limit = ranked.withUnsafeMutableBufferPointer { Selection.percentile(1 - share, of: $0) }
        return joint.map { $0 >= limit }
    }

    /// True for the pixels of all frames that show the picture, and are not white because `crop` or `pad` filled up.
    ///
    /// - Parameters:
    ///   - contents: `Framing.content` of each frame.
    ///   - size: The size of a frame.
    public static func shownPixels(_ contents: [FrameArea], size: FrameSize) -> [Bool] {
        contents.flatMap { content in
            (0..<size.height).flatMap { row in
                (0..<size.width).map { content.contains(column: $0, row: row) }
            }
        }
    }

    private static func notFinite(_ what: String) -> KitError {
        KitError(
            .unusableOutput,
            "NaN or infinity among the \(what)",
            remedy: "run DeviceCheck; if it fails too, export again with the depth and point heads in fp32"
        )
    }
}
