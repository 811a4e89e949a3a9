import Foundation

/// How far apart the cameras of two pose encodings are, as the exporter's report measures it: over all pairs of frames,
/// the largest angle between their relative rotations, and between the directions of their relative translations.
public struct PoseErrors: Encodable, Equatable, Sendable {
    /// The largest angle between relative rotations, in degrees.
    public let rotationDegrees: Double
    /// The largest angle between directions of relative translations, in degrees, at most 90.
    public let translationDegrees: Double

    /// Cameras nearer to each other than this share of the longest baseline stand in the same place.
    private static let standing = 1e-6

    enum CodingKeys: String, CodingKey {
        case rotationDegrees = "rotation_degrees"
        case translationDegrees = "translation_degrees"
    }

    /// - Parameters:
    ///   - cameras: What is judged.
    ///   - reference: What it should be.
    /// - Throws: `KitError` unless both hold the same number of cameras, at least two.
    public init(of cameras: [Extrinsics], from reference: [Extrinsics]) throws {
        guard cameras.count == reference.count, cameras.count >= 2 else {
            throw KitError(
                .wrongInput,
                "relative poses of \(cameras.count) and \(reference.count) cameras",
                remedy: "compare two predictions of the same frames, at least two"
            )
        }
        let (ours, truth) = (Self.relativePoses(of: cameras), Self.relativePoses(of: reference))
        let (ourStanding, trueStanding) = (Self.standingBaseline(of: ours), Self.standingBaseline(of: truth))
        var (rotation, translation) = (0.0, 0.0)
        for (moved, wanted) in zip(ours, truth) {
            rotation = max(rotation, Self.angle(wanted.rotation, moved.rotation))
            guard Self.length(wanted.translation) > trueStanding else { continue }
            let isStanding = Self.length(moved.translation) <= ourStanding
            let angle = Self.angle(wanted.translation, moved.translation)
            translation = max(translation, isStanding ? 90 : min(angle, 180 - angle))
        }
        (rotationDegrees, translationDegrees) = (rotation, translation)
    }

    /// The pose of each later camera in the coordinates of each earlier one.
    private static func relativePoses(of cameras: [Extrinsics]) -> [Extrinsics] {
        cameras.indices.flatMap { first in
            cameras[(first + 1)...].map { second in
                let rotation = second.rotation * cameras[first].rotation.transposed
                return Extrinsics(
                    rotation: rotation, translation: second.translation - rotation * cameras[first].translation
                )
            }
        }
    }

    private static func standingBaseline(of poses: [Extrinsics]) -> Double {
        standing * max(poses.map { length($0.translation) }.max() ?? 0, standing)
    }

    private static func length(_ vector: SIMD3<Double>) -> Double { (vector * vector).sum().squareRoot() }

    /// Exact also near 0 and 180 degrees, where the arc cosine is not.
    private static func angle(_ first: SIMD3<Double>, _ second: SIMD3<Double>) -> Double {
        let cross = SIMD3(
            first.y * second.z - first.z * second.y,
            first.z * second.x - first.x * second.z,
            first.x * second.y - first.y * second.x
        )
        return atan2(length(cross), (first * second).sum()) * 180 / .pi
    }

    /// The angle of `first^T second`.
    private static func angle(_ first: Matrix3, _ second: Matrix3) -> Double {
        let delta = first.transposed * second
        let axis = SIMD3(
            delta.row2.y - delta.row1.z, delta.row0.z - delta.row2.x, delta.row1.x - delta.row0.y
        )
        return atan2(length(axis), delta.row0.x + delta.row1.y + delta.row2.z - 1) * 180 / .pi
    }
}
