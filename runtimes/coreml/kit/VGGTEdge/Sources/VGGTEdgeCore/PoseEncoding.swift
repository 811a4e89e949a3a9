import Foundation

/// The output `pose_enc`: nine numbers per frame, `absT_quaR_FoV`.
///
/// They are the translation (3), the rotation as a quaternion x, y, z, w (4), and the vertical and the horizontal field
/// of view in radians (2).
public enum PoseEncoding {
    /// Numbers per frame.
    public static let length = 9

    /// A field of view of 0 (the encoding ends in a ReLU) or of 180 degrees has no finite camera.
    static let fieldOfViewLimits = 1e-3...(Double.pi - 1e-3)

    /// The cameras of all frames.
    ///
    /// - Parameters:
    ///   - values: Nine numbers per frame, frame after frame.
    ///   - size: The frames as the model sees them.
    /// - Throws: `KitError` for another number of values, NaN or infinity, or a quaternion of length 0.
    public static func cameras(_ values: [Float], size: FrameSize) throws -> [Camera] {
        guard !values.isEmpty, values.count % length == 0 else {
            throw KitError(
                .wrongInput,
                "a pose encoding of \(values.count) numbers",
                remedy: "pass the whole output pose_enc, \(length) numbers per frame"
            )
        }
        return try stride(from: 0, to: values.count, by: length).map { start in
            try camera(values[start..<(start + length)].map { Double($0) }, size: size)
        }
    }

    private static func camera(_ values: [Double], size: FrameSize) throws -> Camera {
        guard values.allSatisfy(\.isFinite) else {
            throw KitError(
                .unusableOutput,
                "a pose encoding holds NaN or infinity",
                remedy: "run DeviceCheck; if it fails too, export again with more blocks in fp32"
            )
        }
        let extrinsics = Extrinsics(
            rotation: try rotation(ofQuaternion: SIMD4(values[3], values[4], values[5], values[6])),
            translation: SIMD3(values[0], values[1], values[2])
        )
        let intrinsics = Intrinsics(
            verticalFieldOfView: clamped(values[7]),
            horizontalFieldOfView: clamped(values[8]),
            size: size
        )
        return Camera(extrinsics: extrinsics, intrinsics: intrinsics)
    }

    private static func clamped(_ angle: Double) -> Double {
        min(max(angle, fieldOfViewLimits.lowerBound), fieldOfViewLimits.upperBound)
    }

    /// The rotation of a quaternion (x, y, z, w) of any length but 0.
    static func rotation(ofQuaternion quaternion: SIMD4<Double>) throws -> Matrix3 {
        let length = (quaternion * quaternion).sum().squareRoot()
        guard length >= 1e-12 else {
            throw KitError(
                .unusableOutput,
                "a quaternion of length 0 is no rotation",
                remedy: "run DeviceCheck; if it fails too, export again with the camera head in fp32"
            )
        }
        let unit = quaternion / length
        let (x, y, z, w) = (unit.x, unit.y, unit.z, unit.w)
        return Matrix3(
            SIMD3(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            SIMD3(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            SIMD3(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y))
        )
    }

    /// The encodings with each quaternion on the reference's side: q and -q are one rotation, not drift.
    ///
    /// - Throws: `KitError` unless both hold the same whole number of encodings.
    public static func withQuaternionSigns(of reference: [Float], _ values: [Float]) throws -> [Float] {
        guard values.count == reference.count, values.count % length == 0 else {
            throw KitError(
                .wrongInput,
                "pose encodings of \(values.count) and \(reference.count) numbers",
                remedy: "compare two outputs pose_enc of the same frames"
            )
        }
        var result = values
        for start in stride(from: 0, to: values.count, by: length) {
            let quaternion = (start + 3)..<(start + 7)
            let agreement = quaternion.reduce(0.0) { $0 + Double(values[$1]) * Double(reference[$1]) }
            guard agreement < 0 else { continue }
            for index in quaternion { result[index] = -values[index] }
        }
        return result
    }
}
